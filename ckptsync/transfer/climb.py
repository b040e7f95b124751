"""How many threads move small files or far ones fastest: more while that pays, fewer when it does not.

One thread waits a round trip for each file, so far from the service many are needed; near it they only stand in each other's way,
since Python runs one of them at a time. Neither is known before it is measured.
"""

from __future__ import annotations

_STEP = 1.5
_NOISE = 1.05
"""Rates that differ by less are the same."""
_REST = 12
"""Windows between one try of another number and the next."""


class Climb:
    """Hill climbing on the measured rate, between two numbers of threads. Not safe for many threads.

    A number is kept for some windows, then the next larger or smaller one is tried: more are kept when they are faster, fewer when
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

    def measured(self, rate: float) -> int:
        """Return how many threads to go on with, after a window in which this many moved so much in a second."""
        if self._rest:
            self._rest -= 1
            self._rate = rate
            if not self._rest:
                self._try()
        elif rate > self._rate * _NOISE if self._upward else rate * _NOISE > self._rate:
            self._kept, self._rate = self.threads, rate
            self._try()
        else:
            self.threads = self._kept
            self._upward = not self._upward
            self._rest = _REST
        return self.threads

    def _try(self) -> None:
        """Take a step; rest where there is none to take."""
        further = self._kept * _STEP if self._upward else self._kept / _STEP
        self.threads = max(self._least, min(self._most, round(further)))
        if self.threads == self._kept:
            self._upward = not self._upward
            self._rest = _REST
