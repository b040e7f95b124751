"""What the sink holds: one blob with known digests, objects that are mostly ranges of it, and unfinished uploads."""

from __future__ import annotations

import base64
import hashlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import google_crc32c
from awscrt import checksums

from bench.sink.wire import MIB, Connection, Piece, Request, memory_of

KEPT_BYTES = 4 * MIB
KEPT_BUCKET = "kept"
_WINDOW_BYTES = 4 * MIB


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes, wherever they are.

    Attributes:
        pieces: in order.
        is_kept: False when what was sent is gone, and the blob stands for it.
        digests: those computed so far, by kind.
    """

    pieces: tuple[Piece, ...]
    is_kept: bool = True
    digests: dict[str, bytes] = field(default_factory=dict, compare=False)

    @property
    def size(self) -> int:
        """Bytes of all pieces."""
        return sum(piece.size for piece in self.pieces)

    def cut(self, begin: int, end: int) -> Iterator[Piece]:
        """The pieces of a range."""
        at = 0
        for piece in self.pieces:
            first, last = max(begin, at), min(end, at + piece.size)
            if first < last:
                yield Piece(piece.descriptor, piece.offset + first - at, last - first, piece.owner)
            at += piece.size

    def windows(self) -> Iterator[bytes]:
        """All bytes, a few MiB at a time."""
        for piece in self.pieces:
            for at in range(0, piece.size, _WINDOW_BYTES):
                yield os.pread(piece.descriptor, min(_WINDOW_BYTES, piece.size - at), piece.offset + at)


@dataclass(frozen=True, slots=True)
class Stored:
    """An object.

    Attributes:
        content: its bytes.
        etag: in quotes.
        generation: grows with every object that is stored.
        modified_s: since the epoch.
        told: headers that came with it and go with it: metadata, content type, checksums.
        in_parts: whether it was made of parts, and so has no MD5.
    """

    content: Content
    etag: str
    generation: int
    modified_s: float
    told: dict[str, str] = field(default_factory=dict)
    in_parts: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        return self.content.size


@dataclass(slots=True)
class Upload:
    """An unfinished upload: parts by number, or what came of a resumable one.

    Attributes:
        bucket: where to.
        key: where to.
        told: headers that the object shall have.
        parts: content, ETag and told checksums by number.
        received: bytes of a resumable one so far.
        condition: generation that must be there when it is finished; None for any.
    """

    bucket: str
    key: str
    told: dict[str, str]
    parts: dict[int, tuple[Content, str, dict[str, str]]] = field(default_factory=dict)
    received: int = 0
    condition: int | None = None


class PreconditionError(Exception):
    """A condition does not hold; nothing was changed."""


class State:
    """Everything of one sink; safe for many threads."""

    def __init__(self, blob: Path) -> None:
        self.blob = os.open(blob, os.O_RDONLY)
        self.blob_bytes = os.fstat(self.blob).st_size
        self.lock = threading.Lock()
        self.objects: dict[tuple[str, str], Stored] = {}
        self.uploads: dict[str, Upload] = {}
        self._numbers = itertools.count(1)

    def number(self) -> int:
        """One that was never given before."""
        return next(self._numbers)

    def of_blob(self, size: int, offset: int = 0) -> Content:
        """The blob's range that stands for something dropped; it begins anew where the blob ends."""
        pieces: list[Piece] = []
        while size:
            at = offset % self.blob_bytes
            pieces.append(Piece(self.blob, at, min(size, self.blob_bytes - at)))
            size -= pieces[-1].size
            offset += pieces[-1].size
        return Content(tuple(pieces), is_kept=False)

    def take(self, wire: Connection, request: Request, bucket: str) -> Content:
        """Receive a body: keep it when it is small or the bucket keeps everything, else drop it."""
        if bucket == KEPT_BUCKET:
            return Content((wire.keep_body(request).piece(),))
        size = request.payload_bytes
        if size is None or size > KEPT_BYTES:
            return self.of_blob(wire.drop_body(request))
        return kept(wire.read_body(request))

    def joined(self, contents: Iterable[Content]) -> Content:
        """Contents end to end; with one of them dropped, the blob stands for the whole."""
        contents = tuple(contents)
        if all(content.is_kept for content in contents):
            return Content(tuple(piece for content in contents for piece in content.pieces))
        return self.of_blob(sum(content.size for content in contents))

    def find(self, bucket: str, key: str) -> Stored | None:
        """The object, if there is one."""
        return self.objects.get((bucket, key))

    def store(
        self,
        bucket: str,
        key: str,
        content: Content,
        *,
        etag: str = "",
        told: dict[str, str] | None = None,
        in_parts: bool = False,
        allowed: Callable[[Stored | None], bool] = lambda _: True,
    ) -> Stored:
        """Let an object appear.

        Raises:
            PreconditionError: `allowed` says no to what is there.
        """
        number = self.number()
        # An ETag that looked like an MD5 would be compared with one.
        made = Stored(content, etag or f'"{number:032x}-1"', number, time.time(), told or {}, in_parts)
        with self.lock:
            if not allowed(self.objects.get((bucket, key))):
                raise PreconditionError
            self.objects[bucket, key] = made
        return made

    def delete(self, bucket: str, key: str) -> bool:
        """Let an object go; whether it was there."""
        with self.lock:
            return self.objects.pop((bucket, key), None) is not None

    def listed(self, bucket: str, prefix: str, after: str = "") -> list[tuple[str, Stored]]:
        """Objects below a prefix, sorted by key, those behind `after`."""
        with self.lock:
            found = [(k, o) for (b, k), o in self.objects.items() if b == bucket and k.startswith(prefix) and k > after]
        return sorted(found, key=lambda pair: pair[0])

    def begin(self, bucket: str, key: str, told: dict[str, str]) -> str:
        """Open an upload; its id."""
        upload_id = f"upload-{self.number()}"
        with self.lock:
            self.uploads[upload_id] = Upload(bucket, key, told)
        return upload_id

    def reset(self) -> None:
        """Forget all objects and uploads."""
        with self.lock:
            self.objects.clear()
            self.uploads.clear()


