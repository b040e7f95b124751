"""Threads that pull tasks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

import pytest

from ckptsync.transfer import workers
from ckptsync.transfer.workers import Task, map_tasks, run_tasks, side_by_side


class BoomError(Exception):
    """What goes wrong."""


def test_every_task_and_what_it_hands_back_is_run() -> None:
    ran: list[str] = []

    def file(name: str) -> Task:
        def start() -> list[Task]:
            ran.append(name)
            return [lambda part=part: ran.append(f"{name}{part}") for part in range(3)]  # type: ignore[misc]

        return start

    run_tasks((file(name) for name in "abc"), 2)
    assert sorted(ran) == sorted(name + part for name in "abc" for part in ("", "0", "1", "2"))


def test_follow_ups_go_before_the_next_task_and_in_their_order() -> None:
    ran: list[str] = []

    def task(name: str, *more: Task) -> Task:
        def call() -> Iterable[Task]:
            ran.append(name)
            return more

        return call

    first = task("a", task("a1", task("a1x")), task("a2"))
    run_tasks([first, task("b")], 1)
    assert ran == ["a", "a1", "a1x", "a2", "b"]


def test_what_follows_alone_is_done_by_the_same_thread_unless_something_failed() -> None:
    threads: list[int] = []
    failed, followed = threading.Event(), threading.Event()

    def noted(*more: Task) -> Task:
        return lambda: threads.append(threading.get_ident()) or more  # type: ignore[func-returns-value]

    def fail() -> None:
        failed.set()
        raise BoomError

    def wait() -> Iterable[Task]:
        failed.wait(10)
        time.sleep(0.2)  # until the failure is booked
        return [followed.set]

    run_tasks([noted(noted(noted()))], 4)
    assert threads == threads[:1] * 3
    with pytest.raises(BoomError):
        run_tasks([wait, fail], 2)
    assert not followed.is_set()


def test_the_iterator_is_read_no_faster_than_tasks_are_worked_off() -> None:
    ahead: list[int] = []
    taken = done = 0

    def finish() -> None:
        nonlocal done
        done += 1

    def tasks() -> Iterator[Task]:
        nonlocal taken
        for _ in range(50):
            taken += 1
            ahead.append(taken - done)
            yield finish

    run_tasks(tasks(), 1)
    assert (done, max(ahead)) == (50, 1)


def test_there_are_never_more_threads_than_workers() -> None:
    inside, most, lock, gate = 0, 0, threading.Lock(), threading.Barrier(3)

    def task() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        gate.wait(30)  # passes only when three are inside at once
        with lock:
            inside -= 1

    before = threading.active_count()
    run_tasks([task] * 9, 3)
    assert most == 3
    assert threading.active_count() == before


def test_nothing_to_do_is_done_at_once() -> None:
    run_tasks([], 3)
    assert map_tasks(str, [], 3) == []


def test_the_first_error_wins_and_no_further_task_begins() -> None:
    ran: list[int] = []

    def task(number: int) -> Task:
        def call() -> None:
            ran.append(number)
            if number >= 3:
                raise BoomError(number)

        return call

    with pytest.raises(BoomError, match="3"):
        run_tasks((task(number) for number in range(100)), 1)
    assert ran == [0, 1, 2, 3]


def test_tasks_under_way_are_waited_for() -> None:
    """So that the caller may close what they work with."""
    others_in, ended = threading.Barrier(3), list[int]()
    failed = threading.Event()

    def slow() -> None:
        others_in.wait(30)
        failed.wait(30)
        ended.append(1)

    def bad() -> None:
        others_in.wait(30)
        failed.set()
        raise BoomError

    with pytest.raises(BoomError):
        run_tasks([slow, slow, bad], 3)
    assert ended == [1, 1]


def test_an_error_ends_those_who_wait_for_work() -> None:
    """One works, the rest wait for follow-ups that never come."""

    def bad() -> None:
        raise BoomError

    with pytest.raises(BoomError):
        run_tasks([lambda: [bad]], 4)


def test_an_error_of_the_iterator_is_an_error() -> None:
    def tasks() -> Iterator[Task]:
        yield lambda: None
        raise BoomError

    with pytest.raises(BoomError):
        run_tasks(tasks(), 3)


@pytest.mark.timeout(60)
def test_an_error_while_follow_ups_are_made_is_an_error() -> None:
    def more() -> Iterator[Task]:
        yield lambda: None
        raise BoomError

    with pytest.raises(BoomError):
        run_tasks([more, more], 2)


def test_what_ends_a_process_is_handed_on_too() -> None:
    def task() -> None:
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        run_tasks([task], 2)


def test_interrupted_no_further_task_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the main thread only, while it waits."""
    began, go_on, ran = threading.Event(), threading.Event(), list[int]()
    workers: list[threading.Thread] = []
    join = threading.Thread.join

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if not workers:
            workers.append(thread)
            began.wait(30)
            raise KeyboardInterrupt
        join(thread, timeout)

    def task() -> None:
        ran.append(1)
        began.set()
        go_on.wait(30)

    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_tasks([task] * 5, 1)
    go_on.set()
    join(workers[0], 30)
    assert ran == [1]


