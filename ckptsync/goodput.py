"""What a training loop's time goes into: told to each save, which writes it into the manifest."""

from __future__ import annotations

from contextlib import suppress
from itertools import islice

from ckptsync.clock import Clock
from ckptsync.errors import StoreError
from ckptsync.snapshot import layout
from ckptsync.snapshot.cost import Loop
from ckptsync.store.base import Store

_LOOK_AT = 10
"""So many of the newest attempts are looked at for one of ours: foreign objects may stand before them."""


class Goodput:
    """Adds up, for one process, what its loop did not train for."""

    def __init__(self, clock: Clock) -> None:
        """Begin now."""
        self._clock = clock
        self._begun_s = self._saved_s = clock.monotonic()
        self._stalled_s = self._resume_s = 0.0
        self._saves = self._steps_redone = 0
        self._resumed_from = ""

    def resumed(self, store: Store, snapshot: str, step: int, begun_s: float) -> None:
        """Note that a snapshot was restored until now.

        Args:
            store: of the run; asked for the newest attempt, in one listing.
            snapshot: its id.
            step: of it.
            begun_s: when that began, by the monotonic clock.
        """
        self._resume_s += self._clock.monotonic() - begun_s
        self._resumed_from = snapshot
        self._steps_redone += _steps_behind(store, step)

    def saving(self, begun_s: float) -> Loop:
        """Note that the loop waited until now, and goes on; what its time went into so far.

        Args:
            begun_s: when it began to save, by the monotonic clock.
        """
        now_s = self._clock.monotonic()
        interval_s, self._saved_s = begun_s - self._saved_s, begun_s
        self._stalled_s += now_s - begun_s
        self._saves += 1
        return Loop(
            interval_s=round(interval_s, 4),
            stall_s=round(now_s - begun_s, 4),
            running_s=round(now_s - self._begun_s, 4),
            stalled_s=round(self._stalled_s, 4),
            saves=self._saves,
            resumed_from=self._resumed_from,
            resume_s=round(self._resume_s, 4),
            steps_redone=self._steps_redone,
        )


def _steps_behind(store: Store, step: int) -> int:
    """How many steps behind a step somebody began to save; 0 when that cannot be found out."""
    with suppress(StoreError):
        for found in islice(store.list(layout.JOURNALS, limit=_LOOK_AT), _LOOK_AT):
            if (known := layout.journal_of_key(found.key)) is not None:
                return max(0, known[0].step - step)
    return 0
