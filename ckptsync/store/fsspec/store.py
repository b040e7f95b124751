"""Any other place fsspec can write to: Azure, SFTP, HDFS, SMB, WebDAV and more.

fsspec promises little that all its file systems keep, so this store rests on little: whole files are written aside and moved
into place, except on object stores, where a put is whole by itself. There are no conditional puts. Parts of a multipart upload
are objects below `.ckptsync-uploads`, which `finish` streams into one:

    <id>/key           where an unfinished upload will appear
    <id>/00001         its parts
    finished/<id>      the tag an upload ended with and those of its parts, so that a repeated finish is answered truly
    drafts/<id>        a file being written
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from types import SimpleNamespace
from typing import Any

import msgspec

from ckptsync.clock import SYSTEM
from ckptsync.errors import CkptsyncError, ConfigError, ConflictError, IntegrityError, NotFoundError, StoreError
from ckptsync.store import tree
from ckptsync.store.base import Buffer, PartTag, Stat, Store, Tag, Traits, Upload
from ckptsync.store.fsspec.facts import describe, translate, without_secrets
from ckptsync.store.fsspec.write import stream, write_aside

_RESERVED = ".ckptsync-uploads"
_ID = re.compile(r"[0-9a-f]{32}")
_STALE_S = 86_400.0
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oci", "oss", "tos"}
"""Protocols where an object appears when its upload completes, and a move would be a copy."""
_COPIES = _OBJECT_STORES | {"memory", "file", "local"}
"""Protocols whose copies do not pass through this process."""
_records = msgspec.json.Decoder(dict[str, str])
_receipts = msgspec.json.Decoder(tuple[Tag, list[Tag]])


class FsspecStore(Store):
    """A folder on a file system that fsspec knows, for one writer at a time (`traits.conditional_put` is False).

    `put` with `if_absent` looks before it writes, which holds only as long as nobody else writes. Nothing is synced to a
    disk: how durable a finished write is, is up to the file system. Where that tells no version of a file, tags are made of
    its time and size, and are as fine as its clock.
    """

    def __init__(self, url: str) -> None:
        """Look the file system up, without connecting; options and credentials come from fsspec's own configuration.

        Raises:
            ConfigError: fsspec, or the package for this scheme, is not installed, or the scheme is unknown.
        """
        self._full_url = url
        self.url = without_secrets(url)
        self._own, self._shared = threading.local(), SimpleNamespace()
        kind = _kind_of(url)
        self._root = str(kind._strip_protocol(url))  # noqa: SLF001  fsspec's own url_to_fs asks so
        self._is_async = bool(getattr(kind, "async_impl", False))
        names = {kind.protocol} if isinstance(kind.protocol, str) else set(kind.protocol)
        self._whole_puts = bool(names & _OBJECT_STORES)
        self.traits = Traits(conditional_put=False, copy=bool(names & _COPIES), copy_part=False)
        self._swept = False

    # -- objects -----------------------------------------------------------------------------------------------------

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        """As `Store.put`."""
        tree.check_key(key, _RESERVED)
        with self._mapped("put", key):
            if if_absent and self._fs.exists(self._path(key)):
                raise ConflictError("an object is there already", op="put", key=key)
            return self._put(key, bytes(data))

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        """As `Store.get`; a pinned one looks at the version after reading."""
        tree.check_key(key, _RESERVED)
        if not into.nbytes:
            self.stat(key)
            return 0
        data = self._ranged(key, offset, offset + into.nbytes)
        if tag and self.stat(key).tag != tag:
            raise ConflictError("the object was replaced meanwhile", op="get", key=key)
        into[: len(data)] = data
        return len(data)

    def stat(self, key: str) -> Stat:
        """As `Store.stat`."""
        tree.check_key(key, _RESERVED)
        with self._mapped("stat", key):
            return self._stat(key)

    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        """As `Store.list`, folder by folder."""
        return islice((describe(key, info) for key, info in tree.walk(self._scan, prefix, after)), limit)

    def delete(self, keys: Iterable[str]) -> None:
        """As `Store.delete`, one by one; emptied folders stay."""
        for key in keys:
            tree.check_key(key, _RESERVED)
            with self._mapped("delete", key):
                self._remove(key)

    def copy(self, source: str, key: str, *, tag: Tag | None = None) -> Stat:
        """As `Store.copy`."""
        if not self.traits.copy:
            return super().copy(source, key, tag=tag)
        tree.check_key(source, _RESERVED)
        tree.check_key(key, _RESERVED)
        found = self.stat(source)
        if tag and found.tag != tag:
            raise ConflictError("the object was replaced meanwhile", op="copy", key=source)
        with self._mapped("copy", source):
            made = self._written(key, found.size, lambda path: self._fs.cp_file(self._path(source), path))
        if tag and self.stat(source).tag != tag:
            self.delete([key])
            raise ConflictError("the object was replaced meanwhile", op="copy", key=source)
        return made

    # -- uploads -----------------------------------------------------------------------------------------------------

    def begin(self, key: str) -> Upload:
        """As `Store.begin`."""
        tree.check_key(key, _RESERVED)
        self._sweep()
        upload = Upload(key=key, id=secrets.token_hex(16))
        with self._mapped("begin", key):
            found = self._put(f"{_RESERVED}/{upload.id}/key", msgspec.json.encode({"key": key}))
        return Upload(key=key, id=upload.id, begun_s=found.modified_s)

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        """As `Store.put_part`."""
        if not 1 <= number <= self.traits.max_parts:
            raise ConfigError(f"part number {number} is not within 1 to {self.traits.max_parts}")
        self._check_id("put_part", upload)
        name = f"{_RESERVED}/{upload.id}/{number:05d}"
        with self._mapped("put_part", upload.key):
            found = self._put(name, bytes(data))
        try:
            self._check_upload("put_part", upload)
        except NotFoundError:
            with self._mapped("put_part", upload.key):
                self._remove(name)
            raise
        return _part_tag(number, found)

    def parts(self, upload: Upload) -> dict[int, PartTag]:
        """As `Store.parts`."""
        self._check_upload("parts", upload)
        found = {
            int(entry.name): describe(entry.name, info)
            for entry, info in self._scan(f"{_RESERVED}/{upload.id}/")
            if entry.name.isdigit()
        }
        return {number: _part_tag(number, found[number]) for number in sorted(found)}

    def finish(self, upload: Upload, parts: Iterable[PartTag]) -> Stat:
        """As `Store.finish`; the bytes pass through this process once more, one part at a time."""
        wanted = sorted(parts, key=lambda part: part.number)
        self._check_id("finish", upload)
        if made := self._finished(upload, wanted):
            self.abort(upload)
            return made
        self._check_parts(upload, wanted)
        receipt = f"{_RESERVED}/finished/{upload.id}"
        with self._mapped("finish", upload.key):
            found = self._written(
                upload.key, sum(part.size for part in wanted), lambda path: self._assemble(upload, wanted, path)
            )
            self._put(receipt, msgspec.json.encode((found.tag, [part.tag for part in wanted])))
        self.abort(upload)
        return found

    def abort(self, upload: Upload) -> None:
        """As `Store.abort`."""
        if not _ID.fullmatch(upload.id):
            return
        folder = f"{_RESERVED}/{upload.id}/"
        # the key goes last: while it is there, a later abort finds what this one left
        for entry, _ in sorted(self._scan(folder), key=lambda found: found[0].name):
            with self._mapped("abort", upload.key):
                self._remove(folder + entry.name)
        if not self._whole_puts:
            with suppress(Exception):
                self._fs.rmdir(self._path(folder.rstrip("/")))

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """As `Store.uploads`, in order of their keys."""
        found: list[Upload] = []
        for entry, _ in self._scan(f"{_RESERVED}/"):
            if _ID.fullmatch(entry.name):
                with suppress(NotFoundError):
                    key, begun_s = self._read_key("uploads", entry.name)
                    found.append(Upload(key=key, id=entry.name, begun_s=begun_s))
        return iter(sorted((one for one in found if one.key.startswith(prefix)), key=lambda one: (one.key, one.id)))

    # -- what they share ---------------------------------------------------------------------------------------------

    @property
    def _fs(self) -> Any:
        """The file system: rebuilt after a fork, and one per thread where it is not made for many."""
        place = self._shared if self._is_async else self._own
        if getattr(place, "pid", None) != os.getpid():
            place.fs, place.pid = _connect(self._full_url), os.getpid()
        return place.fs

    def _path(self, key: str) -> str:
        """Where a key lies, as the file system writes it."""
        return f"{self._root.rstrip('/')}/{key}"

    @contextmanager
    def _mapped(self, op: str, key: str) -> Iterator[None]:
        """Turn any error of the file system into ours."""
        try:
            yield
        except CkptsyncError:
            raise
        except Exception as error:
            raise translate(error, op=op, key=key, url=self.url) from error

    def _stat(self, name: str) -> Stat:
        """Describe a file, which may be one of our own."""
        path = self._path(name)
        self._fs.invalidate_cache(path)
        info = self._fs.info(path)
        if info.get("type") != "file":
            raise FileNotFoundError(path)
        return describe(name, info)

    def _remove(self, name: str) -> None:
        """Delete a file, unless it is not there or a folder bears its name."""
        fs, path = self._fs, self._path(name)
        try:
            fs.rm_file(path)
        except (FileNotFoundError, NotADirectoryError):
            return
        except Exception:
            # which error a folder gets, each file system decides for itself
            if not fs.isdir(path):
                raise
        finally:
            fs.invalidate_cache(path)

    def _ranged(self, key: str, start: int, end: int) -> bytes:
        """Read a range, cut at the object's end."""
        with self._mapped("get", key):
            try:
                data: bytes = self._fs.cat_file(self._path(key), start=start, end=end)
            except FileNotFoundError:
                raise
            except Exception:
                # some services call it an error to begin behind the end
                if start < self._stat(key).size:
                    raise
                return b""
        return data

    def _scan(self, folder: str) -> Iterator[tuple[tree.Entry, Mapping[str, Any]]]:
        """Files and folders in a folder; one that is gone is empty."""
        path = self._path(folder).rstrip("/")
        with self._mapped("list", folder):
            self._fs.invalidate_cache(path)
            try:
                infos = list(self._fs.ls(path, detail=True))
            except (FileNotFoundError, NotADirectoryError):
                return
        for info in infos:
            name = info["name"].rstrip("/")
            last = name.rpartition("/")[2]
            is_itself = name.strip("/") == path.strip("/")
            if info["type"] in {"file", "directory"} and not is_itself and (folder or last != _RESERVED):
                yield tree.Entry(last, info["type"] == "directory"), info

    def _put(self, name: str, data: bytes) -> Stat:
        """Write a file whole."""
        return self._written(name, len(data), lambda path: self._fs.pipe_file(path, data))

    def _written(self, name: str, size: int, write: Callable[[str], None]) -> Stat:
        """Let `write` make a file that appears under its name only when it is whole."""
        path = self._path(name)
        if self._whole_puts:
            write(path)
            self._fs.invalidate_cache(path)
        else:
            write_aside(self._fs, path, self._path(f"{_RESERVED}/drafts/{secrets.token_hex(16)}"), write)
        found = self._stat(name)
        if found.size != size:
            raise StoreError(f"{found.size} bytes arrived instead of {size}", op="put", key=name)
        return found

    def _check_id(self, op: str, upload: Upload) -> None:
        """Refuse what is no upload id."""
        if not _ID.fullmatch(upload.id):
            raise NotFoundError(f"there is no upload {upload.id}", op=op, key=upload.key)

    def _check_upload(self, op: str, upload: Upload) -> None:
        """Refuse an upload that is gone."""
        self._check_id(op, upload)
        if self._read_key(op, upload.id)[0] != upload.key:
            raise NotFoundError(f"there is no upload {upload.id}", op=op, key=upload.key)

    def _read_key(self, op: str, name: str) -> tuple[str, float]:
        """Read where an upload is to appear, and when it was begun."""
        record = f"{_RESERVED}/{name}/key"
        with self._mapped(op, record):
            try:
                key = _records.decode(self._fs.cat_file(self._path(record)))["key"]
            except (msgspec.DecodeError, KeyError) as error:
                raise NotFoundError(f"upload {name} has no readable key", op=op, key=record) from error
            return key, self._stat(record).modified_s

    def _finished(self, upload: Upload, wanted: Sequence[PartTag]) -> Stat | None:
        """Return the object an upload made of these parts, None when it made none or it is not there any more."""
        with self._mapped("finish", upload.key):
            try:
                receipt = self._fs.cat_file(self._path(f"{_RESERVED}/finished/{upload.id}"))
                made, parts = _receipts.decode(receipt)
                found = self._stat(upload.key)
            except (FileNotFoundError, msgspec.DecodeError):
                return None
        return found if found.tag == made and parts == [part.tag for part in wanted] else None

    def _check_parts(self, upload: Upload, wanted: Sequence[PartTag]) -> None:
        """Refuse parts that are not those the upload holds."""
        held = self.parts(upload)
        if not wanted or [part.number for part in wanted] != list(range(1, len(wanted) + 1)):
            raise IntegrityError(f"parts of {upload.key!r} are not numbered 1 to n")
        for part in wanted:
            if part.number not in held or held[part.number].tag != part.tag:
                raise IntegrityError(f"part {part.number} of {upload.key!r} is not the one that was sent")

    def _assemble(self, upload: Upload, wanted: Sequence[PartTag], path: str) -> None:
        """Stream parts into one file."""

        def write(file: Any) -> None:
            for part in wanted:
                file.write(self._fs.cat_file(self._path(f"{_RESERVED}/{upload.id}/{part.number:05d}")))
            # a late sender may have replaced one while it was being read
            self._check_parts(upload, wanted)

        stream(self._fs, path, write)

    def _sweep(self) -> None:
        """Remove, the first time, what killed processes left long ago."""
        if self._swept:
            return
        self._swept = True
        for folder in (f"{_RESERVED}/drafts/", f"{_RESERVED}/finished/"):
            for entry, info in self._scan(folder):
                modified_s = describe(entry.name, info).modified_s
                if 0 < modified_s < SYSTEM.now() - _STALE_S:
                    with self._mapped("begin", folder):
                        self._remove(folder + entry.name)


