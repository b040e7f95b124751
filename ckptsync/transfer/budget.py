"""Memory for parts in flight: reused page-aligned buffers, so that no save or restore grows with its checkpoint."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Buffers:
    """At most `count` buffers of `size_bytes` each, made when first needed and touched only as far as used.

    A part larger than `size_bytes` gets a buffer of its own and holds as many places as it is larger, at most all of them, so
    that memory stays below the larger of the budget and that one part.
    """

    def __init__(self, count: int, size_bytes: int) -> None:
        """Promise `count * size_bytes` bytes at the most."""
        self._count = count
        self._size_bytes = max(size_bytes, mmap.PAGESIZE)
        self._free: list[mmap.mmap] = []
        self._places = count
        self._changed = threading.Condition()

    @property
    def size_bytes(self) -> int:
        """The longest view that costs no more than one place."""
        return self._size_bytes

    @contextmanager
    def take(self, size: int) -> Iterator[memoryview]:
        """Lend a writable view of exactly `size` bytes with arbitrary content; waits until memory is free."""
        places = max(1, min(-(-size // self._size_bytes), self._count))
        with self._places_held(places):
            if size > self._size_bytes:
                yield memoryview(bytearray(size))
                return
            with self._changed:
                buffer = self._free.pop() if self._free else mmap.mmap(-1, self._size_bytes)
            yield memoryview(buffer)[:size]
            with self._changed:
                self._free.append(buffer)

    @contextmanager
    def _places_held(self, wanted: int) -> Iterator[None]:
        """Wait for places, give them back after."""
        with self._changed:
            self._changed.wait_for(lambda: self._places >= wanted)
            self._places -= wanted
            if wanted > 1:
                del self._free[self._places :]
        try:
            yield
        finally:
            with self._changed:
                self._places += wanted
                self._changed.notify_all()
