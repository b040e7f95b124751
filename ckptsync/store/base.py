"""What a bucket is to us: a dozen verbs over immutable byte strings under one URL.

Keys are relative to the run URL the store was opened with, use `/`, never begin or end with it. Every method is safe to
call from many threads at once. Every failure is one of `ckptsync.errors`; no SDK error escapes. A store keeps no
memoryview it was handed beyond the call.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import NewType, Self, TypeVar

from ckptsync.errors import UnsupportedError

Tag = NewType("Tag", str)
"""Opaque version of an object: the ETag on S3, the generation on GCS."""

Buffer = bytes | bytearray | memoryview
T = TypeVar("T")
_NO_HASHES: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a store can do; callers look here before they ask.

    Attributes:
        conditional_put: `put(if_absent=True)` has exactly one winner among any number of racers.
        multipart: `begin`, `put_part`, `parts`, `finish`, `abort`, `uploads` work and survive the process.
        copy: `copy` duplicates a whole object without moving its bytes through the client.
        copy_part: `copy_part` does so for a byte range.
        min_part_bytes: smallest part that is not the last one.
        max_part_bytes: largest part.
        max_parts: most parts of one object.
        max_put_bytes: largest object a single `put` takes.
        max_copy_bytes: largest object `copy` takes.
        rewrite_pause_s: seconds that must lie between two changes of one object.
    """

    conditional_put: bool = True
    multipart: bool = True
    copy: bool = True
    copy_part: bool = True
    min_part_bytes: int = 1
    max_part_bytes: int = 5 << 30
    max_parts: int = 10_000
    max_put_bytes: int = 5 << 30
    max_copy_bytes: int = 5 << 30
    rewrite_pause_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Stat:
    """An object as the service lists it.

    Attributes:
        key: relative to the run URL.
        size: bytes.
        tag: version of the object; a `get` pinned to it fails when the object was replaced. May be empty in listings.
        modified_s: seconds since the Unix epoch by the service's clock.
        hashes: digests of the whole object that the service itself vouches for, lower-case hex by algorithm name
            (`md5`, `crc32c`, `crc64nvme`, and `md5-of-parts`: S3's multipart ETag, `hex-count`); empty when it tells none.
    """

    key: str
    size: int
    tag: Tag
    modified_s: float
    hashes: Mapping[str, str] = field(default_factory=lambda: _NO_HASHES)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartTag:
    """A part of an unfinished upload, as the service holds it.

    Attributes:
        number: 1-based position.
        size: bytes.
        tag: what `finish` must be given back.
        hashes: as in `Stat`, of this part alone.
    """

    number: int
    size: int
    tag: Tag
    hashes: Mapping[str, str] = field(default_factory=lambda: _NO_HASHES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An unfinished multipart upload, which outlives the process that began it.

    Attributes:
        key: where the object will appear, relative to the run URL.
        id: the service's name for it.
        begun_s: seconds since the Unix epoch by the service's clock, 0.0 when unknown.
    """

    key: str
    id: str
    begun_s: float = 0.0


class Store(ABC):
    """A bucket below one URL. Use as a context manager, or call `close`.

    Five verbs make a store (`put get stat list delete`); the rest make it resumable and let it copy on the server side.
    A store that lacks those says so in `traits`, and its methods raise `UnsupportedError`.
    """

    url: str
    """The run URL, without credentials, for messages."""
    traits: Traits

    @abstractmethod
    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        """Create or replace an object in one request; it appears whole or not at all.

        Args:
            key: where.
            data: the whole content, at most `traits.max_put_bytes`.
            if_absent: create only; the service itself must refuse when anything is there.

        Raises:
            ConflictError: `if_absent` and the key is taken. A lost answer to an earlier try looks the same: read back
                and compare. Nothing was written.
            StoreError: nothing visible changed, or the whole object did.
        """

    @abstractmethod
    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        """Read bytes straight into the caller's memory.

        Args:
            key: which object.
            into: writable; filled from its start.
            offset: 0-based first byte of the object.
            tag: when given and not empty, the version that must still be there.

        Returns:
            How many bytes were written: `len(into)`, or fewer when the object ends earlier (0 at or past its end).

        Raises:
            NotFoundError: no such object.
            ConflictError: the object is no longer the version `tag` names.
            TransientError: broke half-way; `received` bytes at the start of `into` are good.
        """

    @abstractmethod
    def stat(self, key: str) -> Stat:
        """Tell size, tag and hashes of one object.

        Raises:
            NotFoundError: certainly not there.
            DeniedError: cannot tell (S3 answers 403 for a missing key to those who may not list).
        """

    @abstractmethod
    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        """Objects whose key starts with `prefix`, in ascending order of the key's UTF-8 bytes.

        Args:
            prefix: a plain string prefix; callers end it with `/` to mean a folder.
            limit: stop after so many, and ask the service for no more; None for all, page by page.
            after: leave out keys up to and including this one.
        """

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; one that is not there counts as deleted. Safe to call again.

        Raises:
            StoreError: some may be deleted and others not; calling again finishes.
        """

    def read(self, key: str) -> bytes:
        """Return a small object whole, at one version.

        Raises:
            NotFoundError: no such object.
        """
        found = self.stat(key)
        content = bytearray(found.size)
        count = self.get(key, memoryview(content), tag=found.tag) if found.size else 0
        return bytes(content[:count])

    def vouches(self, hashes: Mapping[str, str], chunks: Iterable[Buffer]) -> bool:
        """Tell whether the service's own digests prove that it holds these bytes.

        Args:
            hashes: from a `Stat` or `PartTag`.
            chunks: the bytes, cut where the object's parts were cut; read at most once.

        Returns:
            False also when the digests are too weak to prove it (CRC32C), so that the bytes are sent again.
        """
        if whole := hashes.get("md5"):
            digest = hashlib.md5(usedforsecurity=False)
            for chunk in chunks:
                digest.update(chunk)
            return digest.hexdigest() == whole
        if joined := hashes.get("md5-of-parts"):
            parts = [hashlib.md5(chunk, usedforsecurity=False).digest() for chunk in chunks]
            return f"{hashlib.md5(b''.join(parts), usedforsecurity=False).hexdigest()}-{len(parts)}" == joined
        return False

    def copy(self, source: str, key: str, *, tag: Tag | None = None) -> Stat:
        """Duplicate a whole object on the server. `tag` pins the source's version. Needs `traits.copy`."""
        del source, tag
        raise UnsupportedError("this store cannot copy objects", op="copy", key=key)

    def begin(self, key: str) -> Upload:
        """Open a multipart upload; nothing is visible at `key` before `finish`. Not idempotent: each call opens one."""
        raise UnsupportedError("this store has no multipart uploads", op="begin", key=key)

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        """Send one part. Calling again with the same number replaces the part.

        Args:
            upload: from `begin` or `uploads`.
            number: 1 to `traits.max_parts`; numbers may arrive in any order.
            data: between `traits.min_part_bytes` (the last part may be shorter, not empty) and `traits.max_part_bytes`.

        Raises:
            NotFoundError: the upload is gone (finished, aborted or expired).
            IntegrityError: the service received other bytes than were sent.
        """
        del number, data
        raise UnsupportedError("this store has no multipart uploads", op="put_part", key=upload.key)

    def copy_part(
        self, upload: Upload, number: int, source: str, offset: int, size: int, *, tag: Tag | None = None
    ) -> PartTag:
        """Make a part from bytes `offset` to `offset + size` of another object, on the server. Needs `traits.copy_part`."""
        del number, source, offset, size, tag
        raise UnsupportedError("this store cannot copy parts", op="copy_part", key=upload.key)

    def parts(self, upload: Upload) -> dict[int, PartTag]:
        """Parts the service holds for an upload, by number, all pages.

        Raises:
            NotFoundError: the upload is gone.
        """
        raise UnsupportedError("this store has no multipart uploads", op="parts", key=upload.key)

    def finish(self, upload: Upload, parts: Iterable[PartTag]) -> Stat:
        """Make the object appear from exactly these parts, numbered 1..n. Compares what the service assembled.

        Safe to call again after a lost answer: an upload that is gone is settled by looking at the object.

        Raises:
            IntegrityError: the assembled object is not what the parts make, or a part is no longer the one named.
            NotFoundError: the upload is gone and no matching object is there.
        """
        del parts
        raise UnsupportedError("this store has no multipart uploads", op="finish", key=upload.key)

    def abort(self, upload: Upload) -> None:
        """Drop an upload and its parts; one that is gone counts as aborted. Safe to call again."""
        raise UnsupportedError("this store has no multipart uploads", op="abort", key=upload.key)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Unfinished uploads whose key starts with `prefix`, all pages."""
        raise UnsupportedError("this store has no multipart uploads", op="uploads", key=prefix)

    def within(self, deadline_s: float) -> Store:
        """Return the same store, for a courtesy that must not take long: where requests are tried again, no try begins later than that.

        Args:
            deadline_s: seconds since the first try.
        """
        del deadline_s
        return self

    def close(self) -> None:
        """Let go of connections and files. Safe to call again."""
        return

    def __enter__(self) -> Self:
        """Nothing to do: a store is ready once it is made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class StoreWrapper(Store):
    """A store that hands every verb to another, each through `around`.

    A subclass that overrides `around` alone sees every request; one that needs more of a verb overrides that as well.
    """

    def __init__(self, inner: Store) -> None:
        """Wrap `inner`, which is closed with this one."""
        self.inner = inner
        self.url = inner.url
        self.traits = inner.traits

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        """Send one request to the inner store; what stands before and behind it is for subclasses to say.

        Args:
            verb: name of the method, as in `put_part`.
            key: the object's, the upload's, or the prefix of a listing; of a deletion the first, empty when there is none.
            request: asks the inner store. A listing's is asked when its first entry is wanted.
        """
        del verb, key
        return request()

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        """As the inner store's."""
        return self.around("put", key, lambda: self.inner.put(key, data, if_absent=if_absent))

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        """As the inner store's."""
        return self.around("get", key, lambda: self.inner.get(key, into, offset=offset, tag=tag))

    def stat(self, key: str) -> Stat:
        """As the inner store's."""
        return self.around("stat", key, lambda: self.inner.stat(key))

    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        """As the inner store's."""
        yield from self.around("list", prefix, lambda: self.inner.list(prefix, limit=limit, after=after))

    def delete(self, keys: Iterable[str]) -> None:
        """As the inner store's."""
        wanted = tuple(keys)
        self.around("delete", wanted[0] if wanted else "", lambda: self.inner.delete(wanted))

    def read(self, key: str) -> bytes:
        """As the inner store's."""
        return self.around("read", key, lambda: self.inner.read(key))

    def vouches(self, hashes: Mapping[str, str], chunks: Iterable[Buffer]) -> bool:
        """As the inner store's; no request."""
        return self.inner.vouches(hashes, chunks)

    def copy(self, source: str, key: str, *, tag: Tag | None = None) -> Stat:
        """As the inner store's."""
        return self.around("copy", key, lambda: self.inner.copy(source, key, tag=tag))

    def begin(self, key: str) -> Upload:
        """As the inner store's."""
        return self.around("begin", key, lambda: self.inner.begin(key))

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        """As the inner store's."""
        return self.around("put_part", upload.key, lambda: self.inner.put_part(upload, number, data))

    def copy_part(
        self, upload: Upload, number: int, source: str, offset: int, size: int, *, tag: Tag | None = None
    ) -> PartTag:
        """As the inner store's."""
        return self.around(
            "copy_part",
            upload.key,
            lambda: self.inner.copy_part(upload, number, source, offset, size, tag=tag),
        )

    def parts(self, upload: Upload) -> dict[int, PartTag]:
        """As the inner store's."""
        return self.around("parts", upload.key, lambda: self.inner.parts(upload))

    def finish(self, upload: Upload, parts: Iterable[PartTag]) -> Stat:
        """As the inner store's."""
        wanted = tuple(parts)
        return self.around("finish", upload.key, lambda: self.inner.finish(upload, wanted))

    def abort(self, upload: Upload) -> None:
        """As the inner store's."""
        self.around("abort", upload.key, lambda: self.inner.abort(upload))

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """As the inner store's."""
        yield from self.around("uploads", prefix, lambda: self.inner.uploads(prefix))

    def close(self) -> None:
        """Close the inner store."""
        self.inner.close()
