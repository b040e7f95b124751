"""Measures uploads by what events tell: how far the one under way is, and how fast payload gets into the bucket."""

from __future__ import annotations

import threading
from collections import deque

from ckptsync.clock import Clock
from ckptsync.events import Event, Kind

_WINDOW_S = 30.0
_LEAST_S = 1.0
"""A rate over less time says nothing."""


class Gauge:
    """An observer that counts. Safe for many threads."""

    def __init__(self, clock: Clock) -> None:
        """Know nothing."""
        self._clock = clock
        self._lock = threading.Lock()
        self._begun_s: float | None = None
        self._planned: int | None = None
        self._moved = 0
        self._sent: deque[tuple[float, int]] = deque()
        self._busy_s = 0.0

    def begin(self, size_bytes: int) -> None:
        """An upload of that size begins."""
        with self._lock:
            self._begun_s, self._planned, self._moved = self._clock.monotonic(), size_bytes, 0
            self._sent.clear()

    def end(self) -> None:
        """It is over; the last rate stays."""
        with self._lock:
            self._busy_s = self._rate()
            self._begun_s = self._planned = None

    def tell(self, event: Event) -> None:
        """Count what an event tells."""
        if event.kind not in {Kind.SENT, Kind.REUSED}:
            return
        with self._lock:
            self._moved += event.bytes
            if event.kind is Kind.SENT:
                self._sent.append((self._clock.monotonic(), event.bytes))

    def forget_rate(self) -> None:
        """Measure anew: what was measured was capped."""
        with self._lock:
            self._sent.clear()
            self._busy_s = 0.0
            if self._begun_s is not None:
                self._begun_s = self._clock.monotonic()

    @property
    def left_bytes(self) -> int:
        """Payload that the upload under way has still to move; 0 when there is none."""
        with self._lock:
            return max(0, (self._planned or 0) - self._moved)

    @property
    def bytes_per_s(self) -> float | None:
        """Payload that reached the bucket, a second, in the last half minute of uploading; None while nothing was measured."""
        with self._lock:
            return self._rate() or None

    def _rate(self) -> float:
        """What was measured of this upload, or of the one before. The lock is held."""
        if self._begun_s is None:
            return self._busy_s
        now_s = self._clock.monotonic()
        since_s = max(self._begun_s, now_s - _WINDOW_S)
        while self._sent and self._sent[0][0] < since_s:
            self._sent.popleft()
        sent = sum(size for _, size in self._sent)
        lasted_s = now_s - since_s
        return sent / lasted_s if sent and lasted_s >= _LEAST_S else self._busy_s
