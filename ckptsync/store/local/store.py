"""A directory as a bucket: the default that needs no service.

Objects are plain files below the root. `.ckptsync-tmp` below it holds what is being written:

    <32 hex digits>            a file being written, or an upload being dropped
    uploads/<id>/key           an unfinished upload: where it will appear
    uploads/<id>/00001         its parts
    finished/<id>              the tag an upload ended with, so that a repeated finish is answered truly
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import stat as modes
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

import msgspec

from ckptsync.clock import SYSTEM
from ckptsync.errors import (
    CkptsyncError,
    ConfigError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    StoreError,
    TransientError,
)
from ckptsync.store import tree
from ckptsync.store.base import Buffer, PartTag, Stat, Store, Tag, Traits, Upload
from ckptsync.store.local import disk
from ckptsync.store.local.digests import DigestsOnDemand, version_of

_RESERVED = ".ckptsync-tmp"
_KEY = "key"
_ID = re.compile(r"[0-9a-f]{32}")
_OURS = re.compile(r"data/[0-9]{8}-[0-9]{12}-[a-z0-9]{8}/")
"""Keys that only ckptsync writes; what others put below a run may be adopted, and stays theirs."""
_ANY_SIZE = 1 << 62
_MAX_PARTS = 1_000_000
_PRUNE_RACES = 100
"""How often a folder may be pruned by somebody else between making it and using it."""
_STALE_S = 86_400.0
"""What a killed process left in `.ckptsync-tmp` is removed after this."""
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_records = msgspec.json.Decoder(dict[str, str])


class LocalStore(Store):
    """A bucket in a directory, durable across power cuts, for any number of processes on file systems with POSIX renames.

    Symbolic links below the root are not followed: they are no objects and lead to none. A multipart upload needs its size
    twice while it is being finished, except on file systems that share blocks (Btrfs, XFS).
    """

    def __init__(self, root: Path) -> None:
        """Use `root`, which is made by the first write. Nothing is touched yet."""
        self.root = root.absolute()
        self.url = self.root.as_uri()
        self.traits = Traits(
            max_part_bytes=_ANY_SIZE, max_parts=_MAX_PARTS, max_put_bytes=_ANY_SIZE, max_copy_bytes=_ANY_SIZE
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
            return _stat(key, os.fstat(fd))

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
        return replace(_stat(key, found), hashes=DigestsOnDemand(path, found))

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
            return _stat(key, os.fstat(made))

    # -- uploads -----------------------------------------------------------------------------------------------------

    def begin(self, key: str) -> Upload:
        """As `Store.begin`."""
        path, name = self._path(key), secrets.token_hex(16)
        folder, draft = self._own / "uploads" / name, self._own / secrets.token_hex(16)
        with self._mapped("begin", key, path), self._temporary() as (fd, temp):
            disk.write(fd, memoryview(msgspec.json.encode({"key": key})))
            os.fsync(fd)
            disk.make_folder(folder.parent)
            draft.mkdir()
            temp.replace(draft / _KEY)
            draft.rename(folder)
            disk.sync_folder(folder.parent)
            return Upload(key=key, id=name, begun_s=os.fstat(fd).st_mtime)

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        """As `Store.put_part`; the part is on the disk before this returns."""
        view = disk.octets(data)
        folder = self._part_folder("put_part", upload, number)
        with self._mapped("put_part", upload.key, folder, view.nbytes), self._temporary() as (fd, temp):
            disk.write(fd, view)
            return self._keep(fd, temp, folder, number)

    def copy_part(
        self, upload: Upload, number: int, source: str, offset: int, size: int, *, tag: Tag | None = None
    ) -> PartTag:
        """As `Store.copy_part`, sharing the source's blocks where the file system can."""
        origin, folder = self._path(source), self._part_folder("copy_part", upload, number)
        with (
            self._mapped("copy_part", source, origin, size),
            self._opened("copy_part", source, origin, tag) as found,
            self._temporary() as (fd, temp),
        ):
            length = os.fstat(found).st_size
            if not 0 <= offset <= offset + size <= length:
                raise StoreError(
                    f"bytes {offset} to {offset + size} are not all within the {length} of {origin}",
                    op="copy_part",
                    key=source,
                )
            disk.copy_range(found, fd, offset, size)
            return self._keep(fd, temp, folder, number)

    def parts(self, upload: Upload) -> dict[int, PartTag]:
        """As `Store.parts`."""
        folder = self._upload_folder("parts", upload)
        with self._mapped("parts", upload.key, folder), os.scandir(folder) as entries:
            found = {int(entry.name): entry.stat(follow_symlinks=False) for entry in entries if entry.name != _KEY}
        return {number: _part_tag(number, found[number], folder) for number in sorted(found)}

    def finish(self, upload: Upload, parts: Iterable[PartTag]) -> Stat:
        """As `Store.finish`. Killed at any point, it leaves either the upload as it was, or the whole object."""
        wanted, path = sorted(parts, key=lambda part: part.number), self._path(upload.key)
        try:
            folder = self._upload_folder("finish", upload)
        except NotFoundError:
            return self._settle(upload)
        if not wanted or [part.number for part in wanted] != list(range(1, len(wanted) + 1)):
            raise IntegrityError(f"parts of {upload.key!r} are not numbered 1 to n")
        size = sum(part.size for part in wanted)
        with self._mapped("finish", upload.key, path, size), self._temporary() as (fd, temp):
            for part in wanted:
                if not _append(folder, part, fd):
                    if not folder.exists():
                        return self._settle(upload)
                    raise IntegrityError(f"part {part.number} of {upload.key!r} is not the one that was sent")
            os.fsync(fd)
            receipt = self._own / "finished" / upload.id
            disk.make_folder(receipt.parent)
            receipt.write_text(version_of(os.fstat(fd)))
            self._publish(temp, upload.key, path, if_absent=False)
            self._drop(folder)
            return _stat(upload.key, os.fstat(fd))

    def abort(self, upload: Upload) -> None:
        """As `Store.abort`."""
        with suppress(NotFoundError):
            folder = self._upload_folder("abort", upload)
            with self._mapped("abort", upload.key, folder):
                self._drop(folder)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """As `Store.uploads`, in order of their keys."""
        folder, found = self._own / "uploads", []
        with self._mapped("uploads", prefix, folder):
            for entry in disk.entries(folder):
                with suppress(FileNotFoundError, NotADirectoryError):
                    key, begun_s = _read_key(folder / entry.name)
                    found.append(Upload(key=key, id=entry.name, begun_s=begun_s))
        return iter(sorted((one for one in found if one.key.startswith(prefix)), key=lambda one: (one.key, one.id)))

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
            if isinstance(error, NotADirectoryError) and not self.root.is_dir():
                raise ConfigError(f"{self.root} is a file, not a directory") from error
            if isinstance(error, NotADirectoryError) and reading:
                raise NotFoundError(f"there is no {path}", op=op, key=key) from error
            raise disk.translate(error, op=op, key=key, path=path, needed_bytes=needed_bytes) from error

    @contextmanager
    def _opened(self, op: str, key: str, path: Path, tag: Tag | None) -> Iterator[int]:
        """Open an object at the version `tag` names; what is read from the descriptor stays that version."""
        with self._mapped(op, key, path, reading=True):
            fd = os.open(path, _READ)
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
                found = _stat(key, entry.stat(follow_symlinks=False))
            if found is not None:
                yield found

    def _scan(self, folder: str) -> Iterator[tuple[tree.Entry, os.DirEntry[str]]]:
        """Files and folders in a folder; one that is gone is empty."""
        path = self.root / folder
        with self._mapped("list", folder, path):
            listed = [] if self._link_to(path) else disk.entries(path)
            if not listed and not folder and self.root.is_file():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.root))
        for entry in listed:
            is_folder = entry.is_dir(follow_symlinks=False)
            is_ours = not folder and entry.name == _RESERVED
            if (is_folder or entry.is_file(follow_symlinks=False)) and not is_ours and tree.is_text(entry.name):
                yield tree.Entry(entry.name, is_folder), entry

    def _upload_folder(self, op: str, upload: Upload) -> Path:
        """Where an upload's parts lie."""
        folder = self._own / "uploads" / upload.id
        if _ID.fullmatch(upload.id):
            with self._mapped(op, upload.key, folder):
                if _read_key(folder)[0] == upload.key:
                    return folder
        raise NotFoundError(f"there is no upload {upload.id}", op=op, key=upload.key)

    def _part_folder(self, op: str, upload: Upload, number: int) -> Path:
        """Where a part with this number may be put."""
        if not 1 <= number <= _MAX_PARTS:
            raise ConfigError(f"part number {number} is not within 1 to {_MAX_PARTS}")
        return self._upload_folder(op, upload)

    def _keep(self, fd: int, temp: Path, folder: Path, number: int) -> PartTag:
        """Move a written part to the others; it is synced first, for a journal may trust its tag after a power cut."""
        os.fsync(fd)
        temp.replace(folder / f"{number:05d}")
        return _part_tag(number, os.fstat(fd))

    def _drop(self, folder: Path) -> None:
        """Remove an upload: it is there with all its parts, or not at all."""
        gone = self._own / secrets.token_hex(16)
        with suppress(FileNotFoundError):
            folder.rename(gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _settle(self, upload: Upload) -> Stat:
        """Answer a finish of an upload that is gone."""
        with suppress(FileNotFoundError):
            if _ID.fullmatch(upload.id):
                made = (self._own / "finished" / upload.id).read_text()
                found = self.stat(upload.key)
                if found.tag == made:
                    return found
        raise NotFoundError("the upload is gone and so is what it made", op="finish", key=upload.key)


def _stat(key: str, found: os.stat_result) -> Stat:
    """Describe an object. It is as old as its name: a hard link is younger than the bytes it shares."""
    return Stat(key=key, size=found.st_size, tag=version_of(found), modified_s=max(found.st_mtime, found.st_ctime))


def _part_tag(number: int, found: os.stat_result, folder: Path | None = None) -> PartTag:
    """Describe a part; where it lies in a folder, with digests."""
    tag = PartTag(number=number, size=found.st_size, tag=version_of(found))
    return replace(tag, hashes=DigestsOnDemand(folder / f"{number:05d}", found)) if folder else tag


def _read_key(folder: Path) -> tuple[str, float]:
    """Read where an upload is to appear, and when it was begun.

    Raises:
        FileNotFoundError: there is no such upload.
    """
    file = folder / _KEY
    try:
        key = _records.decode(file.read_bytes())["key"]
    except (msgspec.DecodeError, KeyError) as error:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file)) from error
    return key, file.stat().st_mtime


def _append(folder: Path, part: PartTag, target: int) -> bool:
    """Append a part to an open file; False when it is not there, or not the one meant."""
    try:
        fd = os.open(folder / f"{part.number:05d}", _READ)
    except FileNotFoundError:
        return False
    try:
        found = os.fstat(fd)
        return version_of(found) == part.tag and disk.copy_range(fd, target, 0, found.st_size) == found.st_size
    finally:
        os.close(fd)
