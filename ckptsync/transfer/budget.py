"""Memory for parts in flight: reused page-aligned buffers, so that no save or restore grows with its checkpoint."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from typing import Self

from ckptsync.options import Transfer
from ckptsync.snapshot.encoding import BLOCK_BYTES, packed_bound
from ckptsync.snapshot.manifest import FileEntry

_HUGE_BYTES = 2 << 20
_SMALLEST = 1 << 20
"""Smaller views are lent from buffers of this size: only what is used of them is touched."""


class Buffers:
    """At most `count * size_bytes` bytes, made when first needed and touched only as far as used.

    Views shorter than half a buffer get a buffer of half the size, or a quarter, and so on, so that many small files are in
    flight in the memory of few large parts. A part larger than `size_bytes` gets a buffer of its own and holds as many places as
    it is larger, at most all of them, so that memory stays below the larger of the budget and that one part.

    A context manager: behind it no memory is held but what is still lent. Errors that were overcome leave tracebacks in cycles,
    which would keep a transfer's memory until Python looks for such.
    """

    def __init__(self, count: int, size_bytes: int) -> None:
        """Promise `count * size_bytes` bytes at the most."""
        self._size_bytes = max(size_bytes, mmap.PAGESIZE)
        self._total = self._left = count * self._size_bytes
        self._idle: dict[int, list[mmap.mmap]] = {}
        self._changed = threading.Condition()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back what is not lent. It may be used again."""
        with self._changed:
            idle, self._idle = self._idle, {}
        for buffer in chain.from_iterable(idle.values()):
            _free(buffer)

    @property
    def size_bytes(self) -> int:
        """The longest view that costs no more than one place."""
        return self._size_bytes

    @property
    def idle_bytes(self) -> int:
        """Memory that is kept for the next views."""
        return sum(length * len(idle) for length, idle in self._idle.items())

    @contextmanager
    def take(self, size: int) -> Iterator[memoryview]:
        """Lend a writable view of exactly `size` bytes with arbitrary content; waits until memory is free."""
        length = self._length(size)
        wanted = min(length, self._total)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= wanted)
            self._left -= wanted
            idle = self._idle.get(length)
            buffer = idle.pop() if idle else None
            self._drop_idle()
        try:
            buffer = buffer or new_memory(length)
            yield memoryview(buffer)[:size]
        finally:
            if buffer is not None and length > self._size_bytes:
                _free(buffer)
                buffer = None
            with self._changed:
                self._left += wanted
                if buffer is not None:
                    self._idle.setdefault(length, []).append(buffer)
                self._changed.notify_all()

    def _length(self, size: int) -> int:
        """How long a buffer a view is cut from, and how much of the budget that takes."""
        if size > self._size_bytes:
            return -(-size // self._size_bytes) * self._size_bytes
        length = self._size_bytes
        while length // 2 >= max(size, _SMALLEST):
            length //= 2
        return length

    def _drop_idle(self) -> None:
        """Let buffers go that nobody uses, until they and those lent are within the budget. The lock is held."""
        surplus = self.idle_bytes - self._left
        for length, idle in self._idle.items():
            while surplus > 0 and idle:
                _free(idle.pop())
                surplus -= length


def new_memory(length: int) -> mmap.mmap:
    """Memory of our own; in large pages where the system has them, which costs less to touch for the first time."""
    made = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE)
    if length >= _HUGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            made.madvise(mmap.MADV_HUGEPAGE)
    return made


def _free(buffer: mmap.mmap) -> None:
    """Give memory back to the system, also where a traceback still holds a view of it."""
    try:
        buffer.close()
    except BufferError:
        if hasattr(mmap, "MADV_DONTNEED"):
            buffer.madvise(mmap.MADV_DONTNEED)


def reading_buffers(entries: Sequence[FileEntry], transfer: Transfer) -> Buffers:
    """Return memory to read files through: by our own options, twice as much where files are packed."""
    longest = max((min(entry.part_bytes, entry.size) for entry in entries), default=0)
    length = max(min(longest, transfer.part_bytes), 1)
    # no part is longer, so that shorter buffers do, and more of them in the same memory
    count = max(transfer.parts_in_flight * transfer.part_bytes // length, 1)
    if any(entry.packing for entry in entries):
        length = max(length + packed_bound(length), 2 * BLOCK_BYTES)
    return Buffers(count, length)
