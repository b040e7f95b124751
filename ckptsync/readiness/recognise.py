"""One look at a directory: which checkpoints in it are whole, and why others are not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ckptsync.errors import ConfigError
from ckptsync.readiness import torch
from ckptsync.readiness.base import Findings, Folder, Ready
from ckptsync.readiness.contents import Contents
from ckptsync.readiness.names import is_temporary
from ckptsync.readiness.walk import Walker
from ckptsync.transfer.source import SourceTree

RULES: tuple[str, ...] = (
    "auto",
    "torch",
    "lightning",
    "dcp",
    "huggingface",
    "deepspeed",
    "orbax",
    "tensorflow",
    "keras",
    "safetensors",
    "marker",
    "quiet",
)
"""Names of all rules; `auto` tries each but `quiet`."""
_FINDERS: Mapping[str, Callable[[Folder, Contents], Findings]] = {"torch": torch.find}
_MAX_DEPTH = 8
"""Checkpoints are looked for in folders of up to this depth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What one look at a directory found.

    Attributes:
        checkpoints: that are whole, the oldest first: by when their newest file was written, then by step and name.
        tree: everything in the directory that can be saved.
        waiting: a sentence for each candidate that is not whole, and why.
    """

    checkpoints: tuple[Ready, ...]
    tree: SourceTree
    waiting: tuple[str, ...]


class Recogniser:
    """Looks at a directory again and again; files are read once for as long as they stay as they are. For one thread."""

    def __init__(self, directory: Path, *, rule: str = "auto", quiet_s: float | None = None) -> None:
        """Remember where to look; nothing is looked at yet.

        Args:
            directory: on this machine.
            rule: one of `RULES`.
            quiet_s: with the rule `quiet`, for how long nothing in a checkpoint may have changed, in seconds.

        Raises:
            ConfigError: there is no such rule, or `quiet_s` does not go with it.
        """
        if rule not in RULES:
            raise ConfigError(f"there is no rule {rule!r} by which a checkpoint is whole; there are {', '.join(RULES)}")
        if (rule == "quiet") != (quiet_s is not None):
            raise ConfigError(
                "the rule 'quiet' needs quiet_s, the seconds without a change, and no other rule takes it"
            )
        self._walker, self._contents = Walker(directory), Contents()
        self._finders = _FINDERS if rule == "auto" else {name: _FINDERS[name] for name in [rule] if name in _FINDERS}

    def look(self, now_s: float) -> Looked:
        """Find what is whole at this moment. Safe to call again; what did not change costs next to nothing.

        Args:
            now_s: seconds since the Unix epoch.

        Raises:
            ConfigError: there is no such directory.
            DiskError: it cannot be read.
        """
        root, tree = self._walker.look(int(now_s * 1e9))
        written = {file.path: file.identity.mtime_ns for file in tree.files}
        checkpoints: list[Ready] = []
        waiting: list[str] = []
        for folder, depth in _folders(root):
            if depth <= _MAX_DEPTH:
                for finder in self._finders.values():
                    found = finder(folder, self._contents)
                    checkpoints += found.checkpoints
                    waiting += found.waiting
        checkpoints.sort(
            key=lambda one: (
                max((written[path] for path in one.paths if path in written), default=0),
                one.step or -1,
                one.name,
            )
        )
        self._contents.forget(written.keys())
        return Looked(checkpoints=tuple(checkpoints), tree=tree, waiting=tuple(waiting))


def _folders(root: Folder) -> Iterator[tuple[Folder, int]]:
    """Every folder that may hold checkpoints, and its depth."""
    left = [(root, 0)]
    while left:
        folder, depth = left.pop()
        yield folder, depth
        left += [(inner, depth + 1) for name, inner in folder.folders.items() if not is_temporary(name)]


def look(directory: Path, *, rule: str = "auto", quiet_s: float | None = None, now_s: float) -> Looked:
    """Find what is whole at this moment, once. Who looks again and again uses a `Recogniser`.

    Args:
        directory: on this machine.
        rule: one of `RULES`.
        quiet_s: with the rule `quiet`, for how long nothing in a checkpoint may have changed, in seconds.
        now_s: seconds since the Unix epoch.

    Raises:
        ConfigError: there is no such rule, or no such directory.
        DiskError: it cannot be read.
    """
    return Recogniser(directory, rule=rule, quiet_s=quiet_s).look(now_s)
