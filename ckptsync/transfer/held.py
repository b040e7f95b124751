"""Files that are held open: whoever wrote them may delete or replace them by name, and they are saved all the same.

Hard links would do as well, but need a folder on the same disk that somebody must tidy up after a kill; copies cost time and space, and
are made only of files that are written to in place.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from ckptsync.errors import ConfigError, DiskError, SourceChangedError
from ckptsync.transfer.memory_source import MemoryFile
from ckptsync.transfer.source import Fill, Identity, SourceFile, SourceTree

_OPEN = os.O_RDONLY | os.O_CLOEXEC
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class HeldFile(SourceFile):
    """A file that stays readable whatever happens to its name.

    Attributes:
        descriptor: it is open by; the tree closes it.
    """

    descriptor: int

    @property
    def is_on_disk(self) -> bool:
        """As `SourceFile.is_on_disk`: nobody else finds it by its name."""
        return False

    @contextmanager
    def opened(self) -> Iterator[Fill]:
        """As `SourceFile.opened`; that it lost its name is no change."""
        yield partial(self._fill, self.descriptor)
        self.check_unchanged()

    def check_unchanged(self) -> None:
        """Look again.

        Raises:
            SourceChangedError: it was written to since it was opened.
        """
        found = os.fstat(self.descriptor)
        if (found.st_size, found.st_mtime_ns) != (self.identity.size, self.identity.mtime_ns):
            raise SourceChangedError(f"{self.location} was written to while it was being saved")


@dataclass(frozen=True, slots=True)
class HeldTree(SourceTree):
    """Files that are held open.

    Attributes:
        stack: closes them.
    """

    stack: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        """Let go of them. Safe to call again."""
        self.stack.close()

    def check_unchanged(self) -> None:
        """As `SourceTree.check_unchanged`, of the files alone: what came or went beside them is no concern."""
        for file in self.files:
            if isinstance(file, HeldFile):
                file.check_unchanged()


def hold(
    tree: SourceTree,
    *,
    copied: Collection[str] = (),
    copies: Path | None = None,
    added: Sequence[MemoryFile] = (),
) -> HeldTree:
    """Open every file of a tree.

    Args:
        tree: as it was found.
        copied: paths of files that may be written to in place. They are copied first, to a file without a name.
        copies: the folder for these; None takes the tree's own.
        added: files in memory, beside those of the tree or, where the paths are the same, in their place.

    Raises:
        SourceChangedError: a file is no longer the one that was found.
        DiskError: one cannot be read, or there is no space for a copy.
        ConfigError: they are more than this process may open.
    """
    made = {file.path for file in added}
    with ExitStack() as stack:
        held = [
            _held(file, copies or tree.root, stack, copy=file.path in copied)
            for file in tree.files
            if file.path not in made
        ]
        return HeldTree(
            root=tree.root,
            kind=tree.kind,
            files=tuple(sorted([*held, *added], key=lambda file: file.path)),
            links=tree.links,
            directories=tree.directories,
            scanned_ns=tree.scanned_ns,
            mode=tree.mode,
            under=tree.under,
            stack=stack.pop_all(),
        )
    raise AssertionError("unreachable")  # an ExitStack may swallow errors; this one does not


def chosen(tree: SourceTree, paths: Collection[str]) -> SourceTree:
    """Return a tree of some of its files, and of the folders above them."""
    above = {str(folder) for path in paths for folder in Path(path).parents}
    return replace(
        tree,
        files=tuple(file for file in tree.files if file.path in paths),
        links=tuple(link for link in tree.links if link.path in paths),
        directories=tuple(directory for directory in tree.directories if directory.path in above),
    )


def _held(file: SourceFile, root: Path, stack: ExitStack, *, copy: bool) -> HeldFile:
    """Open one file, or a copy of it."""
    try:
        descriptor = os.open(file.location, _OPEN)
        stack.callback(os.close, descriptor)
        if Identity.of(os.fstat(descriptor)) != file.identity:
            raise SourceChangedError(f"{file.location} was written to while it was looked at")
        if copy:
            descriptor = _copied(descriptor, root, stack)
        found = os.fstat(descriptor)
    except FileNotFoundError as error:
        raise SourceChangedError(f"{file.location} disappeared while it was looked at") from error
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise ConfigError(
                f"{root} has more files than this process may open; raise its limit (`ulimit -n`)"
            ) from error
        raise DiskError(f"cannot open or copy {file.location}: {error.strerror}") from error
    if found.st_size != file.size:
        raise SourceChangedError(f"{file.location} was written to while it was copied")
    return HeldFile(file.path, file.location, Identity.of(found), file.mode, descriptor)


def _copied(descriptor: int, root: Path, stack: ExitStack) -> int:
    """Copy a file; the copy's descriptor."""
    copy = stack.enter_context(tempfile.TemporaryFile(dir=root))  # noqa: SIM115  the stack closes it
    with os.fdopen(os.dup(descriptor), "rb", buffering=0) as source:
        shutil.copyfileobj(source, copy, _CHUNK_BYTES)
    copy.flush()
    return copy.fileno()
