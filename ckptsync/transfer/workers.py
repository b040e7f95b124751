"""Threads that pull tasks: bounded by construction, first error wins.

Tasks come from an iterator that is read only as fast as they are worked off. A task may hand back follow-up tasks, which
go before the iterator's: a file's parts, then its finish, before the next file. Where more threads are allowed than begin, as many
are used as are fastest.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, TypeVar

from ckptsync.pool import Pool
from ckptsync.transfer.climb import Climb

_GLANCE_S = 0.03
"""Until a first look at whether the processor idles; what is moved far away takes many times as long."""
_FIRST_WINDOW = 0.1, 1
_WINDOW = 0.25, 2
"""Seconds, and tasks of each thread, that a measurement takes; the first one is rough, so that much is tried soon."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_First = TypeVar("_First")
_Second = TypeVar("_Second")
_Third = TypeVar("_Third")
Task = Callable[[], "Iterable[Task] | None"]


_left_behind: set[threading.Thread] = set()
"""Threads that Ctrl-C found amid a request."""


class _Crew:
    """Threads, and what they share."""

    def __init__(self, tasks: Iterable[Task], climb: Climb) -> None:
        self.source: Iterator[Task] | None = iter(tasks)
        self.follow_ups: deque[Task] = deque()
        self.working = 0
        self.failure: BaseException | None = None
        self.lock = threading.RLock()
        """Taken by itself in the main thread: Ctrl-C may strike between a condition's own lines, and leave it locked."""
        self.changed = threading.Condition(self.lock)
        self.climb = climb
        self.threads: set[threading.Thread] = set()
        self.window = _FIRST_WINDOW
        self._begin_window()

    def _begin_window(self) -> None:
        """Measure from now on."""
        self.tasks_done = 0
        self.begun_s, self.begun_cpu_s = time.monotonic(), time.process_time()

    def next_task(self) -> Task | None:
        """Wait for a task; None when all is done or something failed."""
        with self.changed:
            while self.failure is None:
                if len(self.threads) > self.climb.threads:
                    self.threads.remove(threading.current_thread())
                    return None
                if (task := self._task()) is not None:
                    self.working += 1
                    return task
                if not self.working:
                    break
                self.changed.wait()
            self.changed.notify_all()
            return None

    def _task(self) -> Task | None:
        """Take a follow-up, else from the iterator, which may itself fail."""
        if self.follow_ups:
            return self.follow_ups.popleft()
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
            self._measure()
            self.changed.notify_all()

    def _measure(self) -> None:
        """Count a task; at the end of a window go on with more threads or fewer. The lock is held."""
        self.tasks_done += 1
        least_s, tasks_each = self.window
        lasted_s, busy = self._lasted()
        if lasted_s < least_s or self.tasks_done < tasks_each * self.climb.threads:
            return
        self.climb.measured(self.tasks_done / lasted_s, busy)
        self.window = _WINDOW
        self._begin_window()
        self.hire()

    def _lasted(self) -> tuple[float, float]:
        """Seconds since the window began, and processors this process kept busy meanwhile."""
        lasted_s = time.monotonic() - self.begun_s
        return lasted_s, (time.process_time() - self.begun_cpu_s) / lasted_s if lasted_s else 0.0

    def glance(self) -> bool:
        """Go on with more threads at once where those there are all wait; whether to look again."""
        with self.lock:
            if self.window != _FIRST_WINDOW:
                return False
            if self.working < len(self.threads) or not self.climb.glanced(self._lasted()[1]):
                return True
            self.hire()
            return False

    def hire(self) -> None:
        """Start threads until there are as many as there should be, or may be.

        Raises:
            RuntimeError: the system allows none at all.
        """
        with self.lock:
            while self.failure is None and len(self.threads) < self.climb.threads:
                thread = threading.Thread(target=self.work, name=f"ckptsync-{len(self.threads)}", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    if not self.threads:
                        raise
                    self.climb = Climb(len(self.threads), 0)
                    return
                self.threads.add(thread)

    def join(self) -> None:
        """Wait until every thread has ended; others may be hired meanwhile."""
        patience_s: float | None = _GLANCE_S
        while self.threads:
            with self.lock:
                thread = next(iter(self.threads), None)
            if thread is None:
                return
            thread.join(patience_s)
            if thread.is_alive():
                patience_s = _GLANCE_S if patience_s and self.glance() else None
            else:
                with self.lock:
                    self.threads.discard(thread)

    def work(self) -> None:
        """Run tasks until there are none; what follows alone on one, at once and in the same thread."""
        while (task := self.next_task()) is not None:
            more: Sequence[Task] = (task,)
            failure: BaseException | None = None
            try:
                while len(more) == 1 and self.failure is None:
                    more = tuple(more[0]() or ())
            except BaseException as error:  # noqa: BLE001  handed to the caller of run_tasks
                more, failure = (), error
            self.done(more, failure)

    def stop(self, failure: BaseException) -> None:
        """Let no further task begin."""
        with self.lock:
            self.failure = self.failure or failure
            self.changed.notify_all()


def run_tasks(tasks: Iterable[Task], workers: int, most: int = 0) -> None:
    """Run every task and what it hands back; return when all are done.

    Args:
        tasks: what to do.
        workers: threads to begin with.
        most: threads that there may be while more of them are faster; never fewer than `workers`.

    Raises:
        BaseException: the first error of any task, after the tasks under way have ended; no further one begins. After
            Ctrl-C they are not waited for; `settled` does.
    """
    crew = _Crew(tasks, Climb(workers, most))
    try:
        crew.hire()
        crew.join()
    except BaseException as error:  # Ctrl-C reaches the main thread only
        crew.stop(error)
        _left_behind.update(crew.threads)
        raise
    if crew.failure is not None:
        raise crew.failure


def settled(patience_s: float) -> bool:
    """Wait for what an interrupted `run_tasks` has left under way; whether all of it has ended. Safe to call again."""
    until_s = time.monotonic() + patience_s
    while _left_behind:
        thread = next(iter(_left_behind))
        thread.join(max(0.0, until_s - time.monotonic()))
        if thread.is_alive():
            return False
        _left_behind.discard(thread)
    return True


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


def side_by_side(
    first: Callable[[], _First], second: Callable[[], _Second], third: Callable[[], _Third], *, workers: int
) -> tuple[_First, _Second, _Third]:
    """Call three functions that do not wait for each other, on at most `workers` threads; by one, in their order.

    Raises:
        BaseException: the first error of any call.
    """
    one, two, three = map_tasks(lambda call: call(), (first, second, third), workers)
    return one, two, three


def in_order(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int
) -> Generator[_Result, None, None]:
    """Call `function` on items in parallel and yield results in their order, at most `workers` ahead of the reader.

    Raises:
        BaseException: the first error of any call, when its turn comes.
    """
    waiting: deque[Future[_Result]] = deque()
    pool = Pool(workers, name="ckptsync")
    try:
        for item in items:
            waiting.append(pool.submit(partial(function, item)))
            if len(waiting) == workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.close()
