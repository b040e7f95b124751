"""What the board shows of what happened."""

from __future__ import annotations

import sys
import threading

import pytest

from ckptsync.agent.board import ERRORS_KEPT, Board, Committed, State
from ckptsync.agent.notice import Notice, Source
from ckptsync.agent.planner import Choice
from ckptsync.events import Event, Kind
from ckptsync.testing.clock import FakeClock


def notice(message: str, source: Source = Source.EC2) -> Notice:
    return Notice(source=source, kind="terminate", final=True, deadline_s=None, message=message)


def commit(step: int) -> Committed:
    return Committed(snapshot=f"id-{step}", step=step, bytes=10, at_s=1001.0)


def test_sent_payload_and_retries_are_counted(board: Board) -> None:
    for kind, size in ((Kind.SENT, 5), (Kind.SENT, 7), (Kind.REUSED, 100), (Kind.RECEIVED, 100), (Kind.RETRY, 0)):
        board.observe(Event(kind=kind, bytes=size))
    assert (board.status.bytes_sent, board.status.retries) == (12, 1)


def test_the_rate_is_that_of_the_last_seconds_and_ends_with_the_upload(board: Board, clock: FakeClock) -> None:
    board.observe(Event(kind=Kind.SENT, bytes=100))
    assert board.status.bytes_per_s == 100  # over a second at least
    for _ in range(20):
        clock.advance(1)
        board.observe(Event(kind=Kind.SENT, bytes=50))
    assert board.status.bytes_per_s == pytest.approx(50, rel=0.15)
    clock.advance(5)
    assert 0 < board.status.bytes_per_s < 50
    clock.advance(5)
    assert board.status.bytes_per_s == 0


def test_a_state_keeps_its_beginning_until_another_is_entered(board: Board, clock: FakeClock) -> None:
    clock.advance(5)
    board.entered(State.STARTING)
    assert board.status.since_s == 1000
    board.entered(State.WATCHING)
    assert (board.status.state, board.status.since_s) == (State.WATCHING, 1005)
    board.entered(State.FENCED)
    assert board.status.fenced


def test_a_commit_ends_failing_and_moves_what_is_at_risk(board: Board) -> None:
    board.failed("no route to host")
    assert (board.status.failing, board.status.failures) == (True, 1)
    board.committed(commit(7), epoch=3, whole_since_s=999.5)
    status = board.status
    assert (status.failing, status.commits, status.epoch, status.at_risk_since_s) == (False, 1, 3, 999.5)
    assert status.newest == commit(7)
    assert status.failures == 1


def test_an_error_again_is_shown_once_and_few_are_kept(board: Board, clock: FakeClock) -> None:
    board.failed("the same")
    clock.advance(9)
    board.failed("the same")
    assert [(one.at_s, one.message) for one in board.status.errors] == [(1009, "the same")]
    for number in range(ERRORS_KEPT + 5):
        board.failed(f"error {number}")
    assert len(board.status.errors) == ERRORS_KEPT
    assert board.status.errors[-1].message == f"error {ERRORS_KEPT + 4}"
    assert board.status.failures == ERRORS_KEPT + 7


def test_a_restore_that_fell_back_is_an_error_people_see(board: Board) -> None:
    board.observe(Event(kind=Kind.FELL_BACK, message="step 3 is damaged"))
    assert board.status.errors[-1].message == "step 3 is damaged"
    assert not board.status.failing


def test_a_decision_belongs_to_the_newest_notice(board: Board) -> None:
    board.decided(Choice.KEEP, "too early")
    assert board.status.notices == ()
    board.noticed(notice("advice"))
    board.noticed(notice("the end", Source.SIGNAL))
    board.decided(Choice.FINISH, "enough time")
    first, second = board.status.notices
    assert (first.decision, second.decision, second.why) == ("", "finish", "enough time")
    assert board.status.notices_by_source == {"ec2": 1, "signal": 1}


def test_all_notices_are_counted_though_few_are_kept(board: Board) -> None:
    for _ in range(50):
        board.noticed(notice("again"))
    assert len(board.status.notices) < 50
    assert board.status.notices_by_source == {"ec2": 50}


def test_nothing_on_it_is_secret(board: Board) -> None:
    secret = "https://user:hunter2@host/?X-Amz-Signature=hunter2"
    board.failed(secret)
    board.noticed(notice(secret))
    board.decided(Choice.KEEP, secret)
    board.observe(Event(kind=Kind.FELL_BACK, message=secret))
    assert "hunter2" not in str(board.status)
    assert "secret" not in board.status.run


def test_many_threads_lose_nothing(board: Board) -> None:
    def work() -> None:
        for _ in range(500):
            board.observe(Event(kind=Kind.SENT, bytes=1))
            board.observe(Event(kind=Kind.RETRY))

    switch_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=work) for _ in range(4)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch_s)
    assert (board.status.bytes_sent, board.status.retries) == (2000, 2000)
