"""Whole objects in a directory: the verbs that take one step."""

from __future__ import annotations

import os
import re
import stat as modes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from ckptsync.clock import SYSTEM
from ckptsync.errors import (
    CkptsyncError,
    ConfigError,
    ConflictError,
    NotFoundError,
    TransientError,
)
from ckptsync.store import tree
from ckptsync.store.base import Buffer, Stat, Store, Tag, Traits
from ckptsync.store.local import disk
from ckptsync.store.local.digests import DigestsOnDemand, version_of

_RESERVED = ".ckptsync-tmp"
_OURS = re.compile(r"data/[0-9]{8}-[0-9]{12}-[a-z0-9]{8}/")
"""Keys that only ckptsync writes; what others put below a run may be adopted, and stays theirs."""
_ANY_SIZE = 1 << 62
MAX_PARTS = 1_000_000
_PRUNE_RACES = 100
"""How often a folder may be pruned by somebody else between making it and using it."""
_STALE_S = 86_400.0
"""What a killed process left in `.ckptsync-tmp` is removed after this."""
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


class LocalObjects(Store):
    """The verbs over whole objects, and what every verb shares. Symbolic links are not followed."""

    def __init__(self, root: Path) -> None:
        """Use `root`, which is made by the first write. Nothing is touched yet."""
        self.root = root.absolute()
        self.url = self.root.as_uri()
        self.traits = Traits(
            max_part_bytes=_ANY_SIZE, max_parts=MAX_PARTS, max_put_bytes=_ANY_SIZE, max_copy_bytes=_ANY_SIZE
        )
        self._own = self.root / _RESERVED
        self._swept = False

    # -- objects -----------------------------------------------------------------------------------------------------

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        """As `Store.put`. Refuses keys that are no path below the root, or too long for its file system (ConfigError)."""
        path, view = self._path(key), disk.octets(data)
        with self._mapped("put", key, path, view.nbytes), self._temporary() as (fd, temp):
            disk.write(fd, view)
            os.fsync(fd)
            self._publish(temp, key, path, if_absent=if_absent)
            return described(key, os.fstat(fd))

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        """As `Store.get`."""
        path, done = self._path(key), 0
        view = into.cast("B") if into.nbytes else into
        try:
            with self._mapped("get", key, path), self._opened("get", key, path, tag) as fd:
                while done < len(view) and (count := os.preadv(fd, [view[done:]], offset + done)):
                    done += count
        except TransientError as error:
            error.received = done
            raise
        return done

    def stat(self, key: str) -> Stat:
        """As `Store.stat`."""
        path = self._path(key)
        with self._mapped("stat", key, path, reading=True):
            found = path.lstat()
        if not modes.S_ISREG(found.st_mode):
            raise NotFoundError(f"there is no file {path}", op="stat", key=key)
        return replace(described(key, found), hashes=DigestsOnDemand(path, found))

    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        """As `Store.list`; a root that is not there has no objects. Files whose names are not UTF-8 are left out."""
        return islice(self._listed(prefix, after), limit)

    def delete(self, keys: Iterable[str]) -> None:
        """As `Store.delete`; folders that became empty go too."""
        folders: set[Path] = set()
        for key in keys:
            path = self._path(key)
            with self._mapped("delete", key, path), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                path.unlink()
                folders.add(path.parent)
        for folder in folders:
            with self._mapped("delete", "", folder):
                disk.sync_folder(disk.prune(folder, self.root))

    def copy(self, source: str, key: str, *, tag: Tag | None = None) -> Stat:
        """As `Store.copy`. What ckptsync wrote is linked, where the file system can: it is replaced, never changed.

        Other files are somebody else's, who may write into them, and a link would change with them.
        """
        origin, path = self._path(source), self._path(key)
        with (
            self._mapped("copy", source, origin),
            self._opened("copy", source, origin, tag) as fd,
            self._temporary() as (target, temp),
        ):
            made = fd if _OURS.match(source) and disk.replace_by_link(temp, origin, fd) else target
            if made == target:
                disk.copy_range(fd, target, 0, os.fstat(fd).st_size)
                os.fsync(target)
            self._publish(temp, key, path, if_absent=False)
            return described(key, os.fstat(made))

    # -- what they share ---------------------------------------------------------------------------------------------

    def _path(self, key: str) -> Path:
        """Where a key lies; every symbolic link on the way is refused."""
        tree.check_key(key, _RESERVED)
        path = self.root / key
        with self._mapped("", key, path):
            if link := self._link_to(path.parent):
                raise ConfigError(f"key {key!r} leads through the symbolic link {link}, which is not followed")
        return path

    def _link_to(self, folder: Path) -> Path | None:
        """Return the symbolic link that leads to `folder` from the root, None when there is none."""
        while folder != self.root:
            if folder.is_symlink():
                return folder
            folder = folder.parent
        return None

    @contextmanager
    def _mapped(self, op: str, key: str, path: Path, needed_bytes: int = 0, *, reading: bool = False) -> Iterator[None]:
        """Turn errors of the operating system into ours; to a reader, what would lie below a file is not there."""
        try:
            yield
        except CkptsyncError:
            raise
        except OSError as error:
            if isinstance(error, NotADirectoryError) and (in_the_way := disk.file_above(self.root)):
                raise ConfigError(f"{in_the_way} is a file, not a directory") from error
            if isinstance(error, NotADirectoryError) and reading:
                raise NotFoundError(f"there is no {path}", op=op, key=key) from error
            raise disk.translate(error, op=op, key=key, path=path, needed_bytes=needed_bytes) from error

    @contextmanager
    def _opened(self, op: str, key: str, path: Path, tag: Tag | None) -> Iterator[int]:
        """Open an object at the version `tag` names; what is read from the descriptor stays that version."""
        with self._mapped(op, key, path, reading=True):
            fd = os.open(path, READ)
        try:
            found = os.fstat(fd)
            if not modes.S_ISREG(found.st_mode):
                raise NotFoundError(f"there is no file {path}", op=op, key=key)
            if tag and tag != version_of(found):
                raise ConflictError(f"{path} was replaced meanwhile", op=op, key=key)
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _temporary(self) -> Iterator[tuple[int, Path]]:
        """Open a file of our own; the first time, remove what killed processes left long ago."""
        disk.make_folder(self._own)
        if not self._swept:
            self._swept = True
            before_s = SYSTEM.now() - _STALE_S
            disk.remove_stale(self._own, before_s, spare=frozenset({"uploads", "finished"}))
            disk.remove_stale(self._own / "finished", before_s)
        with disk.temporary(self._own) as opened:
            yield opened

    def _publish(self, temp: Path, key: str, path: Path, *, if_absent: bool) -> None:
        """Give a file its name durably, against others who prune the folders it needs."""
        for _ in range(_PRUNE_RACES):
            with suppress(FileNotFoundError):
                disk.make_folder(path.parent)
                disk.publish(temp, path, if_absent=if_absent)
                break
        else:
            raise TransientError(f"{path.parent} is removed again and again", op="put", key=key)
        disk.sync_folder(path.parent)

    def _listed(self, prefix: str, after: str) -> Iterator[Stat]:
        """List files below the root."""
        for key, entry in tree.walk(self._scan, prefix, after):
            found: Stat | None = None
            with self._mapped("list", key, self.root / key), suppress(FileNotFoundError):
                found = described(key, entry.stat(follow_symlinks=False))
            if found is not None:
                yield found

    def _scan(self, folder: str) -> Iterator[tuple[tree.Entry, os.DirEntry[str]]]:
        """Files and folders in a folder; one that is gone is empty."""
        path = self.root / folder
        with self._mapped("list", folder, path):
            listed = [] if self._link_to(path) else disk.entries(path)
            if not listed and (in_the_way := disk.file_above(self.root)):
                raise ConfigError(f"{in_the_way} is a file, not a directory")
        for entry in listed:
            is_folder = entry.is_dir(follow_symlinks=False)
            is_ours = not folder and entry.name == _RESERVED
            if (is_folder or entry.is_file(follow_symlinks=False)) and not is_ours and tree.is_text(entry.name):
                yield tree.Entry(entry.name, is_folder), entry


def described(key: str, found: os.stat_result) -> Stat:
    """Describe an object. It is as old as its name: a hard link is younger than the bytes it shares."""
    return Stat(key=key, size=found.st_size, tag=version_of(found), modified_s=max(found.st_mtime, found.st_ctime))
