"""Time as a value that tests can replace, so that no test ever sleeps."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What the rest of the package may ask of time."""

    def now(self) -> float:
        """Seconds since the Unix epoch, UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards, from an arbitrary zero."""
        ...

    def sleep(self, seconds_s: float) -> None:
        """Let `seconds_s` seconds pass."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> float:
        """Seconds since the Unix epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never run backwards, from an arbitrary zero."""
        return time.monotonic()

    def sleep(self, seconds_s: float) -> None:
        """Block this thread for `seconds_s` seconds."""
        time.sleep(seconds_s)


SYSTEM: Clock = SystemClock()
