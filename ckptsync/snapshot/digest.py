"""Content digests: BLAKE3 of every part, and one of the whole file made from them.

A file of one part has its part's digest, so `b3sum FILE` shows it. A file of more has BLAKE3 of its parts' digests in
order, so that parts can be hashed in parallel and checked alone.
"""

from __future__ import annotations

from collections.abc import Sequence

from blake3 import blake3

DIGEST_BYTES = 32


def part_digest(data: bytes | bytearray | memoryview) -> str:
    """Return BLAKE3 of `data`, 64 lower-case hex digits. Lets other threads run while it works."""
    return blake3(data).hexdigest()


def part_hasher() -> blake3:
    """Return what digests a part piece by piece: `update` with each in order, then `hexdigest`."""
    return blake3()


def file_digest(parts: Sequence[str]) -> str:
    """Return the digest of a file from its parts' digests, in order; of an empty file, BLAKE3 of nothing."""
    if len(parts) == 1:
        return parts[0]
    return blake3(b"".join(bytes.fromhex(part) for part in parts)).hexdigest()


def part_count(size: int, part_bytes: int) -> int:
    """Return how many parts a file of `size` bytes has: none when it is empty."""
    return -(-size // part_bytes)


def part_span(number: int, size: int, part_bytes: int) -> tuple[int, int]:
    """Return offset and size in bytes of part `number` (1-based) of a file."""
    offset = (number - 1) * part_bytes
    return offset, min(part_bytes, size - offset)
