"""How many threads move files fastest: more while that pays, fewer when it does not.

Far from the service, or where it gives each connection only so much, many are needed; near it they only stand in each other's way, for
processors are few and Python runs one thread at a time. Neither is known before it is measured.
"""

from __future__ import annotations

_STEP = 1.5
_LEAP = 4.0
"""A step up, where one processor is busy with what there is, and where all but none is."""
_IDLE = 0.25
"""So little of a processor is needed where threads wait for something far away."""
_NOISE = 1.05
"""Rates that differ by less are the same."""
_REST = 12
"""Windows between one try of another number and the next."""


class Climb:
    """Hill climbing on the measured rate, between two numbers of threads. Not safe for many threads.

    Steps up are the longer, the less of a processor the threads need: they wait, then, for something else. A number is kept for some windows, then the next larger or smaller one is tried: more are kept when they are faster, fewer when
    they are no slower, for threads cost processor time.
    """

    def __init__(self, least: int, most: int) -> None:
        """Begin with `least`; more are tried after the first window."""
        self.threads = least
        self._least, self._most = least, max(least, most)
        self._kept = least
        self._rate = 0.0
        self._rest = 1
        self._upward = True

    def measured(self, rate: float, busy: float) -> int:
        """Return how many threads to go on with, after a window in which this many moved so much in a second.

        Args:
            rate: of whatever is moved.
            busy: processors this process kept busy meanwhile; 0.5 is half of one.
        """
        if self._rest:
            self._rest -= 1
            self._rate = rate
            if not self._rest:
                self._try(busy)
        elif rate > self._rate * _NOISE if self._upward else rate * _NOISE > self._rate:
            self._kept, self._rate = self.threads, rate
            self._try(busy)
        else:
            self.threads = self._kept
            self._upward = not self._upward
            self._rest = _REST
        return self.threads

    def glanced(self, busy: float) -> bool:
        """Go on with more threads, before anything was measured, where the processor idles; whether there are more now.

        Args:
            busy: as in `measured`.
        """
        before = self.threads
        if busy < _IDLE:
            self._kept = self.threads = min(self._most, round(self._kept * _LEAP))
        return self.threads > before

    def _try(self, busy: float) -> None:
        """Take a step; rest where there is none to take."""
        further = self._kept * max(_STEP, min(1 / max(busy, 1e-3), _LEAP)) if self._upward else self._kept / _STEP
        self.threads = max(self._least, min(self._most, round(further)))
        if self.threads == self._kept:
            self._upward = not self._upward
            self._rest = _REST
