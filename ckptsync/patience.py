"""When retries are worth a word: once nothing but failures comes back."""

from __future__ import annotations

from ckptsync.clock import SYSTEM, Clock
from ckptsync.events import Event, Kind, Observer

_PATIENCE_S, _AGAIN_S = 3.0, 10.0


def impatient(tell: Observer, *, clock: Clock = SYSTEM) -> Observer:
    """Make what tells that nothing but failures comes back: the first time after three seconds of it, then every ten.

    Args:
        tell: told of it as a notice.
        clock: tells the time.
    """
    failing_since_s: float | None = None
    quiet_until_s = 0.0

    def observe(event: Event) -> None:
        nonlocal failing_since_s, quiet_until_s
        if event.kind is Kind.NOTICE:
            return
        if event.kind is not Kind.RETRY:
            failing_since_s = None
            return
        now_s = clock.monotonic()
        if failing_since_s is None:
            failing_since_s, quiet_until_s = now_s, now_s + _PATIENCE_S
        elif now_s >= quiet_until_s:
            quiet_until_s = now_s + _AGAIN_S
            tell(Event(kind=Kind.NOTICE, message=event.message))

    return observe