def _kind_of(url: str) -> Any:
    """Look up the class of file system a URL asks for."""
    try:
        from fsspec import get_filesystem_class  # noqa: PLC0415  an extra
    except ImportError as error:
        raise ConfigError(f"{without_secrets(url)} needs fsspec: pip install 'ckptsync[fsspec]'") from error
    scheme = url.partition("://")[0]
    try:
        return get_filesystem_class(scheme)
    except ImportError as error:
        raise ConfigError(f"{without_secrets(url)} needs another package: {error}") from error
    except ValueError as error:
        raise ConfigError(
            f"unknown scheme {scheme!r} in {without_secrets(url)}; known are s3, gs, file, memory and those of fsspec, such as "
            "abfs or sftp"
        ) from error


def _connect(url: str) -> Any:
    """Make a file system of our own for a URL, which caches no listings; some connect at once."""
    from fsspec.core import url_to_fs  # noqa: PLC0415  an extra

    fs, _ = url_to_fs(url, skip_instance_cache=True)
    # not an option of url_to_fs here: several file systems hand options they do not know to their servers
    if (cache := getattr(fs, "dircache", None)) is not None:
        cache.use_listings_cache = False
    return fs


def _part_tag(number: int, found: Stat) -> PartTag:
    return PartTag(number=number, size=found.size, tag=found.tag)
