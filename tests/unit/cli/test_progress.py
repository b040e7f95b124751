"""What people see while bytes move."""

from __future__ import annotations

import io
import logging
import queue
import sys

import pytest
from rich.console import Console

from ckptsync.cli.bar import bar
from ckptsync.cli.meter import Meter
from ckptsync.cli.progress import lines, reporting, write
from ckptsync.events import Event, Kind
from ckptsync.patience import impatient
from ckptsync.testing.clock import FakeClock

MIB = 1 << 20


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def told(meter: Meter) -> None:
    """Half a transfer: ten seconds for one part."""
    meter.tell(Event(kind=Kind.PLANNED, bytes=40 * MIB, count=3))
    meter.tell(Event(kind=Kind.REUSED, bytes=10 * MIB))
    meter._clock.sleep(10)
    meter.tell(Event(kind=Kind.SENT, bytes=10 * MIB))
    meter.tell(Event(kind=Kind.FILE_DONE, bytes=10 * MIB, count=1))


def test_the_meter_tells_share_bytes_files_rate_and_time_left() -> None:
    meter = Meter(FakeClock())
    told(meter)
    assert meter.line() == "50 %, 20.0 MiB of 40.0 MiB, 1 of 3 files, 1.0 MiB/s, 20.0 s left"


def test_what_was_there_already_makes_no_rate() -> None:
    meter = Meter(FakeClock())
    meter.tell(Event(kind=Kind.PLANNED, bytes=MIB, count=1))
    meter._clock.sleep(1)
    meter.tell(Event(kind=Kind.SKIPPED, bytes=MIB))
    assert meter.line() == "100 %, 1.0 MiB of 1.0 MiB, 0 of 1 files, 0 B/s"


def test_the_rate_is_that_of_late() -> None:
    clock = FakeClock()
    meter = Meter(clock)
    meter.tell(Event(kind=Kind.PLANNED, bytes=1000 * MIB, count=1))
    for _ in range(100):
        clock.sleep(1)
        meter.tell(Event(kind=Kind.SENT, bytes=5 * MIB))
    for _ in range(60):
        clock.sleep(1)
        meter.tell(Event(kind=Kind.SENT, bytes=MIB))
    assert meter.rate() == pytest.approx(MIB)
    stalled = meter.rate()
    clock.sleep(30)
    assert meter.rate() < 0.6 * stalled


def test_a_new_plan_begins_anew() -> None:
    meter = Meter(FakeClock())
    told(meter)
    meter.tell(Event(kind=Kind.PLANNED, bytes=8 * MIB, count=2))
    assert meter.line().startswith("0 %, 0 B of 8.0 MiB, 0 of 2 files, ")


def test_without_a_plan_there_is_no_share() -> None:
    meter = Meter(FakeClock())
    meter.tell(Event(kind=Kind.RECEIVED, bytes=MIB))
    assert meter.line() == "1.0 MiB, 0 B/s"


def test_lines_come_also_while_nothing_moves() -> None:
    said: queue.Queue[str] = queue.Queue()
    with lines(Meter(), said.put, every_s=0.001) as observer:
        observer(Event(kind=Kind.PLANNED, bytes=MIB, count=1))
        heard = [said.get(timeout=30) for _ in range(3)]
    assert set(heard) == {"0 %, 0 B of 1.0 MiB, 0 of 1 files, 0 B/s"}


def test_no_line_before_there_is_something_to_tell() -> None:
    said: queue.Queue[str] = queue.Queue()
    with lines(Meter(), said.put, every_s=0.001) as observer:
        observer(Event(kind=Kind.NOTICE, message="slow"))
    assert said.empty()


def test_the_bar_shows_the_meter_and_is_gone_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Terminal()
    meter = Meter(FakeClock())
    with bar(meter, "saving", Console(file=screen, force_terminal=True, width=120)) as observer:
        observer(Event(kind=Kind.PLANNED, bytes=40 * MIB, count=3))
        observer(Event(kind=Kind.SENT, bytes=10 * MIB))
        sys.stdout.write("result\n")
    shown = screen.getvalue()
    assert "saving" in shown
    assert "25 %, 10.0 MiB of 40.0 MiB, 0 of 3 files" in shown
    assert shown.endswith(("\x1b[2K", "\x1b[?25h"))
    assert capsys.readouterr().out == "result\n"


def test_the_bar_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, term, drawn in (
        (Terminal(), "xterm", True),
        (Terminal(), "dumb", False),
        (io.StringIO(), "xterm", False),
    ):
        monkeypatch.setattr("sys.stderr", stream)
        monkeypatch.setenv("TERM", term)
        with reporting(0, "saving") as observer:
            observer(Event(kind=Kind.PLANNED, bytes=MIB, count=1))
        assert ("saving" in stream.getvalue()) is drawn


@pytest.mark.parametrize(
    ("verbosity", "heard"),
    [(-1, set()), (0, {"notice"}), (1, {"notice", "retry"}), (2, {"notice", "retry", "part"})],
)
def test_how_much_is_told(verbosity: int, heard: set[str], capsys: pytest.CaptureFixture[str]) -> None:
    with reporting(verbosity, "saving") as observer:
        observer(Event(kind=Kind.NOTICE, message="notice"))
        observer(Event(kind=Kind.RETRY, message="retry"))
        observer(Event(kind=Kind.SENT, message="part"))
        logging.getLogger("botocore").warning("Authorization: secret")
    out, err = capsys.readouterr()
    assert out == ""
    assert {line.rpartition("ckptsync: ")[2] for line in err.splitlines()} == heard


def test_who_sees_no_retries_is_told_when_there_is_nothing_else() -> None:
    clock, told_of = FakeClock(), list[Event]()
    observer = impatient(told_of.append, clock=clock)

    def retried(number: int) -> None:
        observer(Event(kind=Kind.RETRY, message=f"try {number}"))

    for number, pause_s in enumerate((1.0, 1.5, 1.0, 5.0, 5.5), 1):
        retried(number)
        clock.advance(pause_s)
    assert [event.message for event in told_of] == ["try 4"]
    retried(6)
    assert [event.message for event in told_of] == ["try 4", "try 6"]
    observer(Event(kind=Kind.RECEIVED, bytes=1))
    clock.advance(60.0)
    retried(7)
    assert len(told_of) == 2


def test_nothing_is_left_behind() -> None:
    library, root = logging.getLogger("ckptsync"), logging.getLogger()
    before = (library.level, list(library.handlers), list(root.handlers))
    with reporting(2, "saving"):
        assert library.level == logging.DEBUG
    assert (library.level, list(library.handlers), list(root.handlers)) == before


@pytest.mark.parametrize("stream", [None, io.StringIO()])
def test_without_stderr_nothing_is_told_and_nothing_breaks(
    monkeypatch: pytest.MonkeyPatch, stream: io.StringIO | None
) -> None:
    if stream is not None:
        stream.close()
    monkeypatch.setattr("sys.stderr", stream)
    with reporting(1, "saving") as observer:
        observer(Event(kind=Kind.NOTICE, message="something"))
        write("line")


def test_lines_for_files_have_a_time_and_lines_for_terminals_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, pattern in ((Terminal(), "ckptsync: two lines\n"), (io.StringIO(), "Z ckptsync: two lines\n")):
        monkeypatch.setattr("sys.stderr", stream)
        write("two\nlines")
        assert stream.getvalue().endswith(pattern)
        assert stream.getvalue()[:1] == ("c" if stream.isatty() else "2")
