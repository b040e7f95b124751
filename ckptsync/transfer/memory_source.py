"""What is to be saved and lies in memory, alone or beside files of the disk."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from ckptsync.errors import ConfigError
from ckptsync.snapshot.manifest import DirectoryEntry
from ckptsync.transfer.source import Fill, Identity, SourceFile, SourceTree

_NOWHERE = Path("memory")
_FILE_MODE, _FOLDER_MODE = 0o644, 0o755


@dataclass(frozen=True, slots=True)
class MemoryFile(SourceFile):
    """A file that exists in memory only.

    Attributes:
        pieces: its content, one behind the other; whoever owns the memory leaves it alone while the file is being saved.
        begins: offset of each piece.
    """

    pieces: tuple[memoryview, ...]
    begins: tuple[int, ...]

    @classmethod
    def of(cls, path: str, pieces: Iterable[memoryview], *, made_ns: int) -> MemoryFile:
        """Make one.

        Args:
            path: in the snapshot.
            pieces: contiguous views of any format; empty ones are left out.
            made_ns: its time, nanoseconds since the Unix epoch.
        """
        flat = tuple(piece.cast("B") for piece in pieces if piece.nbytes)
        begins = tuple(accumulate((len(piece) for piece in flat), initial=0))
        identity = Identity(device=0, inode=0, size=begins[-1], mtime_ns=made_ns, ctime_ns=made_ns)
        return cls(path, _NOWHERE / path, identity, _FILE_MODE, flat, begins)

    @property
    def is_on_disk(self) -> bool:
        """As `SourceFile.is_on_disk`."""
        return False

    @contextmanager
    def opened(self) -> Iterator[Fill]:
        """As `SourceFile.opened`; there is nothing to open."""
        yield self._copy

    def _copy(self, view: memoryview, offset: int) -> None:
        """Copy what stands from byte `offset` on."""
        number, done = bisect_right(self.begins, offset) - 1, 0
        while done < len(view):
            start = offset + done - self.begins[number]
            piece = self.pieces[number][start : start + len(view) - done]
            view[done : done + len(piece)] = piece
            done += len(piece)
            number += 1


@dataclass(frozen=True, slots=True)
class JoinedTree(SourceTree):
    """Files in memory, and trees of the disk below folders of their own.

    Attributes:
        trees: those of the disk.
    """

    trees: tuple[SourceTree, ...] = ()

    def check_unchanged(self) -> None:
        """As `SourceTree.check_unchanged`: what lies in memory is whoever owns it to keep still."""
        for tree in self.trees:
            tree.check_unchanged()


def joined(files: Sequence[MemoryFile], trees: Sequence[SourceTree], *, now_ns: int) -> JoinedTree:
    """Make one tree of files in memory and of trees that each begin with a folder (`SourceTree.below`).

    Args:
        files: in memory.
        trees: of the disk.
        now_ns: nanoseconds since the Unix epoch.

    Raises:
        ConfigError: two of them have the same path.
    """
    every = [*files, *(file for tree in trees for file in tree.files)]
    paths = sorted(file.path for file in every)
    if twice := next((path for path, other in pairwise(paths) if path == other), None):
        raise ConfigError(f"two things to be saved would both become {twice}; name one of them differently")
    directories = [
        *(directory for tree in trees for directory in tree.directories),
        *(DirectoryEntry(path=tree.under, mode=tree.mode) for tree in trees if tree.kind == "directory"),
    ]
    return JoinedTree(
        root=_NOWHERE,
        kind="directory",
        files=tuple(sorted(every, key=lambda file: file.path)),
        links=tuple(sorted((link for tree in trees for link in tree.links), key=lambda link: link.path)),
        directories=tuple(sorted(directories, key=lambda directory: directory.path)),
        scanned_ns=min((tree.scanned_ns for tree in trees), default=now_ns),
        mode=_FOLDER_MODE,
        trees=tuple(trees),
    )
