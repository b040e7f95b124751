"""A cap on payload per second, shared by everything that one opened run sends and fetches."""

from __future__ import annotations

import threading

from ckptsync.clock import SYSTEM, Clock
from ckptsync.store.base import Buffer, PartTag, Stat, Store, StoreWrapper, Tag, Upload

BURST_S = 1.0
"""An idle time is made up for by at most so many seconds' worth of bytes at once."""
_GLANCE_S = 0.5
"""Whoever waits for the cap looks so often whether it was lifted."""


class Bandwidth:
    """A token bucket that is empty at first. Safe for many threads, which are served in the order they come.

    Source: https://en.wikipedia.org/wiki/Token_bucket (here as the equivalent virtual scheduling: one number, no refills).
    """

    def __init__(self, bytes_per_s: int, *, clock: Clock = SYSTEM) -> None:
        """Allow `bytes_per_s` bytes a second, 1 or more."""
        self._bytes_per_s = bytes_per_s
        self._clock = clock
        self._lock = threading.Lock()
        self._free_s = clock.monotonic()
        self._is_lifted = False

    def lift(self) -> None:
        """Cap nothing any more; who waits goes on within half a second. Safe to call again."""
        self._is_lifted = True

    def take(self, size: int) -> float:
        """Wait until `size` bytes may have moved.

        Returns:
            Seconds that were waited.
        """
        if self._is_lifted:
            return 0.0
        with self._lock:
            now_s = self._clock.monotonic()
            self._free_s = max(self._free_s, now_s - BURST_S) + size / self._bytes_per_s
            wait_s = max(0.0, self._free_s - now_s)
        waited_s = 0.0
        while waited_s < wait_s and not self._is_lifted:
            pause_s = min(_GLANCE_S, wait_s - waited_s)
            self._clock.sleep(pause_s)
            waited_s += pause_s
        return waited_s


class Capped(StoreWrapper):
    """Caps a store that has no connection of its own to be slowed down: whole requests wait, one part at a time."""

    def __init__(self, inner: Store, bandwidth: Bandwidth) -> None:
        """Wrap `inner`, which is closed with this one."""
        super().__init__(inner)
        self._bandwidth = bandwidth

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        """As the inner store's, when its bytes may move."""
        self._bandwidth.take(memoryview(data).nbytes)
        return super().put(key, data, if_absent=if_absent)

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        """As the inner store's, when its bytes may move."""
        self._bandwidth.take(memoryview(data).nbytes)
        return super().put_part(upload, number, data)

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        """As the inner store's, when its bytes may move."""
        self._bandwidth.take(into.nbytes)
        return super().get(key, into, offset=offset, tag=tag)

    def read(self, key: str) -> bytes:
        """As the inner store's; what came is waited for afterwards."""
        content = super().read(key)
        self._bandwidth.take(len(content))
        return content
