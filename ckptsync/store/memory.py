"""A bucket in this process's memory, for tests and for trying things out."""

from __future__ import annotations

import hashlib
import heapq
import itertools
import secrets
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import ConfigError, ConflictError, IntegrityError, NotFoundError, StoreError
from ckptsync.store.base import Buffer, PartTag, Stat, Store, Tag, Traits, Upload


@dataclass(frozen=True, slots=True)
class _Blob:
    """Immutable content: an object or a part."""

    data: bytes
    tag: Tag
    modified_s: float
    md5: str


@dataclass(slots=True)
class _Pending:
    """An unfinished upload."""

    upload: Upload
    parts: dict[int, _Blob] = field(default_factory=dict)


@dataclass(slots=True)
class _Bucket:
    """What all stores of one name share; `lock` guards every field."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    objects: dict[str, _Blob] = field(default_factory=dict)
    uploads: dict[str, _Pending] = field(default_factory=dict)
    finished: dict[str, tuple[Tag, tuple[Tag, ...]]] = field(default_factory=dict)  # what was made, and of what
    generations: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def blob(self, data: bytes, now_s: float) -> _Blob:
        """Wrap content as a new generation."""
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        with self.lock:
            return _Blob(data, Tag(str(next(self.generations))), now_s, md5)


class MemoryStore(Store):
    """A private bucket; `MemoryStore.named` gives one that the whole process shares. Nothing survives the process."""

    _named: ClassVar[dict[str, _Bucket]] = {}
    _named_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, *, clock: Clock = SYSTEM) -> None:
        """Start empty.

        Args:
            clock: dates the objects.
        """
        self.url = "memory://"
        self.traits = Traits()
        self._bucket = _Bucket()
        self._clock = clock

    @classmethod
    def named(cls, name: str, *, clock: Clock = SYSTEM) -> Self:
        """Open the bucket of that name, the same for everyone in this process.

        Args:
            name: slashes at its ends do not count.
            clock: dates the objects this store writes.
        """
        store = cls(clock=clock)
        name = name.strip("/")
        store.url = f"memory://{name}"
        with cls._named_lock:
            store._bucket = cls._named.setdefault(name, store._bucket)
        return store

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        """As `Store.put`."""
        if not key or key.startswith("/") or key.endswith("/"):
            raise ConfigError(f"key {key!r} cannot be used: it is empty, or begins or ends with a slash")
        blob = self._bucket.blob(bytes(data), self._clock.now())
        with self._bucket.lock:
            if if_absent and key in self._bucket.objects:
                raise ConflictError("an object is there already", op="put", key=key)
            self._bucket.objects[key] = blob
        return _stat(key, blob)

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        """As `Store.get`."""
        data = self._blob("get", key, tag).data
        count = max(0, min(into.nbytes, len(data) - offset))
        into[:count] = memoryview(data)[offset : offset + count]
        return count

    def stat(self, key: str) -> Stat:
        """As `Store.stat`."""
        return _stat(key, self._blob("stat", key))

    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        """As `Store.list`; shows one moment."""
        with self._bucket.lock:
            # str compares by code point, which is the order of the UTF-8 bytes
            wanted = [item for item in self._bucket.objects.items() if item[0].startswith(prefix) and item[0] > after]
        if limit is None:
            wanted.sort(key=lambda item: item[0])
        else:
            wanted = heapq.nsmallest(limit, wanted, key=lambda item: item[0])
        return iter([_stat(key, blob) for key, blob in wanted])

    def delete(self, keys: Iterable[str]) -> None:
        """As `Store.delete`."""
        for key in keys:
            with self._bucket.lock:
                self._bucket.objects.pop(key, None)

    def copy(self, source: str, key: str, *, tag: Tag | None = None) -> Stat:
        """As `Store.copy`."""
        return self.put(key, self._blob("copy", source, tag).data)

    def begin(self, key: str) -> Upload:
        """As `Store.begin`."""
        upload = Upload(key=key, id=secrets.token_hex(8), begun_s=self._clock.now())
        with self._bucket.lock:
            self._bucket.uploads[upload.id] = _Pending(upload)
        return upload

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        """As `Store.put_part`."""
        return self._keep("put_part", upload, number, bytes(data))

    def copy_part(
        self, upload: Upload, number: int, source: str, offset: int, size: int, *, tag: Tag | None = None
    ) -> PartTag:
        """As `Store.copy_part`."""
        data = self._blob("copy_part", source, tag).data
        if not 0 <= offset <= offset + size <= len(data):
            raise StoreError(
                f"bytes {offset} to {offset + size} are not all within the source's {len(data)}",
                op="copy_part",
                key=source,
            )
        return self._keep("copy_part", upload, number, data[offset : offset + size])

    def parts(self, upload: Upload) -> dict[int, PartTag]:
        """As `Store.parts`."""
        with self._bucket.lock:
            held = sorted(self._pending("parts", upload).parts.items())
        return {number: _part_tag(number, blob) for number, blob in held}

    def finish(self, upload: Upload, parts: Iterable[PartTag]) -> Stat:
        """As `Store.finish`; an upload that is gone is settled by the generation it made."""
        wanted = sorted(parts, key=lambda part: part.number)
        bucket = self._bucket
        with bucket.lock:
            if upload.id not in bucket.uploads and (made := bucket.finished.get(upload.id)):
                return self._settle(upload, made, wanted)
            held = self._pending("finish", upload).parts
            if not wanted or [part.number for part in wanted] != list(range(1, len(wanted) + 1)):
                raise IntegrityError(f"parts of {upload.key!r} are not numbered 1 to n")
            for part in wanted:
                if part.number not in held or held[part.number].tag != part.tag:
                    raise IntegrityError(f"part {part.number} of {upload.key!r} is not the one that was sent")
            found = self.put(upload.key, b"".join(held[part.number].data for part in wanted))
            bucket.finished[upload.id] = found.tag, tuple(part.tag for part in wanted)
            del bucket.uploads[upload.id]
        return found

    def abort(self, upload: Upload) -> None:
        """As `Store.abort`."""
        with self._bucket.lock:
            self._bucket.uploads.pop(upload.id, None)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """As `Store.uploads`; shows one moment."""
        with self._bucket.lock:
            found = [pending.upload for pending in self._bucket.uploads.values()]
        return iter(sorted((one for one in found if one.key.startswith(prefix)), key=lambda one: (one.key, one.id)))

    def _blob(self, op: str, key: str, tag: Tag | None = None) -> _Blob:
        """Look an object up."""
        with self._bucket.lock:
            blob = self._bucket.objects.get(key)
        if blob is None:
            raise NotFoundError("no such object", op=op, key=key)
        if tag and tag != blob.tag:
            raise ConflictError("the object was replaced meanwhile", op=op, key=key)
        return blob

    def _pending(self, op: str, upload: Upload) -> _Pending:
        """Look an upload up."""
        pending = self._bucket.uploads.get(upload.id)
        if pending is None or pending.upload.key != upload.key:
            raise NotFoundError("the upload is gone", op=op, key=upload.key)
        return pending

    def _keep(self, op: str, upload: Upload, number: int, data: bytes) -> PartTag:
        """Store a part."""
        if not 1 <= number <= self.traits.max_parts:
            raise ConfigError(f"part number {number} is not within 1 to {self.traits.max_parts}")
        blob = self._bucket.blob(data, self._clock.now())
        with self._bucket.lock:
            self._pending(op, upload).parts[number] = blob
        return _part_tag(number, blob)

    def _settle(self, upload: Upload, made: tuple[Tag, tuple[Tag, ...]], wanted: Sequence[PartTag]) -> Stat:
        """Answer a repeated finish."""
        found = self._bucket.objects.get(upload.key)
        if found is None or made != (found.tag, tuple(part.tag for part in wanted)):
            raise NotFoundError("the upload is gone and so is what it made", op="finish", key=upload.key)
        return _stat(upload.key, found)


def _stat(key: str, blob: _Blob) -> Stat:
    return Stat(key=key, size=len(blob.data), tag=blob.tag, modified_s=blob.modified_s, hashes={"md5": blob.md5})


def _part_tag(number: int, blob: _Blob) -> PartTag:
    return PartTag(number=number, size=len(blob.data), tag=blob.tag, hashes={"md5": blob.md5})
