"""What happened, told once: log lines, metrics and progress bars all listen here."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from ckptsync.redaction import redacted

_log = logging.getLogger("ckptsync")


class Kind(StrEnum):
    """Every kind of event there is."""

    PLANNED = "planned"  # bytes: what lies ahead in all; count: files
    SENT = "sent"  # a part reached the bucket
    REUSED = "reused"  # a part was in the bucket already, or was copied there
    RECEIVED = "received"  # a part was fetched and verified
    SKIPPED = "skipped"  # a part was on the disk already, verified
    FILE_DONE = "file_done"
    RETRY = "retry"  # a request failed and will be tried again
    COMMITTED = "committed"
    FAILED = "failed"  # work behind the caller's back failed
    REFETCHED = "refetched"  # a part did not match its digest and was fetched once more
    FELL_BACK = "fell_back"  # a snapshot was bad, an older one is taken
    DELETED = "deleted"
    NOTICE = "notice"  # something a person should read


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    Attributes:
        kind: what happened.
        bytes: payload bytes concerned, 0 when none.
        count: objects or files concerned.
        path: relative path or key concerned, empty when none.
        message: a sentence for people, free of secrets.
    """

    kind: Kind
    bytes: int = 0
    count: int = 0
    path: str = ""
    message: str = ""

    def __post_init__(self) -> None:
        if self.message:
            object.__setattr__(self, "message", redacted(self.message))


Observer = Callable[[Event], None]


_LEVELS = {
    Kind.NOTICE: logging.WARNING,
    Kind.FAILED: logging.ERROR,
    Kind.FELL_BACK: logging.WARNING,
    Kind.REFETCHED: logging.WARNING,
    Kind.RETRY: logging.INFO,
}


def level_of(kind: Kind) -> int:
    """Return the level at which an event of that kind is logged: what people must see as warnings, the rest as debug."""
    return _LEVELS.get(kind, logging.DEBUG)


def log_observer(event: Event) -> None:
    """Write an event to the `ckptsync` logger, at the level of its kind."""
    level = level_of(event.kind)
    if _log.isEnabledFor(level):
        _log.log(level, "%s", event.message or f"{event.kind}: {event.path} ({event.bytes} bytes)")


def fan_out(*observers: Observer) -> Observer:
    """Join observers into one that calls each in turn."""

    def tell(event: Event) -> None:
        for observer in observers:
            observer(event)

    return tell