@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_threads_that_cannot_be_started_are_done_without(monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
    start, started, ran = threading.Thread.start, list[threading.Thread](), list[int]()

    def limited(thread: threading.Thread) -> None:
        if len(started) == allowed:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with nullcontext() if allowed else pytest.raises(RuntimeError, match="can't start"):
        run_tasks([lambda: ran.append(1)] * 5, 3)
    assert len(ran) == (5 if allowed else 0)


def test_results_come_in_the_items_order() -> None:
    assert map_tasks(lambda number: number * number, range(20), 4) == [number * number for number in range(20)]
    with pytest.raises(ZeroDivisionError):
        map_tasks(lambda number: 1 // number, [1, 0], 2)


def climbing(monkeypatch: pytest.MonkeyPatch, *numbers: int) -> None:
    """Let the crew have these numbers of threads, window by window."""

    class Scripted:
        threads = 2

        def __init__(self, *_: int) -> None:
            self.left = list(numbers)

        def measured(self, rate: float, busy: float) -> int:
            assert rate > 0
            assert busy >= 0
            if self.left:
                self.threads = self.left.pop(0)
            return self.threads

    monkeypatch.setattr(workers, "Climb", Scripted)
    monkeypatch.setattr(workers, "_FIRST_WINDOW", (0.0, 1))
    monkeypatch.setattr(workers, "_WINDOW", (0.0, 2))


def crews(tasks: int) -> list[int]:
    """How many threads there are in each of so many tasks."""
    found: list[int] = []

    def task() -> None:
        time.sleep(0.001)
        found.append(sum(thread.name.startswith("ckptsync-") for thread in threading.enumerate()))

    run_tasks((task for _ in range(tasks)), 2, 16)
    assert len(found) == tasks
    return found


def test_more_threads_are_hired_and_let_go_as_it_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    climbing(monkeypatch, 6, 3)
    found = crews(300)
    assert max(found) == 6
    assert found[-1] == 3


def test_where_no_more_threads_can_be_started_fewer_do(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started = threading.Thread.start, []

    def few(self: threading.Thread) -> None:
        if len(started) == 2:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    climbing(monkeypatch, 6)
    monkeypatch.setattr(threading.Thread, "start", few)
    assert max(crews(100)) == 2


def test_threads_that_all_wait_are_joined_by_more_before_the_first_task_is_done() -> None:
    gate = threading.Barrier(8)

    def meet() -> None:
        gate.wait(30)

    run_tasks([meet] * 8, 2, 32)


def test_where_one_thread_has_all_the_work_no_more_are_started() -> None:
    before, never = threading.active_count(), threading.Event()
    seen: list[int] = []

    def task() -> None:
        never.wait(0.3)
        seen.append(threading.active_count() - before)

    run_tasks([task], 2, 32)
    assert seen == [2]


def test_calls_that_do_not_wait_for_each_other_are_made_side_by_side() -> None:
    gate, order = threading.Barrier(3), list[int]()

    def meet(what: str) -> Callable[[], str]:
        return lambda: what * (gate.wait(30) < 3)

    def noted(number: int) -> Callable[[], None]:
        return lambda: order.append(number)

    assert side_by_side(meet("a"), meet("b"), meet("c"), workers=3) == ("a", "b", "c")
    side_by_side(noted(1), noted(2), noted(3), workers=1)
    assert order == [1, 2, 3]


def test_what_one_of_the_calls_raises_is_raised() -> None:
    def fail() -> None:
        raise BoomError

    with pytest.raises(BoomError):
        side_by_side(lambda: 1, fail, lambda: 3, workers=1)
