"""What a cloud, a scheduler or a person tells about the end of this machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from threading import Event as Flag
from typing import Protocol


class Source(StrEnum):
    """Where a notice may come from."""

    EC2 = "ec2"
    GCE = "gce"
    SIGNAL = "signal"
    HOOK = "hook"  # a file that appears, or a command that says so
    DRAIN = "drain"  # asked for over HTTP


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """That this machine may end soon.

    Attributes:
        source: who said so.
        kind: in the words of the source: `terminate`, `stop`, `hibernate`, `rebalance`, `preempted`, `maintenance`, `SIGTERM`…
        final: whether the machine will end; else it is advice, as a rebalance recommendation, and work goes on.
        deadline_s: when it ends, by the monotonic clock; None where the source does not tell.
        message: a sentence for people.
    """

    source: Source
    kind: str
    final: bool
    deadline_s: float | None
    message: str


DRAIN = Notice(
    source=Source.DRAIN, kind="drain", final=True, deadline_s=None, message="a drain was asked for over HTTP"
)

Tell = Callable[[Notice], None]


class Watcher(Protocol):
    """Waits for notices of one source, in a thread that `watching` starts for it."""

    @property
    def name(self) -> str:
        """Of the source, for log lines and thread names."""
        ...

    def watch(self, tell: Tell, stop: Flag) -> None:
        """Return once `stop` is set, or at once where there is no such source here; never raise.

        Args:
            tell: called with each notice, once.
            stop: to be noticed within a second.
        """
        ...
