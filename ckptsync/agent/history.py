"""Which snapshots there are, for the status page: read behind the back of whoever asks, and not often."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Self

import msgspec

from ckptsync.agent.board import Board
from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import CkptsyncError
from ckptsync.events import Event
from ckptsync.options import Config
from ckptsync.redaction import redacted
from ckptsync.run import Run, open_run
from ckptsync.verbs.listing import rows

MOST_SNAPSHOTS = 1000
_EVERY_S = 10.0
_SHARE = 20
"""Reading takes at most one part in so many of the time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """The snapshots of a run, as they were a while ago.

    Attributes:
        snapshots: the newest first, each as `ckptsync ls --json` prints it.
        at_s: when they were read, in seconds since 1970; None while they were not.
        more: whether there are older ones that were not read.
        problem: why they could not be read again, a sentence free of secrets; empty when they could.
    """

    snapshots: tuple[dict[str, Any], ...] = ()
    at_s: float | None = None
    more: bool = False
    problem: str = ""


def opening(url: str, config: Config, clock: Clock = SYSTEM) -> Callable[[], AbstractContextManager[Run]]:
    """Return what opens the run for reading, without telling anybody what happens: uploads are what the board counts."""
    return lambda: open_run(url, config, observer=_ignore, clock=clock)


class History:
    """Reads the snapshots while somebody looks: after a commit, and every ten seconds at most. A context manager."""

    def __init__(
        self, board: Board, open_to_read: Callable[[], AbstractContextManager[Run]], *, most: int = MOST_SNAPSHOTS
    ) -> None:
        """Nothing is read yet.

        Args:
            board: tells of commits.
            open_to_read: as of `opening`.
            most: so many snapshots are shown, the newest.
        """
        self._board, self._open, self._most = board, open_to_read, most
        self._known = Known()
        self._asked, self._ended = threading.Event(), threading.Event()
        self._next_s, self._commits = 0.0, -1
        self._thread = threading.Thread(target=self._work, name="ckptsync-history", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._asked.set()

    def known(self) -> Known:
        """Return what is known now, and let it be read again where that is due. Returns at once, from any thread."""
        if self._board.clock.monotonic() >= self._next_s or self._board.status.commits != self._commits:
            self._asked.set()
        return self._known

    def _work(self) -> None:
        """Read whenever it is asked for."""
        while self._asked.wait() and not self._ended.is_set():
            self.read()
            self._asked.clear()

    def read(self) -> None:
        """Read now, in this thread."""
        clock = self._board.clock
        begun_s, commits = clock.monotonic(), self._board.status.commits
        try:
            with self._open() as run:
                found = tuple(msgspec.to_builtins(row) for row in islice(rows(run), self._most + 1))
        except (CkptsyncError, OSError) as error:
            self._known = _failed(self._known, error)
        else:
            self._known = Known(snapshots=found[: self._most], at_s=clock.now(), more=len(found) > self._most)
        took_s = clock.monotonic() - begun_s
        self._next_s, self._commits = clock.monotonic() + max(_EVERY_S, took_s * _SHARE), commits


def _failed(known: Known, error: Exception) -> Known:
    """What was known stays, with the reason why it is old."""
    return Known(snapshots=known.snapshots, at_s=known.at_s, more=known.more, problem=redacted(str(error)))


def _ignore(event: Event) -> None:
    """Tell nobody."""
    del event
