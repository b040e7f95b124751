"""A directory that its owner may delete while it is being saved: every file gets a second name, and lives as long as that does."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ckptsync.errors import SourceChangedError
from ckptsync.transfer.folders import remove_tree
from ckptsync.transfer.source import Identity, SourceFile, SourceTree, scan

_HELD = ".ckptsync-held"


@dataclass(frozen=True, slots=True)
class HeldFile(SourceFile):
    """A file under its second name. That the first one is deleted changes its ctime, which therefore tells nothing."""

    @property
    def is_on_disk(self) -> bool:
        """As `SourceFile.is_on_disk`: processes that help would look at the ctime."""
        return False

    def is_still(self, found: os.stat_result) -> bool:
        """As `SourceFile.is_still`."""
        now, then = Identity.of(found), self.identity
        return (now.device, now.inode, now.size, now.mtime_ns) == (then.device, then.inode, then.size, then.mtime_ns)


@dataclass(frozen=True, slots=True)
class HeldTree(SourceTree):
    """A directory under its second name."""

    def check_unchanged(self) -> None:
        """As `SourceTree.check_unchanged`; nobody else knows the second name, so that nothing is added there."""
        for file in self.files:
            try:
                same = file.is_still(file.location.stat())
            except OSError:
                same = False
            if not same:
                raise SourceChangedError(
                    f"{file.location} changed while it was being saved; save it when it is at rest"
                )

    def release(self) -> None:
        """Let go of the files. Safe to call again."""
        remove_tree(self.root, ignore_errors=True)


def hold(folder: Path, *, now_ns: int) -> HeldTree | None:
    """Give every file of a directory a second name beside it; what is done to the first one no longer matters, but for writing to it.

    Args:
        folder: at rest until this returns.
        now_ns: nanoseconds since the Unix epoch.

    Returns:
        The directory under its second name, to be released; None where the file system gives a file no second one.

    Raises:
        ConfigError: nothing is there, or something in it cannot be saved.
        SourceChangedError: it was written to meanwhile.
    """
    seen = scan(folder, now_ns=now_ns)
    place = folder.with_name(f".{folder.name}{_HELD}")
    remove_tree(place, ignore_errors=True)
    files = tuple(HeldFile(file.path, place / file.path, file.identity, file.mode) for file in seen.files)
    held = HeldTree(place, seen.kind, files, seen.links, seen.directories, now_ns, seen.mode)
    try:
        for first, second in zip(seen.files, files, strict=True):
            second.location.parent.mkdir(parents=True, exist_ok=True)
            os.link(first.location, second.location)
    except FileNotFoundError as error:
        held.release()
        raise SourceChangedError(f"{folder} changed while it was being saved: {error}") from error
    except OSError:
        held.release()
        return None
    held.check_unchanged()
    return held


def release_all(folder: Path) -> None:
    """Let go of what a process that was killed held in a folder."""
    for place in folder.glob(f".*{_HELD}"):
        remove_tree(place, ignore_errors=True)
