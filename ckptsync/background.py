"""Work behind a training loop's back: one piece at a time in a thread of its own, and at most one that waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

_T = TypeVar("_T")
_LOOK_S = 1.0
"""Somebody who was interrupted amid waiting may have left the gate closed."""


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
        self._lock = threading.RLock()
        """Taken by itself in the loop's thread: Ctrl-C may strike between a condition's own lines, and leave it locked."""
        self._changed = threading.Condition(self._lock)
        self._thread: threading.Thread | None = None
        self._gate = threading.Lock()
        self._runs = False
        self._waiting: list[_T] = []
        self._failures: list[BaseException] = []

    @property
    def is_busy(self) -> bool:
        """Whether there is work that is not done."""
        with self._lock:
            return self._runs

    def submit(self, piece: _T) -> None:
        """Hand in a piece of work; waits while another one waits."""
        with self._lock:
            self._changed.wait_for(lambda: not self._waiting)
            if self._runs:
                self._waiting.append(piece)
                return
            self._runs = True
            self._gate = threading.Lock()
            self._gate.acquire()
            # not a daemon: a program that ends waits for it
            self._thread = threading.Thread(target=self._drain, args=([piece], self._gate), name=self._name)
            self._thread.start()

    def withdraw(self) -> _T | None:
        """Take back the piece that waits; None when none does."""
        with self._lock:
            piece = self._waiting.pop() if self._waiting else None
            self._changed.notify_all()
            return piece

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until all is done; whether it is. Ctrl-C ends the waiting, not the work.

        A thread that is joined while it works would not do: Python 3.11 takes one for ended when Ctrl-C strikes meanwhile.

        Args:
            timeout_s: how long; None waits as long as it takes.
        """
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while self.is_busy:
            left_s = _LOOK_S if until_s is None else min(until_s - time.monotonic(), _LOOK_S)
            if left_s <= 0:
                return False
            gate = self._gate
            if gate.acquire(timeout=left_s):
                gate.release()
        if self._thread is not None:
            self._thread.join()  # it has done its work
        return True

    def take_failure(self) -> BaseException | None:
        """Return the first thing that went wrong since the last call, with what went wrong after it as notes; None when nothing did."""
        with self._lock:
            failures, self._failures = self._failures, []
        for later in failures[1:]:
            failures[0].add_note(f"and then: {later}")
        return failures[0] if failures else None

    def _drain(self, begun: list[_T], gate: threading.Lock) -> None:
        """Work until there is none, then open the gate."""
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
        gate.release()
