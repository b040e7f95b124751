"""Whether packing a file pays, and how: a few blocks from all over it are tried first."""

from __future__ import annotations

from ckptsync.snapshot.encoding import BLOCK_BYTES, Shuffle
from ckptsync.transfer.packing import LEVEL, shuffled
from ckptsync.transfer.source import SourceFile

SMALLEST_BYTES = 64 << 10
"""Smaller files cost a request and little else."""
_SAMPLES = 4
_EVERY_BYTES = 16 << 20
_ALIGNED_BYTES = 64
"""Frameworks lay tensors at multiples of this."""
MOST_KEPT = 0.9
"""Less than a tenth saved is not worth the CPU."""
_SHUFFLE_SAVES = 0.01
"""Less, and elements are taken for smaller ones, or left in their order, which costs nothing."""
_SHUFFLES: tuple[Shuffle, ...] = (1, 2, 4, 8)


def best_shuffle(file: SourceFile) -> Shuffle | None:
    """Return how to shuffle a file before it is packed; None when it should be stored as it is.

    Decided by sizes alone, never by times, so that a killed upload that is continued without its journal is packed the same way.

    Args:
        file: the source; at most four blocks of it are read.

    Raises:
        SourceChangedError: the file is no longer the one first seen.
        DiskError: it cannot be read.
    """
    import zstandard  # noqa: PLC0415  an extra

    if file.size < SMALLEST_BYTES:
        return None
    sample_bytes = min(BLOCK_BYTES, file.size)  # of another size they would be packed better or worse than the file
    sample = memoryview(bytearray(sample_bytes))
    compressor = zstandard.ZstdCompressor(level=LEVEL)
    packed = dict.fromkeys(_SHUFFLES, 0)
    count = max(1, min(_SAMPLES, file.size // _EVERY_BYTES))
    for number in range(count):
        offset = (file.size - sample_bytes) * (2 * number + 1) // (2 * count)
        file.read_into(sample, offset - offset % _ALIGNED_BYTES)
        for shuffle in _SHUFFLES:
            packed[shuffle] += len(compressor.compress(shuffled(sample, shuffle)))
    whole = count * sample_bytes
    best = _SHUFFLES[0]
    for shuffle in _SHUFFLES:
        if packed[best] - packed[shuffle] >= _SHUFFLE_SAVES * whole:
            best = shuffle
    return best if packed[best] <= MOST_KEPT * whole else None
