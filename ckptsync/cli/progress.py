"""Progress for people: a bar on a terminal, a log line every ten seconds elsewhere, nothing when quiet."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ckptsync.cli.output import duration, one_line, size
from ckptsync.clock import SYSTEM, Clock
from ckptsync.events import Event, Kind, Observer, fan_out, log_observer

_log = logging.getLogger("ckptsync")
_MOVED = frozenset({Kind.SENT, Kind.RECEIVED})
_DONE = _MOVED | {Kind.REUSED, Kind.SKIPPED}
BEGINS = _DONE | {Kind.PLANNED}
"""Kinds after which there is something to show."""
_WINDOW_S = 30.0
"""The rate is that of the last so many seconds."""
LINE_EVERY_S = 10.0
_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}


class Meter:
    """Counts what events tell; safe to call from many threads."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        """Begin with nothing planned.

        Args:
            clock: replaced in tests.
        """
        self._clock = clock
        self._lock = threading.Lock()
        self._moved_bytes = 0
        self._samples: deque[tuple[float, int]] = deque()
        self.planned_bytes = self.planned_files = self.done_bytes = self.done_files = 0

    def tell(self, event: Event) -> None:
        """Count an event. PLANNED begins anew, as when an older snapshot is taken."""
        now_s = self._clock.monotonic()
        with self._lock:
            if event.kind is Kind.PLANNED:
                self.planned_bytes, self.planned_files = event.bytes, event.count
                self.done_bytes = self.done_files = 0
            elif event.kind is Kind.FILE_DONE:
                self.done_files += event.count
            elif event.kind in _DONE:
                self.done_bytes += event.bytes
                self._moved_bytes += event.bytes if event.kind in _MOVED else 0
            if not self._samples or event.kind in _MOVED:
                self._samples.append((now_s, self._moved_bytes))
            while len(self._samples) > 1 and now_s - self._samples[1][0] > _WINDOW_S:
                self._samples.popleft()

    def rate(self) -> float:
        """Bytes a second that went over the wire lately; 0 before the first."""
        with self._lock:
            if not self._samples:
                return 0.0
            since_s, moved_bytes = self._samples[0]
            passed_s = self._clock.monotonic() - since_s
            return (self._moved_bytes - moved_bytes) / passed_s if passed_s > 0 else 0.0

    def line(self) -> str:
        """Return how far it is: share, bytes, files, rate, time left."""
        rate = self.rate()
        if self.planned_bytes:
            share = min(100, 100 * self.done_bytes // self.planned_bytes)
            words = [f"{share} %", f"{size(self.done_bytes)} of {size(self.planned_bytes)}"]
        else:
            words = [size(self.done_bytes)]
        if self.planned_files:
            words.append(f"{min(self.done_files, self.planned_files)} of {self.planned_files} files")
        words.append(f"{size(rate)}/s")
        if rate and self.planned_bytes > self.done_bytes:
            words.append(f"{duration((self.planned_bytes - self.done_bytes) / rate)} left")
        return ", ".join(words)


@contextmanager
def reporting(verbosity: int, doing: str) -> Iterator[Observer]:
    """Listen to a verb for as long as the `with` block lasts.

    Args:
        verbosity: -1 quiet, 0, 1 or more.
        doing: a word for the bar, as in `saving`; empty shows no progress.
    """
    with _logging(verbosity):
        if verbosity < 0 or not doing:
            yield log_observer
            return
        if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            from ckptsync.cli.bar import bar

            with bar(Meter(), doing) as observer:
                yield fan_out(observer, log_observer)
        else:
            with lines(Meter(), lambda line: write(f"{doing}: {line}")) as observer:
                yield fan_out(observer, log_observer)


@contextmanager
def lines(meter: Meter, say: Callable[[str], None], *, every_s: float = LINE_EVERY_S) -> Iterator[Observer]:
    """Say how far it is every `every_s` seconds from the first event on, also while nothing moves."""
    begun, ended = threading.Event(), threading.Event()

    def tick() -> None:
        begun.wait()
        while not ended.wait(every_s):
            say(meter.line())

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


def write(line: str) -> None:
    """Write a line of news to stderr, with the time where it may end up in a file."""
    stamp = "" if sys.stderr.isatty() else time.strftime("%Y-%m-%dT%H:%M:%SZ ", time.gmtime())
    sys.stderr.write(f"{stamp}ckptsync: {one_line(line)}\n")
    sys.stderr.flush()


class _StderrHandler(logging.Handler):
    """Writes to whatever is stderr at the moment: the bar puts itself in between."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            write(record.getMessage())
        except (OSError, ValueError):
            self.handleError(record)


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
