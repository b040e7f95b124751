"""Progress for people: a bar on a terminal, a log line every ten seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ckptsync.cli.meter import BEGINS, Meter
from ckptsync.cli.output import one_line, say
from ckptsync.clock import SYSTEM, Clock
from ckptsync.events import Event, Kind, Observer, fan_out, log_observer

_log = logging.getLogger("ckptsync")
LINE_EVERY_S = 10.0
_PATIENCE_S = 3.0
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}


@contextmanager
def reporting(verbosity: int, doing: str) -> Iterator[Observer]:
    """Listen to a verb for as long as the `with` block lasts.

    Args:
        verbosity: -1 quiet, 0, 1 or more.
        doing: a word for the bar, as in `saving`; empty shows no progress.
    """
    with _logging(verbosity):
        observe = log_observer if verbosity else fan_out(log_observer, impatient(log_observer))
        if verbosity < 0 or not doing:
            yield observe
            return
        if is_terminal() and os.environ.get("TERM") != "dumb":
            from ckptsync.cli.bar import bar

            with bar(Meter(), doing) as observer:
                yield fan_out(observer, observe)
        else:
            with lines(Meter(), lambda line: write(f"{doing}: {line}")) as observer:
                yield fan_out(observer, observe)


def impatient(tell: Observer, *, clock: Clock = SYSTEM) -> Observer:
    """Make what tells that nothing but failures comes back: the first time after three seconds of it, then every ten.

    Args:
        tell: told of it as a notice.
        clock: tells the time.
    """
    failing_since_s: float | None = None
    quiet_until_s = 0.0

    def observe(event: Event) -> None:
        nonlocal failing_since_s, quiet_until_s
        if event.kind is Kind.NOTICE:
            return
        if event.kind is not Kind.RETRY:
            failing_since_s = None
            return
        now_s = clock.monotonic()
        if failing_since_s is None:
            failing_since_s, quiet_until_s = now_s, now_s + _PATIENCE_S
        elif now_s >= quiet_until_s:
            quiet_until_s = now_s + LINE_EVERY_S
            tell(Event(kind=Kind.NOTICE, message=event.message))

    return observe


@contextmanager
def lines(meter: Meter, tell_line: Callable[[str], None], *, every_s: float = LINE_EVERY_S) -> Iterator[Observer]:
    """Say how far it is every `every_s` seconds from the first event on, also while nothing moves."""
    begun, ended = threading.Event(), threading.Event()

    def tick() -> None:
        begun.wait()
        while not ended.wait(every_s):
            tell_line(meter.line())

    def tell(event: Event) -> None:
        meter.tell(event)
        if event.kind in BEGINS:
            begun.set()

    ticker = threading.Thread(target=tick, name="ckptsync-progress", daemon=True)
    ticker.start()
    try:
        yield tell
    finally:
        ended.set()
        begun.set()
        ticker.join()


def is_terminal() -> bool:
    """Whether somebody watches stderr, which may be closed."""
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def write(line: str) -> None:
    """Write a line of news to stderr, with the time where it may end up in a file. Where that is closed or full, nobody reads it."""
    stamp = "" if is_terminal() else time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime())
    say(f"{stamp}ckptsync: {one_line(line)}\n")


class _StderrHandler(logging.Handler):
    """Writes to whatever is stderr at the moment: the bar puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        write(record.getMessage())


@contextmanager
def _logging(verbosity: int) -> Iterator[None]:
    """Let the library's log go to stderr; other libraries' logs go nowhere, since some print headers with credentials."""
    handler, silence, root = _StderrHandler(), logging.NullHandler(), logging.getLogger()
    level = _log.level
    _log.addHandler(handler)
    root.addHandler(silence)
    _log.setLevel(_LEVELS.get(verbosity, logging.DEBUG))
    try:
        yield
    finally:
        _log.removeHandler(handler)
        root.removeHandler(silence)
        _log.setLevel(level)
