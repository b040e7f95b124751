"""Log lines for programs, and spans."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ckptsync.agent.traces import Traces
from ckptsync.cli.structured import json_lines, log_fields, observers, tracing
from ckptsync.errors import ConfigError
from ckptsync.events import Event, Kind
from ckptsync.options import Agent

SECRET = "https://user:hunter2@host/?X-Amz-Signature=hunter2"


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_an_event_is_a_line_with_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    with json_lines(0) as observer:
        observer(Event(kind=Kind.SENT, bytes=5, path="model.bin"))
        observer(Event(kind=Kind.NOTICE, path="id", message="two\nlines \N{SNOWMAN}"))
    (line,) = lines(capsys)
    assert line.pop("time")
    assert line == {"level": "warning", "message": "two\nlines \N{SNOWMAN}", "event": "notice", "path": "id"}


def test_more_is_told_where_more_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with json_lines(2) as observer:
        observer(Event(kind=Kind.SENT, bytes=5, path="model.bin"))
    (line,) = lines(capsys)
    assert (line["level"], line["event"], line["bytes"], line["path"]) == ("debug", "sent", 5, "model.bin")
    with json_lines(-1) as observer:
        observer(Event(kind=Kind.NOTICE, message="quiet"))
    assert not lines(capsys)


def test_no_line_tells_a_secret(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("ckptsync")
    with json_lines(0):
        log_fields(logging.WARNING, SECRET, url=SECRET, list=[1], thing=ValueError(SECRET))
        try:
            int(SECRET)
        except ValueError:
            log.exception("failed")
    text = capsys.readouterr().err
    assert "hunter2" not in text
    first, second = map(json.loads, text.splitlines())
    assert first["list"] == [1]
    assert "ValueError" in second["traceback"]


def test_the_options_choose_between_lines(capsys: pytest.CaptureFixture[str]) -> None:
    for log in ("text", "json"):
        with observers(Agent(log=log), 0) as (observer, spans):  # type: ignore[arg-type]
            observer(Event(kind=Kind.NOTICE, message="something"))
            assert spans is None
    plain, structured = capsys.readouterr().err.splitlines()
    assert plain.endswith("ckptsync: something")
    assert json.loads(structured)["message"] == "something"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Traces:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return Traces(provider)


def told(exporter: InMemorySpanExporter) -> list[tuple[str, str, dict[str, object]]]:
    return [
        (one.name, one.status.status_code.name, dict(one.attributes or {})) for one in exporter.get_finished_spans()
    ]


def test_a_commit_is_a_span(spans: Traces, exporter: InMemorySpanExporter) -> None:
    for event in (
        Event(kind=Kind.PLANNED, bytes=10, count=2),
        Event(kind=Kind.RETRY, message="503"),
        Event(kind=Kind.COMMITTED, path="id"),
        Event(kind=Kind.COMMITTED, path="of somebody else"),
    ):
        spans.observe(event)
    wanted = {"ckptsync.bytes": 10, "ckptsync.files": 2, "ckptsync.snapshot": "id"}
    assert told(exporter) == [("ckptsync.commit", "UNSET", wanted)]
    assert [one.name for one in exporter.get_finished_spans()[0].events] == ["retry"]


def test_a_commit_that_fails_is_a_span_with_an_error(spans: Traces, exporter: InMemorySpanExporter) -> None:
    spans.observe(Event(kind=Kind.PLANNED))
    spans.observe(Event(kind=Kind.FAILED, message="no route"))
    spans.observe(Event(kind=Kind.PLANNED))
    spans.close()
    spans.close()
    assert [(name, code) for name, code, _ in told(exporter)] == [
        ("ckptsync.commit", "ERROR"),
        ("ckptsync.commit", "UNSET"),
    ]


def test_a_restore_is_one_span_and_no_commit(spans: Traces, exporter: InMemorySpanExporter) -> None:
    with spans.span("restore"):
        spans.observe(Event(kind=Kind.PLANNED))
    with pytest.raises(ValueError, match="late"), spans.span("drain"):
        raise ValueError("late")
    assert [(name, code) for name, code, _ in told(exporter)] == [
        ("ckptsync.restore", "UNSET"),
        ("ckptsync.drain", "ERROR"),
    ]


def test_without_opentelemetry_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ConfigError, match=r"ckptsync\[otel\]"), tracing(Agent(traces=True)):
        pass
