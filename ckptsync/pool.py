"""Threads that take calls. Those of `concurrent.futures` refuse to while a program ends, and that is when a last save is on its way."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")
_Call = tuple["Future[Any]", Callable[[], Any]]


class Pool:
    """At most so many threads, which begin as there are calls. One thread hands calls in."""

    def __init__(self, threads: int, *, name: str) -> None:
        """Have no thread yet.

        Args:
            threads: at most, 1 or more.
            name: of the threads.
        """
        self._most, self._name = threads, name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def submit(self, call: Callable[[], _T]) -> Future[_T]:
        """Have it called in a thread, after those that were handed in before."""
        future: Future[_T] = Future()
        self._calls.put((future, call))
        if len(self._threads) < self._most:
            thread = threading.Thread(target=self._work, name=self._name, daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Cancel what has not begun, and wait for what has. Safe to call again."""
        while True:
            try:
                waiting = self._calls.get_nowait()
            except Empty:
                break
            if waiting is not None:
                waiting[0].cancel()
        for _ in self._threads:
            self._calls.put(None)
        while self._threads:
            self._threads.pop().join()

    def _work(self) -> None:
        """Call until there is nothing more to."""
        while (given := self._calls.get()) is not None:
            future, call = given
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001  raised where the result is asked for
                future.set_exception(error)
            del given, future, call  # an idle thread keeps nothing alive
