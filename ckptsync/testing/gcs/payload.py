"""Object bytes as lists of immutable segments, and the hashes over them."""

from __future__ import annotations

import base64
import hashlib
import mmap
import os
import tempfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

import google_crc32c

SEGMENT_BYTES = 64 << 20  # touched as it fills, so a lying Content-Length costs nothing
MAPPED_BYTES = 64 << 10  # below this a mapping costs more than it gives back
HASH_BYTES = 256 << 10  # google_crc32c takes bytes only: copies of this size stay in the cache
CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli, bits reversed


class Payload:
    """Immutable bytes held in segments; slicing and joining copy nothing.

    Attributes:
        segments: read-only views, none of them empty.
        size: bytes in all.
    """

    __slots__ = ("_ends", "segments", "size")

    def __init__(self, segments: Iterable[memoryview] = ()) -> None:
        """Hold the segments, which nobody may change from now on."""
        self.segments = tuple(segment.toreadonly() for segment in segments if len(segment))
        self._ends = tuple(accumulate(len(segment) for segment in self.segments))
        self.size = self._ends[-1] if self._ends else 0

    @classmethod
    def of(cls, content: bytes) -> Payload:
        """Wrap bytes."""
        return cls((memoryview(content),))

    @classmethod
    def join(cls, payloads: Iterable[Payload]) -> Payload:
        """Put payloads behind one another."""
        return cls(segment for payload in payloads for segment in payload.segments)

    def slice(self, start: int, end: int) -> Payload:
        """Bytes `start` to `end`, half-open; what lies outside is left out."""
        return Payload(self._views(max(start, 0), min(end, self.size)))

    def _views(self, start: int, end: int) -> Iterator[memoryview]:
        index = bisect_right(self._ends, start)
        while start < end:
            segment = self.segments[index]
            begins = self._ends[index] - len(segment)
            stop = min(end, self._ends[index])
            yield segment[start - begins : stop - begins]
            start, index = stop, index + 1

    def __bytes__(self) -> bytes:
        return b"".join(self.segments)


def allocate(size_bytes: int, root: Path | None) -> memoryview:
    """Make writable memory for `size_bytes`: in RAM, or in a nameless file below `root`.

    Either goes back to the system with its last view. In files it costs one open file a call from 64 KiB on.

    Raises:
        OSError: there is no room.
    """
    if size_bytes < MAPPED_BYTES:
        return memoryview(bytearray(size_bytes))
    if root is None:
        return memoryview(mmap.mmap(-1, size_bytes))
    with tempfile.TemporaryFile(dir=root) as file:
        file.truncate(size_bytes)
        if hasattr(os, "posix_fallocate"):  # macOS has none
            os.posix_fallocate(file.fileno(), 0, size_bytes)  # a full disk is an OSError here, a SIGBUS later
        return memoryview(mmap.mmap(file.fileno(), size_bytes))


def crc32c(payload: Payload) -> int:
    """CRC32C of the whole, as an unsigned 32-bit number."""
    value = 0
    for segment in payload.segments:
        for start in range(0, len(segment), HASH_BYTES):
            value = google_crc32c.extend(value, bytes(segment[start : start + HASH_BYTES]))
    return int(value)


def md5(payload: Payload) -> bytes:
    """MD5 digest of the whole, 16 bytes."""
    running = Md5()
    running.update(payload)
    return running.digest()


class Md5:
    """An MD5 digest that grows with its object."""

    def __init__(self) -> None:
        """Start with no bytes."""
        self._digest = hashlib.md5(usedforsecurity=False)

    def update(self, payload: Payload) -> None:
        """Add bytes."""
        for segment in payload.segments:
            self._digest.update(segment)

    def digest(self) -> bytes:
        """The digest of all bytes so far."""
        return self._digest.digest()


def combine_crc32c(first: int, second: int, second_size_bytes: int) -> int:
    """CRC32C of two byte strings behind one another, from their own.

    Appending n bytes multiplies the first remainder by x^8n modulo the polynomial; the initial and final inversions
    cancel out.
    """
    return _multiply(_x_to_the_8(second_size_bytes), first) ^ second


def _multiply(a: int, b: int) -> int:
    """Multiply two polynomials over GF(2) modulo CRC32C's; the highest bit is the constant term."""
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ CRC32C_POLYNOMIAL if b & 1 else b >> 1
    return product


@lru_cache(maxsize=4096)
def _x_to_the_8(size_bytes: int) -> int:
    """Take x to the power of `8 * size_bytes`, modulo the polynomial."""
    power, square, exponent = 1 << 31, 1 << 30, 8 * size_bytes
    while exponent:
        if exponent & 1:
            power = _multiply(square, power)
        square = _multiply(square, square)
        exponent >>= 1
    return power


def encode_crc32c(value: int) -> str:
    """As the service writes it: big-endian, base64."""
    return base64.b64encode(value.to_bytes(4, "big")).decode()


def encode_md5(digest: bytes) -> str:
    """As the service writes it: base64."""
    return base64.b64encode(digest).decode()
