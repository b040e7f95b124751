"""Clocks for tests in which many threads take part."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterable


class FastClock:
    """Real time, some times as fast: threads that sleep side by side do so side by side."""

    def __init__(self, factor: float) -> None:
        self._factor, self._began_s = factor, time.monotonic()

    def now(self) -> float:
        return 1_700_000_000.0 + self.monotonic()

    def monotonic(self) -> float:
        return (time.monotonic() - self._began_s) * self._factor

    def sleep(self, seconds_s: float) -> None:
        time.sleep(max(0.0, seconds_s) / self._factor)


class SimulatedClock:
    """Simulated time for threads that wait for nothing but this clock and its events.

    One runs at a time, in the order of their waking, so that the same dice give the same course of things.
    """

    def __init__(self) -> None:
        self._now_s = 0.0
        self._lock = threading.Lock()
        self._asleep: list[tuple[float, int, threading.Event]] = []
        self._count = 0

    def now(self) -> float:
        return 1_700_000_000.0 + self._now_s

    def monotonic(self) -> float:
        return self._now_s

    def sleep(self, seconds_s: float) -> None:
        waking = self._lie_down(seconds_s)
        self._wake_next()
        waking.wait()

    def event(self) -> SimulatedEvent:
        """What stands for `threading.Event`."""
        return SimulatedEvent(self)

    def run(self, works: Iterable[Callable[[], None]]) -> None:
        """Do all of it, each in a thread of its own, from now on."""
        threads = []
        for work in works:
            threads.append(threading.Thread(target=self._work, args=(work, self._lie_down(0.0))))
            threads[-1].start()
        self._wake_next()
        for thread in threads:
            thread.join()

    def wake(self, waking: threading.Event) -> None:
        """Let a thread go on when its turn comes, at this time."""
        with self._lock:
            self._count += 1
            heapq.heappush(self._asleep, (self._now_s, self._count, waking))

    def wait_for(self, waking: threading.Event) -> None:
        """Wait until another thread wakes this one."""
        self._wake_next()
        waking.wait()

    def _work(self, work: Callable[[], None], waking: threading.Event) -> None:
        waking.wait()
        try:
            work()
        finally:
            self._wake_next()

    def _lie_down(self, seconds_s: float) -> threading.Event:
        with self._lock:
            self._count += 1
            waking = threading.Event()
            heapq.heappush(self._asleep, (self._now_s + max(0.0, seconds_s), self._count, waking))
        return waking

    def _wake_next(self) -> None:
        with self._lock:
            if self._asleep:
                self._now_s, _, waking = heapq.heappop(self._asleep)
                waking.set()


class SimulatedEvent:
    """An event that one thread waits for."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock, self._is_set = clock, False
        self._waking: threading.Event | None = None

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        if self._waking is not None:
            self._clock.wake(self._waking)

    def wait(self) -> None:
        if not self._is_set:
            self._waking = threading.Event()
            self._clock.wait_for(self._waking)
