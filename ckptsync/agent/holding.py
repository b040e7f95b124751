"""A checkpoint as it is handed to the upload: held open where that is possible, so that the trainer may delete it meanwhile."""

from __future__ import annotations

import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ckptsync.errors import DiskError, SourceChangedError
from ckptsync.readiness.base import Ready
from ckptsync.transfer.held import HeldTree, hold
from ckptsync.transfer.memory_source import MemoryFile
from ckptsync.transfer.source import Identity, SourceFile, SourceTree

_SPARE_DESCRIPTORS = 200
"""For connections, logs and what serves status pages."""
_IN_MEMORY_BYTES = 4 << 20
"""Files that the framework writes to in place are copied into memory up to this much in all; larger ones must stay at rest."""


@dataclass(frozen=True, slots=True)
class Followed(SourceTree):
    """Files that are too many to be held open: each must stay where it is."""

    def check_unchanged(self) -> None:
        """Look at each file again; what came or went beside them is no concern.

        Raises:
            SourceChangedError: one was written, replaced or removed since the first look.
        """
        for file in self.files:
            _check_still(file, "being saved")

    def close(self) -> None:
        """Nothing is held."""


def _check_still(file: SourceFile, what: str) -> None:
    """Look at a file again.

    Raises:
        SourceChangedError: it was written, replaced or removed since the first look.
    """
    try:
        found = os.stat(file.location)  # noqa: PTH116  thousands of them
    except OSError as error:
        raise SourceChangedError(f"{file.location} disappeared while it was {what}") from error
    if Identity.of(found) != file.identity:
        raise SourceChangedError(f"{file.location} was written to while it was {what}")


def allow_many_files() -> None:
    """Let this process open as many files as the system allows it to. Safe to call again."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def held(tree: SourceTree, ready: Ready, *, now_s: float, copies: Path | None = None) -> HeldTree | Followed:
    """Take hold of a checkpoint's files.

    Args:
        tree: its files alone.
        ready: what is known of it.
        now_s: seconds since the Unix epoch.
        copies: where to copy everything first, to files without a name; None where nothing is to be written anywhere.

    Raises:
        SourceChangedError: a file is no longer the one that was found.
        DiskError: one cannot be read, or there is no space for a copy.
    """
    made = {**_copied(tree, ready), **ready.replaced}
    added = [MemoryFile.of(path, [memoryview(made[path])], made_ns=_time_of(tree, path, now_s)) for path in made]
    if len(tree.files) < _descriptors_left():
        if copies is None:
            return hold(tree, added=added)
        holding = hold(tree, copied={file.path for file in tree.files}, copies=copies, added=added)
        try:
            for file in tree.files:
                _check_still(file, "copied")
        except SourceChangedError:
            holding.close()
            raise
        return holding
    files = [file for file in tree.files if file.path not in made]
    return Followed(
        root=tree.root,
        kind=tree.kind,
        files=tuple(sorted([*files, *added], key=lambda file: file.path)),
        links=tree.links,
        directories=tree.directories,
        scanned_ns=tree.scanned_ns,
        mode=tree.mode,
    )


def _copied(tree: SourceTree, ready: Ready) -> dict[str, bytes]:
    """Content of the small files that may be written to in place, the smallest first."""
    left, made = _IN_MEMORY_BYTES, dict[str, bytes]()
    for file in sorted((file for file in tree.files if file.path in ready.copied), key=lambda file: file.size):
        left -= file.size
        if left < 0:
            break
        made[file.path] = _content(file)
    return made


def _content(file: SourceFile) -> bytes:
    """Read a file that nobody writes to meanwhile."""
    try:
        content = Path(file.location).read_bytes()
        found = os.stat(file.location)  # noqa: PTH116  as above
    except FileNotFoundError as error:
        raise SourceChangedError(f"{file.location} disappeared while it was looked at") from error
    except OSError as error:
        raise DiskError(f"cannot read {file.location}: {error.strerror}") from error
    if Identity.of(found) != file.identity or len(content) != file.size:
        raise SourceChangedError(f"{file.location} was written to while it was looked at")
    return content


def _time_of(tree: SourceTree, path: str, now_s: float) -> int:
    """When the file was written that content in memory stands for; now where there is none."""
    return next((file.identity.mtime_ns for file in tree.files if file.path == path), int(now_s * 1e9))


def _descriptors_left() -> int:
    """How many files may be opened yet, less what others need."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  only their number
    except OSError:
        used = 64
    return (1 << 20 if soft == resource.RLIM_INFINITY else soft) - used - _SPARE_DESCRIPTORS
