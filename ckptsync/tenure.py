"""A process's right to write a run: claimed at its first save, kept for the next ones, and lost for good to a newer writer."""

from __future__ import annotations

import os
import threading

from ckptsync.claims import Claims
from ckptsync.errors import ConfigError


class Tenure:
    """The epoch a process writes in. Safe for many threads.

    Whoever saves without one takes the run over; whoever keeps one is told, at its next save, that a newer writer did. So a
    training job that was thought dead and wakes up cannot take the run back by saving once more.
    """

    def __init__(self) -> None:
        """Hold nothing yet."""
        self.turn = threading.Lock()
        """Held while this process saves by itself: two such saves at once would fence each other."""
        self._lock = threading.Lock()
        self._epoch = 0
        self._step = -1
        self._launch = ""

    def epoch_for(self, claims: Claims, step: int) -> int:
        """Return the epoch in which to save a step.

        The first call claims one. A later call keeps it for a higher step, and takes the next one for a step that is not,
        because within an epoch snapshots are ordered by step.

        Raises:
            FencedError: a newer writer has claimed the run since the first call.
            ConfigError: the epoch is shared with the other ranks of a launch, of which one may have a twin thought dead: only
                all of them together may commit in it, and taking the next one would fence them.
        """
        with self._lock:
            if not self._epoch or claims.newest_epoch() < self._epoch:  # the run may have been deleted and begun anew
                self._epoch, self._launch = claims.claim().epoch, ""
            else:
                claims.check_not_fenced(self._epoch)
                if self._launch:
                    raise ConfigError(
                        f"this process saves as a rank of launch {self._launch!r}, and would shut the other ranks out by saving "
                        "alone; save with all ranks, or alone as the only rank of another launch"
                    )
                if step <= self._step:
                    self._epoch = claims.claim_next(self._epoch).epoch
            self._step = step
            return self._epoch

    def join(self, claims: Claims, launch: str) -> int:
        """Return the epoch in which all ranks of a launch save; from now on this process saves as one of them.

        Raises:
            FencedError: a newer launch or writer owns the run.
            ConfigError: what is committed could not be read back.
            UnsupportedError: the store cannot create conditionally.
        """
        epoch = claims.join(launch).epoch
        with self._lock:
            self._epoch, self._launch = epoch, launch
        return epoch


_OURS: dict[str, Tenure] = {}
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OURS.clear)  # a child is another writer, and may have been forked amid a save


def ours(place: str) -> Tenure:
    """Return what this process writes a run with, the same for all saves that open and close the run by themselves.

    Args:
        place: `Run.place`.
    """
    return _OURS.setdefault(place, Tenure())
