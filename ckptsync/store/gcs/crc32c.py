"""CRC32C of bytes, and of a whole from the CRC32Cs of its pieces, without the bytes.

Appending n bytes to a message multiplies its CRC by x^(8n) modulo the CRC's polynomial; the appended bytes' own CRC is added
to that. Source: RFC 3720 appendix B.4 (the polynomial), M. Adler's `crc32_combine` in zlib (the method).
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import google_crc32c

from ckptsync.store.base import Buffer

_POLYNOMIAL = 0x82F63B78  # reflected: bit 31 is the coefficient of x^0
_ONE = 1 << 31
_X_TO_8 = 1 << 23
_WINDOW_BYTES = 1 << 20


def crc32c(data: Buffer) -> int:
    """Return the CRC32C of a contiguous buffer, 0 to 2^32-1."""
    crc = 0
    if not memoryview(data).nbytes:
        return crc  # an empty view cannot be cast
    with memoryview(data) as whole, whole.cast("B") as view:
        for start in range(0, len(view), _WINDOW_BYTES):
            with view[start : start + _WINDOW_BYTES] as piece:
                crc = google_crc32c.extend(crc, _lent(piece))
    return crc


def _lent(piece: memoryview) -> Any:
    """What google_crc32c takes: no view, but an array of ctypes, which is made of a writable one without a copy."""
    return bytes(piece) if piece.readonly else (ctypes.c_ubyte * len(piece)).from_buffer(piece)


def combine(pieces: Iterable[tuple[int, int]]) -> int:
    """Return the CRC32C of pieces laid end to end.

    Args:
        pieces: CRC32C (0 to 2^32-1) and size in bytes of each, in order. None at all make the empty message, 0.
    """
    whole = 0
    for crc, size_bytes in pieces:
        whole = _multiply(_shift(size_bytes), whole) ^ crc
    return whole


@lru_cache(maxsize=64)
def _shift(size_bytes: int) -> int:
    """x^(8 * size_bytes); kept, because nearly all parts of a file have one size."""
    power, square = _ONE, _X_TO_8
    while size_bytes:
        if size_bytes & 1:
            power = _multiply(power, square)
        square = _multiply(square, square)
        size_bytes >>= 1
    return power


def _multiply(left: int, right: int) -> int:
    """Product of two polynomials over GF(2), modulo the CRC's."""
    product = 0
    bit = _ONE
    while left:
        if left & bit:
            product ^= right
            left ^= bit
        bit >>= 1
        right = right >> 1 ^ (_POLYNOMIAL if right & 1 else 0)
    return product
