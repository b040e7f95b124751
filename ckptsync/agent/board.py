"""What the sidecar is doing, for whoever looks: one value, which the agent changes and status pages read."""

from __future__ import annotations

import threading
from collections import deque
from enum import StrEnum
from typing import Any

import msgspec

from ckptsync.agent.notice import Notice
from ckptsync.agent.planner import Choice
from ckptsync.clock import SYSTEM, Clock
from ckptsync.events import Event, Kind
from ckptsync.redaction import redacted

ERRORS_KEPT = 20
_NOTICES_KEPT = 20
_RATE_S = 10.0
"""A rate of late is that of so many seconds."""
_LEAST_S = 1.0
"""Nor is it of less: a part that arrives at once says nothing."""


class State(StrEnum):
    """What an agent is doing, in the order of its life."""

    STARTING = "starting"  # the bucket has not answered yet
    RESTORING = "restoring"
    WATCHING = "watching"  # everything that is whole is durable
    UPLOADING = "uploading"
    DRAINING = "draining"  # nothing new is begun but what was whole before
    DONE = "done"
    FENCED = "fenced"  # a newer writer owns the run; for good
    FAILED = "failed"  # for good


class Committed(msgspec.Struct, frozen=True, kw_only=True):
    """A snapshot of this agent, or the one that was restored.

    Attributes:
        snapshot: its id.
        step: training step.
        bytes: size of its files.
        at_s: when it was committed, in seconds since 1970.
        seconds: how long its upload took; 0 of a restored one.
        bytes_sent: payload sent for it.
    """

    snapshot: str
    step: int
    bytes: int
    at_s: float
    seconds: float = 0.0
    bytes_sent: int = 0


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """Something at a moment: an error or a notice, and what was decided about it.

    Attributes:
        at_s: when, in seconds since 1970.
        message: a sentence, free of secrets.
        source: of a notice; empty otherwise.
        decision: of a notice: `finish`, `ask` or `keep`; empty while there is none.
        why: of a decision, a sentence.
    """

    at_s: float
    message: str
    source: str = ""
    decision: str = ""
    why: str = ""


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a status page shows.

    Attributes:
        run: URL without secrets.
        directory: that is watched.
        host: this machine's name.
        version: of ckptsync.
        state: what the agent is doing.
        since_s: when it began to, in seconds since 1970.
        started_s: when the agent began, in seconds since 1970.
        epoch: which writer of the run it is; None before its first commit.
        newest: newest committed snapshot known; None when there is none.
        commits: snapshots that this agent committed.
        pending: whole checkpoints that are not durable yet, the one under way included.
        pending_bytes: payload of those that is not in the bucket yet.
        pending_since_s: when the oldest of them was whole, in seconds since 1970; None when there is none.
        at_risk_since_s: work done since then would be lost now (RPO): when the newest committed checkpoint was whole, or the start.
        bytes_sent: payload sent since the start.
        bytes_per_s: upload rate of late; 0 when nothing moves.
        retries: requests tried again since the start.
        failures: saves that failed since the start; each is tried again.
        failing: whether the last save failed.
        fenced: whether a newer writer owns the run.
        waiting: why there are checkpoints that are not whole, a sentence each.
        notices: of preemption, the newest last.
        notices_by_source: how many there were since the start.
        errors: the newest last.
    """

    run: str
    directory: str
    host: str
    version: str
    state: State
    since_s: float
    started_s: float
    epoch: int | None = None
    newest: Committed | None = None
    commits: int = 0
    pending: int = 0
    pending_bytes: int = 0
    pending_since_s: float | None = None
    at_risk_since_s: float | None = None
    bytes_sent: int = 0
    bytes_per_s: float = 0.0
    retries: int = 0
    failures: int = 0
    failing: bool = False
    fenced: bool = False
    waiting: tuple[str, ...] = ()
    notices: tuple[Told, ...] = ()
    notices_by_source: dict[str, int] = msgspec.field(default_factory=dict)
    errors: tuple[Told, ...] = ()


class Board:
    """Holds a status; may be read and changed from any thread. All that is put on it is free of secrets afterwards."""

    def __init__(self, status: Status, *, clock: Clock = SYSTEM) -> None:
        """Begin with a status.

        Args:
            status: as the agent begins.
            clock: replaced in tests.
        """
        self._lock = threading.Lock()
        self._clock = clock
        self._status = msgspec.structs.replace(status, run=redacted(status.run))
        self._sent: deque[tuple[float, int]] = deque()

    @property
    def clock(self) -> Clock:
        """By which its ages are reckoned."""
        return self._clock

    @property
    def status(self) -> Status:
        """As it is now, with the upload rate of the last seconds."""
        with self._lock:
            rate = self._rate()
            if rate == self._status.bytes_per_s:
                return self._status
            return msgspec.structs.replace(self._status, bytes_per_s=rate)

    def change(self, **fields: Any) -> None:
        """Replace some of the status' fields. `bytes_per_s` is none of them, it is measured."""
        with self._lock:
            self._put(**fields)

    def observe(self, event: Event) -> None:
        """Count what an event tells: payload, retries, and a restore that fell back. An observer."""
        with self._lock:
            if event.kind is Kind.SENT:
                self._sent.append((self._clock.monotonic(), event.bytes))
                self._rate()
                self._put(bytes_sent=self._status.bytes_sent + event.bytes)
            elif event.kind is Kind.RETRY:
                self._put(retries=self._status.retries + 1)
            elif event.kind is Kind.FELL_BACK:
                self._tell_error(event.message)

    def entered(self, state: State) -> None:
        """Show what the agent does from now on. Safe to call again: since when it does that stays."""
        with self._lock:
            if self._status.state is not state:
                self._put(state=state, since_s=self._clock.now(), fenced=self._status.fenced or state is State.FENCED)

    def committed(self, committed: Committed, *, epoch: int, whole_since_s: float) -> None:
        """Show a commit of this agent.

        Args:
            committed: the snapshot, the newest from now on.
            epoch: which writer of the run this agent is.
            whole_since_s: when its checkpoint was whole, in seconds since 1970; later work is at risk.
        """
        with self._lock:
            self._put(
                newest=committed,
                commits=self._status.commits + 1,
                epoch=epoch,
                failing=False,
                at_risk_since_s=whole_since_s,
            )

    def failed(self, error: Exception | str) -> None:
        """Show that a save failed. The same error again only gets the new time."""
        with self._lock:
            self._put(failures=self._status.failures + 1, failing=True)
            self._tell_error(str(error))

    def troubled(self, message: str) -> None:
        """Show that nothing but failures comes back, though nothing has failed for good yet."""
        with self._lock:
            self._put(failing=True)
            self._tell_error(message)

    def noticed(self, notice: Notice) -> None:
        """Show a notice."""
        with self._lock:
            told = Told(at_s=self._clock.now(), message=redacted(notice.message), source=str(notice.source))
            counts = self._status.notices_by_source
            self._put(
                notices=(*self._status.notices, told)[-_NOTICES_KEPT:],
                notices_by_source={**counts, told.source: counts.get(told.source, 0) + 1},
            )

    def decided(self, choice: Choice, why: str) -> None:
        """Show what was decided about the newest notice; without any nothing changes."""
        with self._lock:
            if self._status.notices:
                *earlier, newest = self._status.notices
                told = msgspec.structs.replace(newest, decision=str(choice), why=redacted(why))
                self._put(notices=(*earlier, told))

    def _tell_error(self, message: str) -> None:
        """Add an error. The lock is held."""
        told = Told(at_s=self._clock.now(), message=redacted(message))
        errors = self._status.errors
        if errors and errors[-1].message == told.message:
            errors = errors[:-1]
        self._put(errors=(*errors, told)[-ERRORS_KEPT:])

    def _put(self, **fields: Any) -> None:
        """Replace some fields. The lock is held."""
        self._status = msgspec.structs.replace(self._status, **fields)

    def _rate(self) -> float:
        """Payload a second of late. The lock is held."""
        now_s = self._clock.monotonic()
        while self._sent and self._sent[0][0] <= now_s - _RATE_S:
            self._sent.popleft()
        if not self._sent:
            return 0.0
        return sum(size for _, size in self._sent) / max(_LEAST_S, now_s - self._sent[0][0])
