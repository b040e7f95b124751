"""Threads that pull tasks: bounded by construction, first error wins.

Tasks come from an iterator that is read only as fast as they are worked off. A task may hand back follow-up tasks, which
go before the iterator's: a file's parts, then its finish, before the next file.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
Task = Callable[[], "Iterable[Task] | None"]


class _Crew:
    """What the threads share."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self.source: Iterator[Task] | None = iter(tasks)
        self.follow_ups: deque[Task] = deque()
        self.working = 0
        self.failure: BaseException | None = None
        self.changed = threading.Condition()

    def next_task(self) -> Task | None:
        """Wait for a task; None when all is done or something failed."""
        with self.changed:
            while self.failure is None:
                if self.follow_ups:
                    self.working += 1
                    return self.follow_ups.popleft()
                if (task := self._from_source()) is not None:
                    self.working += 1
                    return task
                if not self.working:
                    break
                self.changed.wait()
            self.changed.notify_all()
            return None

    def _from_source(self) -> Task | None:
        """Take from the iterator, which may itself fail."""
        if self.source is None:
            return None
        try:
            return next(self.source)
        except StopIteration:
            self.source = None
        except BaseException as error:  # noqa: BLE001  handed to the caller of run_tasks
            self.source, self.failure = None, error
        return None

    def done(self, more: Sequence[Task], failure: BaseException | None) -> None:
        """Book a finished task."""
        with self.changed:
            self.working -= 1
            self.failure = self.failure or failure
            self.follow_ups.extendleft(reversed(more))
            self.changed.notify_all()

    def work(self) -> None:
        """Run tasks until there are none."""
        while (task := self.next_task()) is not None:
            more: Sequence[Task] = ()
            failure: BaseException | None = None
            try:
                more = tuple(task() or ())
            except BaseException as error:  # noqa: BLE001  handed to the caller of run_tasks
                failure = error
            self.done(more, failure)

    def stop(self, failure: BaseException) -> None:
        """Let no further task begin."""
        with self.changed:
            self.failure = self.failure or failure
            self.changed.notify_all()


def run_tasks(tasks: Iterable[Task], workers: int) -> None:
    """Run every task and what it hands back, on at most `workers` threads; return when all are done.

    Raises:
        BaseException: the first error of any task, after the tasks under way have ended; no further one begins. After
            Ctrl-C they are not waited for.
    """
    crew = _Crew(tasks)
    threads = [threading.Thread(target=crew.work, name=f"ckptsync-{n}", daemon=True) for n in range(workers)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:  # Ctrl-C reaches the main thread only
        crew.stop(error)
        raise
    if crew.failure is not None:
        raise crew.failure


def map_tasks(function: Callable[[Any], Any], items: Iterable[Any], workers: int) -> list[Any]:
    """Call `function` on each item on at most `workers` threads; results in the items' order.

    Raises:
        BaseException: the first error of any call.
    """
    results: dict[int, Any] = {}

    def task(index: int, item: Any) -> Task:
        def call() -> None:
            results[index] = function(item)

        return call

    run_tasks((task(index, item) for index, item in enumerate(items)), workers)
    return [results[index] for index in sorted(results)]


def in_order(function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> Iterator[_Result]:
    """Call `function` on items in parallel and yield results in their order, at most `workers` ahead of the reader.

    Raises:
        BaseException: the first error of any call, when its turn comes.
    """
    waiting: deque[Future[_Result]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="ckptsync")
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
