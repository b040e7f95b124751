"""Log lines for programs: a JSON object a line, and the spans of OpenTelemetry, where the options ask for them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ckptsync.cli.output import say
from ckptsync.redaction import redacted

if TYPE_CHECKING:
    from ckptsync.agent.traces import Traces
    from ckptsync.events import Event, Observer
    from ckptsync.options import Agent

_log = logging.getLogger("ckptsync")
_FIELDS = "ckptsync_fields"
_LEVELS = {-1: logging.ERROR, 0: logging.INFO}


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object: `time` in RFC 3339, `level`, `message`, and what the record has in `ckptsync_fields`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, in ASCII and free of secrets."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = {"time": time, "level": record.levelname.lower(), "message": redacted(record.getMessage())}
        fields = getattr(record, _FIELDS, {})
        line |= {name: redacted(value) if isinstance(value, str) else value for name, value in fields.items()}
        if record.exc_info:
            line["traceback"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line, default=lambda value: redacted(str(value)))


class _Stderr(logging.Handler):
    """Writes to whatever is stderr at the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        say(f"{self.format(record)}\n")


def log_fields(level: int, message: str, **fields: object) -> None:
    """Log a sentence; `--log json` writes the fields beside it."""
    _log.log(level, "%s", message, extra={_FIELDS: fields})


def log_event(event: Event) -> None:
    """Write an event to the `ckptsync` logger with its fields, at the level that it has in plain lines. An observer."""
    from ckptsync.events import level_of

    level = level_of(event.kind)
    if _log.isEnabledFor(level):
        fields = {"event": event.kind.value, "path": event.path, "bytes": event.bytes, "count": event.count}
        message = event.message or f"{event.kind}: {event.path} ({event.bytes} bytes)"
        log_fields(level, message, **{name: value for name, value in fields.items() if value})


@contextmanager
def json_lines(verbosity: int) -> Iterator[Observer]:
    """Let the library's log go to stderr as JSON for as long as the `with` block lasts; other libraries' logs go nowhere.

    Args:
        verbosity: -1 tells errors alone, 0 what is worth a line, 1 or more everything.
    """
    handler, silence, root, before = _Stderr(), logging.NullHandler(), logging.getLogger(), _log.level
    handler.setFormatter(JsonFormatter())
    _log.addHandler(handler)
    root.addHandler(silence)
    _log.setLevel(_LEVELS.get(verbosity, logging.DEBUG))
    try:
        yield log_event
    finally:
        _log.removeHandler(handler)
        root.removeHandler(silence)
        _log.setLevel(before)


@contextmanager
def tracing(agent: Agent) -> Iterator[Traces | None]:
    """Export spans for as long as the `with` block lasts, where the options ask for it.

    Yields:
        Whose `observe` is an observer and whose `span` is for `restore` and `drain`; None where the options do not ask for it.

    Raises:
        ConfigError: the extra `otel` is not installed.
    """
    if not agent.traces:
        yield None
        return
    from ckptsync.agent.traces import traces

    made = traces()
    try:
        yield made
    finally:
        made.close()


def spanned(spans: Traces | None, name: str) -> AbstractContextManager[None]:
    """Return what makes a span of a `with` block, where spans are made.

    Args:
        spans: as of `tracing`.
        name: `restore` or `drain`.
    """
    return nullcontext() if spans is None else spans.span(name)


@contextmanager
def observers(agent: Agent, verbosity: int) -> Iterator[tuple[Observer, Traces | None]]:
    """Listen as the options ask: plain log lines or JSON, and spans.

    Args:
        agent: the options.
        verbosity: -1 quiet, 0, 1 or more.

    Yields:
        What is to be told of every event, and what makes spans.

    Raises:
        ConfigError: the extra `otel` is not installed.
    """
    from ckptsync.cli.progress import reporting
    from ckptsync.events import fan_out

    with (
        tracing(agent) as spans,
        json_lines(verbosity) if agent.log == "json" else reporting(verbosity, "") as observer,
    ):
        yield (fan_out(observer, spans.observe) if spans else observer), spans
