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
from ckptsync.events import Event, Observer, fan_out, log_observer
from ckptsync.patience import impatient

_log = logging.getLogger("ckptsync")
LINE_EVERY_S = 10.0
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
