"""Actors whose every request waits until a scheduler lets it go: one thread moves at a time, so a schedule is a list."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from ckptsync.store.base import Buffer, Stat, Store, StoreWrapper
from ckptsync.testing.faults import Killed

T = TypeVar("T")
PATIENCE_S = 60.0


class Stepper(StoreWrapper):
    """One actor's way into a bucket: each request is announced, then waits for `step`.

    Attributes:
        at: verb and key of the request that waits; None when the actor has ended.
        wrote: keys of objects it put, in order.
    """

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.at: tuple[str, str] | None = None
        self.wrote: list[str] = []
        self.stopped = False
        self._go = threading.Semaphore(0)
        self._arrived = threading.Semaphore(0)

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        self.at = verb, key
        self._arrived.release()
        self._go.acquire()
        if self.stopped:
            raise Killed
        return request()

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        made = super().put(key, data, if_absent=if_absent)
        self.wrote.append(key)
        return made

    def step(self) -> None:
        """Let the request go, and wait for the next one or the end."""
        self._go.release()
        self.wait()

    def wait(self) -> None:
        """Wait until the actor has come to a request or to its end."""
        assert self._arrived.acquire(timeout=PATIENCE_S), f"an actor hangs behind {self.at}"

    def end(self) -> None:
        """The actor has ended."""
        self.at = None
        self._arrived.release()


class Actor:
    """Work done in a thread of its own, request by request.

    Attributes:
        name: for messages.
        store: where its requests are held up.
        result: what the work returned; None while it is under way or when it failed.
        error: what it raised.
    """

    def __init__(self, name: str, bucket: Store, work: Callable[[Store], object]) -> None:
        self.name = name
        self.store = Stepper(bucket)
        self.result: object = None
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self.store.wait()

    def _run(self) -> None:
        try:
            self.result = self._work(self.store)
        except BaseException as error:  # noqa: BLE001  the scheduler looks at it
            self.error = error
        self.store.end()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self.store.at is None

    def step(self) -> None:
        """Let it make one request."""
        self.store.step()

    def stop(self) -> None:
        """End it: whatever it asks for from now on is as if it were dead."""
        self.store.stopped = True
        while not self.done:
            self.store.step()
        self._thread.join(PATIENCE_S)
