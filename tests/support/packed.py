"""Weights for runs whose saves pack, and what such a save made of them."""

from __future__ import annotations

import random
from array import array
from functools import cache
from pathlib import Path

from ckptsync.options import MIB
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.manifest import FileEntry, Manifest
from ckptsync.verbs.save import Saved

PARTS = 6
SIZE = 5 * MIB + 7


@cache
def weights(size: int) -> bytes:
    """Floats, of which each MiB is another."""
    dice = random.Random(1)
    some = array("f", [dice.gauss(0, 0.02) for _ in range(MIB // 4)]).tobytes()
    return b"".join(some[4 * number :] + some[: 4 * number] for number in range(-(-size // MIB)))[:size]


def write_weights(file: Path, size: int = SIZE) -> None:
    """Make a file of weights, `PARTS` parts of a MiB unless told otherwise."""
    file.write_bytes(weights(size))


def manifest_of(run: Run, saved: Saved) -> Manifest:
    snapshot = layout.parse_snapshot_id(saved.snapshot)
    assert snapshot is not None
    return run.catalog.get(snapshot)


def model(run: Run, saved: Saved) -> FileEntry:
    return {entry.path: entry for entry in manifest_of(run, saved).files}["model.bin"]
