"""Waits at the end until all that is whole is durable, and tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

from ckptsync.agent.uploading import Uploading
from ckptsync.options import MIB

_TELL_S = 15.0


def wait_until_durable(
    work: Uploading, is_over: Callable[[], bool], *, until_s: float, say: Callable[[str], None]
) -> None:
    """Return when there is nothing to wait for, or no time left.

    Args:
        work: that goes on in its own thread.
        is_over: whether there is nothing to wait for; asked whenever the backlog changes.
        until_s: on the clock of the run.
        say: told every quarter of a minute how much is left.
    """
    backlog, clock = work.backlog, work.run.clock
    while True:
        left_s = until_s - clock.monotonic()
        with backlog.changed:
            if backlog.changed.wait_for(is_over, max(0.0, min(left_s, _TELL_S))) or left_s <= _TELL_S:
                return
        say(_progress(work, until_s - clock.monotonic()))


def _progress(work: Uploading, left_s: float) -> str:
    """How much is to be sent, and how long that takes at the rate of late."""
    left_bytes, rate = work.pending_bytes, work.gauge.bytes_per_s
    takes = f", about {left_bytes / rate:.0f} s" if rate else ""
    return f"waiting for what is not durable yet: {left_bytes / MIB:.1f} MiB{takes}; {left_s:.0f} s are left for it"
