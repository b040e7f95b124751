"""A process's right to write a run: claimed at its first save, kept for the next ones, and lost for good to a newer writer."""

from __future__ import annotations

import threading

from ckptsync.catalog import Catalog


class Tenure:
    """The epoch a process writes in. Safe for many threads.

    Whoever saves without one takes the run over; whoever keeps one is told, at its next save, that a newer writer did. So a
    training job that was thought dead and wakes up cannot take the run back by saving once more.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._lock = threading.Lock()
        self._epoch = 0
        self._step = -1

    def epoch_for(self, catalog: Catalog, step: int) -> int:
        """Return the epoch in which to save a step.

        The first call claims one. A later call keeps it for a higher step, and takes the next one for a step that is not,
        because within an epoch snapshots are ordered by step.

        Raises:
            FencedError: a newer writer has claimed the run since the first call.
        """
        with self._lock:
            if not self._epoch or catalog.newest_epoch() < self._epoch:  # the run may have been deleted and begun anew
                self._epoch = catalog.claim().epoch
            elif step > self._step:
                catalog.check_not_fenced(self._epoch)
            else:
                self._epoch = catalog.claim_next(self._epoch).epoch
            self._step = step
            return self._epoch
