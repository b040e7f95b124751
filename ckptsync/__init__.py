"""Checkpoints to S3 and Google Cloud Storage and back: committed or absent, resumed after a kill, verified before use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from ckptsync.api import history, latest, restore, save
    from ckptsync.errors import (
        CkptsyncError,
        ConfigError,
        FencedError,
        IncompleteError,
        IntegrityError,
        NoSnapshotError,
        StoreError,
    )
    from ckptsync.manager import CheckpointManager
    from ckptsync.options import Config
    from ckptsync.policy import BestN, EveryNSeconds, EveryNSteps, LatestN, Within
    from ckptsync.readiness.marker import ready
    from ckptsync.verbs.ranks import Rank

__all__ = [
    "BestN",
    "CheckpointManager",
    "CkptsyncError",
    "Config",
    "ConfigError",
    "EveryNSeconds",
    "EveryNSteps",
    "FencedError",
    "IncompleteError",
    "IntegrityError",
    "LatestN",
    "NoSnapshotError",
    "Rank",
    "StoreError",
    "Within",
    "history",
    "latest",
    "ready",
    "restore",
    "save",
]

_HOMES = {
    "ckptsync.api": ("history", "latest", "restore", "save"),
    "ckptsync.options": ("Config",),
    "ckptsync.errors": (
        "CkptsyncError",
        "ConfigError",
        "FencedError",
        "IncompleteError",
        "IntegrityError",
        "NoSnapshotError",
        "StoreError",
    ),
    "ckptsync.manager": ("CheckpointManager",),
    "ckptsync.policy": ("BestN", "EveryNSeconds", "EveryNSteps", "LatestN", "Within"),
    "ckptsync.readiness.marker": ("ready",),
    "ckptsync.verbs.ranks": ("Rank",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: a training job pays for nothing it does not touch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'ckptsync' has no attribute {name!r}")
    value: object = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted(__all__)
