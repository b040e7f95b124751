"""The tree to be saved: found once, read in parts, and asked at the end whether it is still the same.

Parts are read with `preadv` into reused buffers rather than mapped: a mapped file that is truncated meanwhile kills the
process with SIGBUS, and the bytes that were hashed must be the bytes that are sent (docs/decisions/0003-read-not-map.md).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from ckptsync.errors import ConfigError, DiskError, ManifestError, SourceChangedError
from ckptsync.snapshot.digest import part_hasher, part_span
from ckptsync.snapshot.layout import check_path
from ckptsync.snapshot.manifest import DirectoryEntry, FileEntry, LinkEntry, link_stays_inside
from ckptsync.transfer.folders import is_partial

_CACHED_BYTES = 1 << 20
"""What is read and hashed at a time: as much as a processor keeps at hand."""
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
"""Without waiting: a pipe may have taken a file's place."""
_TICK_NS = 100_000_000
"""Kernels stamp files with a clock of up to 10 ms; a change within that of the first look could go unseen."""


Fill = Callable[[memoryview, int], None]


@dataclass(frozen=True, slots=True)
class Identity:
    """What changes when a file is written to, replaced or truncated."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> Identity:
        """Take it from a stat."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A regular file to be saved.

    Attributes:
        path: relative to the tree's root.
        location: where it is on this machine.
        identity: as first seen.
        mode: permission bits.
    """

    path: str
    location: Path
    identity: Identity
    mode: int

    @property
    def size(self) -> int:
        """Bytes when first seen."""
        return self.identity.size

    @property
    def is_on_disk(self) -> bool:
        """Whether another process could read it, or write to it."""
        return True

    def is_still(self, found: os.stat_result) -> bool:
        """Whether what is found there now is the file first seen."""
        return Identity.of(found) == self.identity

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view` from byte `offset` on.

        Raises:
            SourceChangedError: the file is no longer the one first seen.
            DiskError: it cannot be read.
        """
        with self.opened() as fill:
            fill(view, offset)

    def read_hashed(self, view: memoryview, offset: int) -> str:
        """Fill `view` from byte `offset` on, and return its BLAKE3, 64 hex digits; raises as `read_into`.

        Bytes are hashed while they are in the processor's cache: from memory they would be read once more.
        """
        spans = range(0, len(view), _CACHED_BYTES)
        return self._hashed((view[at : at + _CACHED_BYTES], offset + at) for at in spans)

    def digest(self) -> str:
        """Return BLAKE3 of the whole content, 64 hex digits; raises as `read_into`."""
        return self._digest(0, self.size)

    def matches(self, entry: FileEntry) -> bool:
        """Read it and tell whether it has the content that a manifest tells; raises as `read_into`."""
        spans = (part_span(number, entry.size, entry.part_bytes) for number in range(1, len(entry.parts) + 1))
        return self.size == entry.size and all(
            self._digest(*span) == digest for span, digest in zip(spans, entry.parts, strict=True)
        )

    def _digest(self, begin: int, size: int) -> str:
        """BLAKE3 of a range."""
        window, spans = memoryview(bytearray(min(size, _CACHED_BYTES))), range(0, size, _CACHED_BYTES)
        return self._hashed((window[: size - at], begin + at) for at in spans)

    def _hashed(self, pieces: Iterable[tuple[memoryview, int]]) -> str:
        """Fill views, each from an offset on; BLAKE3 of them in their order."""
        hasher = part_hasher()
        with self.opened() as fill:
            for piece, offset in pieces:
                fill(piece, offset)
                hasher.update(piece)
        return hasher.hexdigest()

    @contextmanager
    def opened(self) -> Iterator[Fill]:
        """Open the file; what fills a view from an offset on.

        Raises:
            SourceChangedError: at the end too, the file is no longer the one first seen.
            DiskError: it cannot be read.
        """
        try:
            descriptor = os.open(self.location, _OPEN)
        except FileNotFoundError as error:
            raise SourceChangedError(f"{self.location} disappeared while it was being saved") from error
        except OSError as error:
            raise DiskError(f"cannot read {self.location}: {error.strerror}") from error
        try:
            yield partial(self._fill, descriptor)
            if not self.is_still(os.fstat(descriptor)):
                raise SourceChangedError(
                    f"{self.location} changed while it was being saved; save it when it is at rest"
                )
        finally:
            os.close(descriptor)

    def _fill(self, descriptor: int, view: memoryview, offset: int) -> None:
        """Read until the view is full."""
        done = 0
        while done < len(view):
            try:
                count = os.preadv(descriptor, [view[done:]], offset + done)
            except OSError as error:
                raise DiskError(f"cannot read {self.location}: {error.strerror}") from error
            if not count:
                raise SourceChangedError(f"{self.location} became shorter while it was being saved")
            done += count

    def could_hide_a_change(self, scanned_ns: int) -> bool:
        """Whether it was written so shortly before the scan that a later write may bear the same time."""
        return max(self.identity.mtime_ns, self.identity.ctime_ns) > scanned_ns - _TICK_NS