def kept(content: bytes) -> Content:
    """Bytes of our own."""
    return Content((memory_of(content).piece(),) if content else ())


def crc32c(content: Content) -> str:
    """CRC32C in base64, as Google writes it."""
    return base64.b64encode(_digest(content, "crc32c")).decode()


def md5(content: Content) -> str:
    """MD5 in base64."""
    return base64.b64encode(_digest(content, "md5")).decode()


def crc64nvme(content: Content) -> str:
    """CRC64NVME in base64, as Amazon writes it."""
    return base64.b64encode(_digest(content, "crc64nvme")).decode()


def _digest(content: Content, kind: str) -> bytes:
    """The digest of some kind, computed once; of what was dropped once for all, for the blob's ranges do not change."""
    if kind not in content.digests:
        ranges = tuple((piece.descriptor, piece.offset, piece.size) for piece in content.pieces)
        content.digests[kind] = _compute(content, kind) if content.is_kept else _of_ranges(ranges, kind)
    return content.digests[kind]


@lru_cache(maxsize=65_536)
def _of_ranges(ranges: tuple[tuple[int, int, int], ...], kind: str) -> bytes:
    return _compute(Content(tuple(Piece(*one) for one in ranges)), kind)


def _compute(content: Content, kind: str) -> bytes:
    if kind == "md5":
        whole = hashlib.md5(usedforsecurity=False)
        for window in content.windows():
            whole.update(window)
        return whole.digest()
    crc = 0
    for window in content.windows():
        crc = google_crc32c.extend(crc, window) if kind == "crc32c" else checksums.crc64nvme(window, crc)
    return crc.to_bytes(4 if kind == "crc32c" else 8, "big")
