"""How far a verb is: bytes, files, rate and time left, counted from events."""

from __future__ import annotations

import threading
from collections import deque

from ckptsync.cli.output import duration, size
from ckptsync.clock import SYSTEM, Clock
from ckptsync.events import Event, Kind

_MOVED = frozenset({Kind.SENT, Kind.RECEIVED})
_DONE = _MOVED | {Kind.REUSED, Kind.SKIPPED}
BEGINS = _DONE | {Kind.PLANNED}
"""Kinds after which there is something to show."""
_WINDOW_S = 30.0
"""The rate is that of the last so many seconds."""


class Meter:
    """Counts what events tell; safe to call from many threads."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        """Begin with nothing planned.

        Args:
            clock: replaced in tests.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._moved_bytes = 0
        self._samples: deque[tuple[float, int]] = deque()
        self.planned_bytes = self.planned_files = self.done_bytes = self.done_files = 0

    def tell(self, event: Event) -> None:
        """Count an event. PLANNED begins anew, as when an older snapshot is taken."""
        now_s = self._clock.monotonic()
        with self._lock:
            if event.kind is Kind.PLANNED:
                self.planned_bytes, self.planned_files = event.bytes, event.count
                self.done_bytes = self.done_files = 0
            elif event.kind is Kind.FILE_DONE:
                self.done_files += event.count
            elif event.kind in _DONE:
                self.done_bytes += event.bytes
                self._moved_bytes += event.bytes if event.kind in _MOVED else 0
            if not self._samples or event.kind in _MOVED:
                self._samples.append((now_s, self._moved_bytes))
            while len(self._samples) > 1 and now_s - self._samples[1][0] > _WINDOW_S:
                self._samples.popleft()

    def rate(self) -> float:
        """Bytes a second that went over the wire lately; 0 before the first."""
        with self._lock:
            if not self._samples:
                return 0.0
            since_s, moved_bytes = self._samples[0]
            passed_s = self._clock.monotonic() - since_s
            return (self._moved_bytes - moved_bytes) / passed_s if passed_s > 0 else 0.0

    def line(self) -> str:
        """Return how far it is: share, bytes, files, rate, time left."""
        rate = self.rate()
        if self.planned_bytes:
            share = min(100, 100 * self.done_bytes // self.planned_bytes)
            words = [f"{share} %", f"{size(self.done_bytes)} of {size(self.planned_bytes)}"]
        else:
            words = [size(self.done_bytes)]
        if self.planned_files:
            words.append(f"{min(self.done_files, self.planned_files)} of {self.planned_files} files")
        words.append(f"{size(rate)}/s")
        if rate and self.planned_bytes > self.done_bytes:
            words.append(f"{duration((self.planned_bytes - self.done_bytes) / rate)} left")
        return ", ".join(words)
