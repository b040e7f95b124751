"""A clock that stands still until somebody sleeps on it."""

from __future__ import annotations

import threading


class FakeClock:
    """A `ckptsync.clock.Clock` whose `sleep` returns at once and moves the time on. Safe for many threads.

    Attributes:
        slept_s: every pause asked for, in order, in seconds.
    """

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        """Start at `now_s` seconds since the Unix epoch."""
        self.slept_s: list[float] = []
        self._start_s = now_s
        self._passed_s = 0.0
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds since the Unix epoch."""
        with self._lock:
            return self._start_s + self._passed_s

    def monotonic(self) -> float:
        """Seconds since this clock was made."""
        with self._lock:
            return self._passed_s

    def sleep(self, seconds_s: float) -> None:
        """Record the pause and move the time on by it."""
        with self._lock:
            self.slept_s.append(seconds_s)
            self._passed_s += max(0.0, seconds_s)

    def advance(self, seconds_s: float) -> None:
        """Let time pass without anybody sleeping.

        Raises:
            ValueError: `seconds_s` is negative; a monotonic clock never runs backwards.
        """
        if seconds_s < 0:
            raise ValueError(f"time cannot pass by {seconds_s} s")
        with self._lock:
            self._passed_s += seconds_s
