"""What the status page knows of the snapshots: as `ckptsync ls --json` prints them, read seldom and behind its back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from ckptsync.agent.board import Board, Committed
from ckptsync.agent.history import History, opening
from ckptsync.cli.main import cli
from ckptsync.config import resolve
from ckptsync.errors import StoreError
from ckptsync.run import Run, open_run
from ckptsync.testing.clock import FakeClock
from ckptsync.verbs.save import save


@pytest.fixture
def run(tmp_path: Path) -> str:
    source = tmp_path / "checkpoint"
    source.mkdir()
    with open_run(tmp_path / "run") as opened:
        for step in (1, 2, 3):
            (source / "model.bin").write_text(f"weights {step}")
            save(opened, source, step=step, metrics={"loss": 1 / step})
    return str(tmp_path / "run")


def commit(board: Board, step: int) -> None:
    board.committed(Committed(snapshot="id", step=step, bytes=1, at_s=1.0), epoch=1, whole_since_s=1.0)


def until(holds: Callable[[], bool]) -> None:
    """Wait for another thread."""
    turn = threading.Event()
    for _ in range(1000):
        if holds():
            return
        turn.wait(0.01)
    pytest.fail("it did not come to that")


def test_it_is_what_ls_prints(board: Board, run: str) -> None:
    history = History(board, opening(run, resolve()))
    history.read()
    printed = CliRunner().invoke(cli, ["ls", run, "--json"]).stdout.splitlines()
    assert json.loads(json.dumps(history.known().snapshots)) == [json.loads(line) for line in printed]
    assert [one["step"] for one in history.known().snapshots] == [3, 2, 1]
    assert (history.known().more, history.known().at_s) == (False, 1000.0)


def test_only_the_newest_are_read_of_many(board: Board, run: str) -> None:
    history = History(board, opening(run, resolve()), most=2)
    history.read()
    assert ([one["step"] for one in history.known().snapshots], history.known().more) == ([3, 2], True)


def test_it_is_read_after_a_commit_and_every_ten_seconds_and_only_when_asked(
    board: Board, clock: FakeClock, run: str
) -> None:
    opens: list[None] = []

    @contextmanager
    def counted() -> Iterator[Run]:
        opens.append(None)
        with open_run(run) as opened:
            yield opened

    with History(board, counted) as history:

        def is_read(times: int) -> bool:
            return len(opens) == times and not history._asked.is_set()

        clock.advance(1000)
        assert not opens
        history.known()
        until(lambda: is_read(1))
        for _ in range(50):
            history.known()
        assert is_read(1)
        commit(board, 4)
        history.known()
        until(lambda: is_read(2))
        clock.advance(9)
        history.known()
        assert is_read(2)
        clock.advance(2)
        history.known()
        until(lambda: is_read(3))


def test_a_bucket_that_hangs_keeps_nobody_waiting(board: Board) -> None:
    reading, go = threading.Event(), threading.Event()

    @contextmanager
    def hanging() -> Iterator[Run]:
        reading.set()
        go.wait(20)
        raise StoreError("no answer")
        yield

    with History(board, hanging) as history:
        history.known()
        assert reading.wait(10)
        assert history.known().at_s is None
        go.set()
        until(lambda: history.known().problem == "no answer")


def test_what_was_known_stays_when_the_bucket_fails(board: Board, run: str) -> None:
    ways = iter([open_run(run), _failing()])
    history = History(board, lambda: next(ways))
    history.read()
    before = history.known()
    history.read()
    assert history.known() == replace(before, problem="put https://***@host: 403")


@contextmanager
def _failing() -> Iterator[Run]:
    raise StoreError("put https://key:secret@host: 403")
    yield
