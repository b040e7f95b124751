"""Parts as zstd frames, and back: the only file that knows `zstandard`, which is imported on use.

Each block of a part is shuffled and is one frame, so that a part can be packed, sent, fetched and unpacked alone, in memory that
follows our own options (docs/decisions/0011-compression.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import IO, cast

from ckptsync.errors import ConfigError
from ckptsync.snapshot.encoding import BLOCK_BYTES, Shuffle, packed_bound

LEVEL = 1
"""Of zstd. What floats have to give lies in the frequency of single bytes; higher levels look for repetitions, and find none."""
ARCHIVE_LEVEL = 3
"""Of an archive, which is plain zstd, as `zstd` itself takes."""
_SKIPPABLE = b"\x50\x2a\x4d\x18"
"""Magic number of a frame that decoders pass over. Source: RFC 8878, 3.1.2"""
_SKIPPABLE_HEAD_BYTES = 8

Read = Callable[[int], memoryview]
"""Given a number of bytes, returns as many or fewer; none at the end."""


def need_zstandard() -> None:
    """Make sure that parts can be packed and unpacked.

    Raises:
        ConfigError: `zstandard` is not installed.
    """
    try:
        import zstandard  # noqa: F401, PLC0415  an extra; it is only looked for
    except ImportError as error:
        raise ConfigError("compression needs the package zstandard: pip install 'ckptsync[zstd]'") from error


class Piece:
    """One part in memory: its bytes, and as they are stored."""

    def __init__(self, room: memoryview, size: int, shuffle: Shuffle | None, least_bytes: int) -> None:
        """Use `room`, of `room_bytes(size, shuffle)`, for a part of `size` bytes; what is stored has `least_bytes` or more."""
        self.plain = room[:size]
        self._rest = room[size:]
        self._shuffle = shuffle
        self._least_bytes = least_bytes

    @cached_property
    def stored(self) -> memoryview:
        """As it goes into the bucket; packed when first asked for."""
        if self._shuffle is None:
            return self.plain
        return pack(self.plain, self._rest, self._shuffle, self._least_bytes)


def room_bytes(size: int, shuffle: Shuffle | None) -> int:
    """Return how much memory a part of `size` bytes takes while it is sent; without `shuffle` it is stored as it is."""
    return size if shuffle is None else size + packed_bound(size)


def pack(plain: memoryview, room: memoryview, shuffle: Shuffle, least_bytes: int = 0) -> memoryview:
    """Pack a part. The same bytes and the same version of zstd give the same result, which is how a killed upload is continued.

    Args:
        plain: the part.
        room: writable, `packed_bound` of its size.
        shuffle: bytes of an element, 1 to leave their order alone.
        least_bytes: fill up to that, at most the size of the part, with a frame that decoders pass over.

    Returns:
        The beginning of `room`.
    """
    import zstandard  # noqa: PLC0415  an extra

    compressor = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True, write_checksum=False)
    done = 0
    for offset in range(0, len(plain), BLOCK_BYTES):
        frame = compressor.compress(shuffled(plain[offset : offset + BLOCK_BYTES], shuffle))
        room[done : done + len(frame)] = frame
        done += len(frame)
    if done < least_bytes:
        filling = max(least_bytes - done - _SKIPPABLE_HEAD_BYTES, 0)
        head = _SKIPPABLE + filling.to_bytes(4, "little")
        room[done : done + len(head)] = head
        done += len(head)
        room[done : done + filling] = bytes(filling)
        done += filling
    return room[:done]


def shuffled(block: memoryview, size: int) -> memoryview | bytes:
    """Put the first bytes of all elements of `size` bytes together, then their second bytes, and so on; what is left over stays behind.

    Slices of `bytes` with a stride are what Python does fastest: 0.6 CPU-s/GB, a seventh of a memoryview's.
    """
    if size == 1:
        return block
    raw = bytes(block)
    whole = len(raw) - len(raw) % size
    return b"".join([*(raw[place:whole:size] for place in range(size)), raw[whole:]])


class _Source:
    """What the decompressor reads from."""

    def __init__(self, read: Read) -> None:
        self.read = read


def unpack(read: Read, size: int, shuffle: Shuffle, room: memoryview) -> Iterator[memoryview]:
    """Yield a part again, piece by piece, each at the beginning of `room`.

    It takes no more memory than `room`, two blocks and a window of one block, and ends after `size` bytes, whatever it is given.

    Args:
        read: gives the stored bytes in order; what it raises is passed on.
        size: bytes of the part.
        shuffle: as it was packed.
        room: writable, as long as the part, or a block or more.

    Yields:
        Whole blocks, as many as `room` holds, and at last the rest. Fewer bytes than `size` in all when what was read is no such part: the piece in which
        that shows, and all behind it, is missing.
    """
    import zstandard  # noqa: PLC0415  an extra

    decompressor = zstandard.ZstdDecompressor(max_window_size=BLOCK_BYTES)
    source = cast("IO[bytes]", _Source(read))  # of which only `read` is called
    frames = decompressor.stream_reader(source, read_size=BLOCK_BYTES, read_across_frames=True, closefd=False)
    block = _Block(frames.readinto, shuffle)
    done = held = 0
    try:
        while done < size:
            count = min(BLOCK_BYTES, size - done)
            if not block.read_into(room[held : held + count]):
                return
            done, held = done + count, held + count
            if done == size and frames.readinto(bytearray(1)):
                return
            if done == size or held + BLOCK_BYTES > len(room):
                yield room[:held]
                held = 0
    except zstandard.ZstdError:
        return


class _Block:
    """Reads blocks and brings their bytes into order."""

    def __init__(self, readinto: Callable[[memoryview], int], shuffle: int) -> None:
        self._readinto = readinto
        self._size = shuffle
        # of bytearrays only, slices with a stride are written fast
        self._mixed, self._ordered = (bytearray(BLOCK_BYTES if shuffle > 1 else 0) for _ in range(2))

    def read_into(self, view: memoryview) -> bool:
        """Fill `view`, of a block or the rest of a part; False when there is too little."""
        if self._size == 1:
            return self._filled(view)
        count, size, mixed, ordered = len(view), self._size, self._mixed, self._ordered
        if not self._filled(memoryview(mixed)[:count]):
            return False
        each = count // size
        for place in range(size):
            ordered[place : each * size : size] = mixed[place * each : (place + 1) * each]
        ordered[each * size : count] = mixed[each * size : count]
        view[:] = memoryview(ordered)[:count]
        return True

    def _filled(self, view: memoryview) -> bool:
        """Read until the view is full."""
        done = 0
        while done < len(view):
            if not (count := self._readinto(view[done:])):
                return False
            done += count
        return True


@contextmanager
def compressing(file: IO[bytes]) -> Iterator[Callable[[memoryview], object]]:
    """Yield what packs all that is written to it, as one zstd frame, into a file."""
    import zstandard  # noqa: PLC0415

    compressor = zstandard.ZstdCompressor(level=ARCHIVE_LEVEL, write_checksum=True)
    with compressor.stream_writer(file, closefd=False) as packed:
        yield packed.write
