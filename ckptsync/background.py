"""Work behind a training loop's back: one piece at a time in a thread of its own, and at most one that waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Background(Generic[_T]):
    """Does pieces of work, never two at once. Its thread lives no longer than there is work, and a program that ends waits for it.

    One thread hands work in; any may ask.
    """

    def __init__(self, work: Callable[[_T], None], *, name: str) -> None:
        """Have no thread yet.

        Args:
            work: does a piece; what it raises is kept for `take_failure`, and the next piece is begun all the same.
            name: of the threads.
        """
        self._work = work
        self._name = name
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._runs = False
        self._waiting: list[_T] = []
        self._failures: list[BaseException] = []

    @property
    def is_busy(self) -> bool:
        """Whether there is work that is not done."""
        with self._changed:
            return self._runs

    def submit(self, piece: _T) -> None:
        """Hand in a piece of work; waits while another one waits."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)
            if self._runs:
                self._waiting.append(piece)
                return
            self._runs = True
            # not a daemon: a program that ends waits for it
            self._thread = threading.Thread(target=self._drain, args=([piece],), name=self._name)
            self._thread.start()

    def withdraw(self) -> _T | None:
        """Take back the piece that waits; None when none does."""
        with self._changed:
            piece = self._waiting.pop() if self._waiting else None
            self._changed.notify_all()
            return piece

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until all is done; whether it is.

        Args:
            timeout_s: how long; None waits as long as it takes.
        """
        thread = self._thread
        if thread is not None:
            thread.join(timeout_s)
        return thread is None or not thread.is_alive()

    def take_failure(self) -> BaseException | None:
        """Return the first thing that went wrong since the last call, with what went wrong after it as notes; None when nothing did."""
        with self._changed:
            failures, self._failures = self._failures, []
        for later in failures[1:]:
            failures[0].add_note(f"and then: {later}")
        return failures[0] if failures else None

    def _drain(self, begun: list[_T]) -> None:
        """Work until there is none."""
        while begun:
            try:
                self._work(begun.pop())
            except BaseException as error:  # noqa: BLE001  raised by the next call
                with self._changed:
                    self._failures.append(error)
            with self._changed:
                begun, self._waiting = self._waiting, []
                self._runs = bool(begun)
                self._changed.notify_all()
