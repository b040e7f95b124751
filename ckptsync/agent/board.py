"""What the sidecar is doing, for whoever looks: one value, which the agent changes and status pages read."""

from __future__ import annotations

import threading
from collections import deque
from enum import StrEnum
from typing import Any

import msgspec

ERRORS_KEPT = 20


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
    errors: tuple[Told, ...] = ()


class Board:
    """Holds a status; may be read and changed from any thread."""

    def __init__(self, status: Status) -> None:
        """Begin with a status."""
        self._lock = threading.Lock()
        self._status = status
        self._sent: deque[tuple[float, int]] = deque()

    @property
    def status(self) -> Status:
        """As it is now."""
        return self._status

    def change(self, **fields: Any) -> None:
        """Replace some of the status' fields."""
        with self._lock:
            self._status = msgspec.structs.replace(self._status, **fields)
