"""What follows from a status and the time."""

from __future__ import annotations

from dataclasses import dataclass

from ckptsync.agent.board import State, Status

FOR_GOOD = frozenset({State.FENCED, State.FAILED})
_READY = frozenset({State.WATCHING, State.UPLOADING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ages:
    """How long ago things were, in seconds; 0 where a clock was set back.

    Attributes:
        now_s: the moment they are reckoned from, in seconds since 1970.
        uptime_s: since the agent began.
        state_s: since it does what it does.
        since_commit_s: age of the newest committed snapshot; None when there is none.
        rpo_s: work of so many seconds would be lost now.
        pending_s: since the oldest whole checkpoint waits to be durable; None when none does.
    """

    now_s: float
    uptime_s: float
    state_s: float
    since_commit_s: float | None
    rpo_s: float
    pending_s: float | None


def ages(status: Status, now_s: float) -> Ages:
    """Return what a status is worth at a moment.

    Args:
        status: of a board.
        now_s: the moment, in seconds since 1970.
    """

    def since(at_s: float) -> float:
        return max(0.0, now_s - at_s)

    at_risk_s = status.started_s if status.at_risk_since_s is None else status.at_risk_since_s
    return Ages(
        now_s=now_s,
        uptime_s=since(status.started_s),
        state_s=since(status.since_s),
        since_commit_s=since(status.newest.at_s) if status.newest else None,
        rpo_s=since(at_risk_s),
        pending_s=None if status.pending_since_s is None else since(status.pending_since_s),
    )


def sickness(status: Status, *, alive: bool) -> str:
    """Return why a restart is due, a sentence; empty while all is well or can become well again."""
    if status.state in FOR_GOOD or status.fenced:
        why = f": {status.errors[-1].message}" if status.errors else ""
        return f"{'fenced' if status.fenced else status.state.value}{why}"
    return "" if alive or status.state is State.DONE else "a thread of the agent has ended"


def unreadiness(status: Status) -> str:
    """Return why nothing new is taken, a sentence; empty once the bucket answered, until the agent drains."""
    return "" if status.state in _READY else f"the agent is {status.state.value}"