@dataclass(frozen=True, slots=True)
class SourceTree:
    """Everything below a path, as first seen.

    Attributes:
        root: the path.
        kind: whether it is a directory or a single file.
        files: sorted by path.
        links: symbolic links that stay inside.
        directories: the root left out.
        scanned_ns: when the scan began, by this machine's clock.
        mode: permission bits of the root.
        under: the folder of the snapshot that all paths begin with; empty when they begin at its root.
    """

    root: Path
    kind: Literal["directory", "file"]
    files: tuple[SourceFile, ...]
    links: tuple[LinkEntry, ...]
    directories: tuple[DirectoryEntry, ...]
    scanned_ns: int
    mode: int
    under: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def below(self, folder: str) -> SourceTree:
        """Return the same tree with every path below a folder, which need not be on the disk."""
        if not folder:
            return self
        return replace(
            self,
            files=tuple(replace(file, path=f"{folder}/{file.path}") for file in self.files),
            links=tuple(LinkEntry(path=f"{folder}/{link.path}", target=link.target) for link in self.links),
            directories=tuple(
                DirectoryEntry(path=f"{folder}/{directory.path}", mode=directory.mode) for directory in self.directories
            ),
            under=folder,
        )

    def check_unchanged(self) -> None:
        """Look again.

        Raises:
            SourceChangedError: a file was written, replaced, added or removed since the first look.
        """
        try:
            now = scan(self.root, now_ns=self.scanned_ns).below(self.under)
        except ConfigError as error:
            raise SourceChangedError(f"{self.root} changed while it was being saved: {error}") from error
        before, after = ({file.path: file.identity for file in tree.files} for tree in (self, now))
        differing = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
        if not differing and {link.path: link.target for link in self.links} != {
            link.path: link.target for link in now.links
        }:
            differing = ["a symbolic link"]
        if differing:
            raise SourceChangedError(
                f"{self.root} changed while it was being saved ({differing[0]}"
                f"{f' and {len(differing) - 1} more' if len(differing) > 1 else ''}); save it when it is at rest"
            )


def scan(root: Path, *, now_ns: int) -> SourceTree:
    """Look at everything below `root` once, but for folders in which a restore is prepared.

    Args:
        root: a directory or a regular file; a link to one is followed.
        now_ns: nanoseconds since the Unix epoch.

    Raises:
        ConfigError: nothing is there, or something in it cannot be saved: a socket, a device, a link that leaves the tree, a
            name that is not valid Unicode.
        SourceChangedError: something disappeared meanwhile.
        DiskError: it cannot be read.
    """
    try:
        found = root.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"there is nothing to save at {root}") from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ConfigError(f"there is nothing to save at {root}: {error.strerror}") from error
        raise DiskError(f"cannot read {root}: {error.strerror}") from error
    if stat.S_ISREG(found.st_mode):
        name = _checked(root.name or root.resolve().name, root)
        file = SourceFile(name, root, Identity.of(found), stat.S_IMODE(found.st_mode))
        return SourceTree(root, "file", (file,), (), (), now_ns, stat.S_IMODE(found.st_mode))
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{root} is neither a file nor a directory")
    files: list[SourceFile] = []
    links: list[LinkEntry] = []
    directories: list[DirectoryEntry] = []
    for path, entry in _walk(root, ""):
        _place(root, path, entry, files, links, directories)
    return SourceTree(
        root,
        "directory",
        tuple(sorted(files, key=lambda file: file.path)),
        tuple(sorted(links, key=lambda link: link.path)),
        tuple(sorted(directories, key=lambda directory: directory.path)),
        now_ns,
        stat.S_IMODE(found.st_mode),
    )


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Every entry below a folder with its relative path; links are not followed, what restores prepare is left out."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError as error:
        raise SourceChangedError(f"{folder} disappeared while it was being saved") from error
    except OSError as error:
        raise DiskError(f"cannot read {folder}: {error.strerror}") from error
    for entry in found:
        path, is_folder = f"{prefix}{entry.name}", entry.is_dir(follow_symlinks=False)
        if is_folder and is_partial(entry.name):
            continue
        yield path, entry
        if is_folder:
            yield from _walk(Path(entry.path), f"{path}/")


def _place(
    root: Path,
    path: str,
    entry: os.DirEntry[str],
    files: list[SourceFile],
    links: list[LinkEntry],
    directories: list[DirectoryEntry],
) -> None:
    """Put one entry where it belongs."""
    location = Path(entry.path)
    _checked(path, location)
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError as error:
        raise SourceChangedError(f"{location} disappeared while it was being saved") from error
    if stat.S_ISREG(found.st_mode):
        files.append(SourceFile(path, location, Identity.of(found), stat.S_IMODE(found.st_mode)))
    elif stat.S_ISDIR(found.st_mode):
        directories.append(DirectoryEntry(path=path, mode=stat.S_IMODE(found.st_mode)))
    elif stat.S_ISLNK(found.st_mode):
        links.append(LinkEntry(path=path, target=_inner_target(root, path, location)))
    else:
        raise ConfigError(f"{location} is neither a file, a directory nor a link, and cannot be saved")


def _inner_target(root: Path, path: str, location: Path) -> str:
    """Where a link points, relative to its folder; absolute links into the tree are made relative."""
    target = str(location.readlink())
    if target.startswith("/"):
        target = os.path.relpath(target, location.parent.absolute())
    if not link_stays_inside(path, target):
        raise ConfigError(f"link {location} points outside {root} (to {target}); replace it by what it points to")
    return _checked(target, location, what="link target") and target


def _checked(path: str, location: Path, *, what: str = "name") -> str:
    """Refuse names that no bucket can hold."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the {what} of {location!r} is not valid Unicode; rename it") from error
    if what != "name":
        return path
    try:
        return check_path(path)
    except ManifestError as error:
        raise ConfigError(f"{location} cannot be saved: {error}") from error
