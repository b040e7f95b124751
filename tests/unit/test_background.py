"""Work behind a loop's back."""

from __future__ import annotations

import threading

from ckptsync.background import Background


class Worker:
    """Work that waits to be let go on."""

    def __init__(self) -> None:
        self.done: list[int] = []
        self.begun = threading.Semaphore(0)
        self.go_on = threading.Semaphore(0)

    def __call__(self, piece: int) -> None:
        self.begun.release()
        assert self.go_on.acquire(timeout=30)
        if piece < 0:
            raise ValueError(piece)
        self.done.append(piece)


def test_one_at_a_time_and_one_that_waits() -> None:
    work = Worker()
    background = Background(work, name="work")
    background.submit(1)
    assert work.begun.acquire(timeout=30)
    background.submit(2)
    late = threading.Thread(target=background.submit, args=(3,))
    late.start()
    late.join(0.1)
    assert late.is_alive()  # there is room for one
    assert not background.join(0.05)
    work.go_on.release()
    late.join(30)
    assert background.is_busy
    work.go_on.release(2)
    assert background.join()
    assert not background.is_busy
    assert work.done == [1, 2, 3]


def test_what_waits_can_be_taken_back() -> None:
    work = Worker()
    background = Background(work, name="work")
    assert background.withdraw() is None
    background.submit(1)
    assert work.begun.acquire(timeout=30)
    assert background.withdraw() is None  # what is under way is not
    background.submit(2)
    assert background.withdraw() == 2
    background.submit(3)
    work.go_on.release(2)
    assert background.join()
    assert work.done == [1, 3]


def test_what_goes_wrong_is_kept_once_and_the_next_is_done_all_the_same() -> None:
    work = Worker()
    background = Background(work, name="work")
    background.submit(-1)
    assert work.begun.acquire(timeout=30)
    background.submit(-2)
    work.go_on.release(3)
    assert background.join()
    background.submit(3)
    assert background.join()
    failure = background.take_failure()
    assert isinstance(failure, ValueError)
    assert failure.args == (-1,)
    assert failure.__notes__ == ["and then: -2"]
    assert background.take_failure() is None
    assert work.done == [3]


def test_no_thread_outlives_the_work() -> None:
    threads = threading.active_count()
    background = Background(lambda _: None, name="work")
    for piece in range(20):
        background.submit(piece)
    assert background.join()
    assert threading.active_count() == threads
