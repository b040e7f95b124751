"""Spans for whoever has OpenTelemetry: a commit, a restore, a drain. Where they go, its own OTEL_* variables say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ckptsync.errors import ConfigError
from ckptsync.events import Event, Kind

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span


class Traces:
    """Makes spans. Safe for many threads; one commit at a time, as an agent makes them."""

    def __init__(self, provider: TracerProvider) -> None:
        """Take what exports spans."""
        self._provider = provider
        self._tracer = provider.get_tracer("ckptsync")
        self._lock = threading.Lock()
        self._commit: Span | None = None
        self._inside = 0

    def observe(self, event: Event) -> None:
        """Let the span of a commit begin with its plan, and end with it or with its failure. An observer."""
        with self._lock:
            if event.kind is Kind.PLANNED and not self._inside:
                self._end()
                attributes = {"ckptsync.bytes": event.bytes, "ckptsync.files": event.count}
                self._commit = self._tracer.start_span("ckptsync.commit", attributes=attributes)
            elif self._commit is not None and event.kind is Kind.RETRY:
                self._commit.add_event("retry", {"message": event.message})
            elif self._commit is not None and event.kind is Kind.COMMITTED:
                self._commit.set_attribute("ckptsync.snapshot", event.path)
                self._end()
            elif self._commit is not None and event.kind is Kind.FAILED:
                self._end(event.message)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Make a span of a `with` block; what is raised in it is its error.

        Args:
            name: as in `restore` or `drain`. In a `restore`, what is planned is no commit.
        """
        with self._lock:
            self._inside += name == "restore"
        try:
            with self._tracer.start_as_current_span(f"ckptsync.{name}"):
                yield
        finally:
            with self._lock:
                self._inside -= name == "restore"

    def close(self) -> None:
        """Export what is left; waits a few seconds at most where nobody takes it. Safe to call again."""
        with self._lock:
            self._end()
        self._provider.shutdown()

    def _end(self, problem: str = "") -> None:
        """End the span of the commit under way, if there is one. The lock is held."""
        from opentelemetry.trace import StatusCode  # noqa: PLC0415  the extra `otel`

        if self._commit is not None:
            if problem:
                self._commit.set_status(StatusCode.ERROR, problem)
            self._commit.end()
        self._commit = None


def traces() -> Traces:
    """Return what exports spans over OTLP.

    Raises:
        ConfigError: the extra `otel` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  extra `otel`
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  as above
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  as above
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  as above
    except ImportError as error:
        raise ConfigError("agent.traces needs OpenTelemetry: pip install 'ckptsync[otel]'") from error
    provider = TracerProvider(resource=Resource.create({"service.name": "ckptsync"}), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=5)))
    return Traces(provider)
