"""The one place where requests are tried again: full jitter, a deadline, and no byte fetched twice.

Source: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

import msgspec
import tenacity

from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import StoreError, TransientError
from ckptsync.events import Event, Kind, Observer, log_observer
from ckptsync.options import Retry
from ckptsync.store.base import Stat, Store, StoreWrapper, Tag, Upload

T = TypeVar("T")

_DELETE_KEYS = 1000
"""Keys deleted by one call of the inner store, so that a failure repeats no more than these."""
_DOUBLINGS = 40
"""Where doubling stops, long past any cap, before the number overflows."""
_DICE = random.SystemRandom()
"""Ranks forked from one process must not roll the same pauses."""


class Retrying(StoreWrapper):
    """Tries a request again when it failed with `TransientError`, and only then.

    A failure that is raised carries how often it was tried. An answer that got lost may make a later try of `put` with
    `if_absent` raise `ConflictError`: the caller reads back and compares. A repeated `finish` is settled by the store. A
    repeated `begin` may leave an upload nobody knows of, which gc removes.
    """

    def __init__(
        self,
        inner: Store,
        retry: Retry,
        *,
        clock: Clock = SYSTEM,
        observer: Observer = log_observer,
        least_bytes_per_s: float = 0.0,
    ) -> None:
        """Wrap a store that does not itself try again.

        Args:
            inner: closed with this one.
            retry: how often and how long.
            clock: does the pausing.
            observer: told of every failure that is followed by another try.
            least_bytes_per_s: a `get` that keeps breaking counts tries and time anew only while it gets on this fast, pauses
                included; so it ends, however little each try brings.
        """
        super().__init__(inner)
        self._least_bytes_per_s = least_bytes_per_s
        self._retry = retry
        self._clock = clock
        self._observer = observer

    def within(self, deadline_s: float) -> Retrying:
        """As `Store.within`."""
        retry = msgspec.structs.replace(self._retry, deadline_s=min(deadline_s, self._retry.deadline_s))
        return Retrying(
            self.inner,
            retry,
            clock=self._clock,
            observer=self._observer,
            least_bytes_per_s=self._least_bytes_per_s,
        )

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        """Send a request until it succeeds, or fails for good."""
        return self._run(verb, key)(request)

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        """As `Store.get`; goes on behind the bytes that had arrived, so pin `tag` where an object may be replaced."""
        run = self._run("get", key)
        done = 0

        def once() -> int:
            nonlocal done
            if done and done == len(into):
                return done
            try:
                return done + self.inner.get(key, into[done:], offset=offset + done, tag=tag)
            except TransientError as error:
                if error.received:
                    done += error.received
                    run.received(error.received, self._least_bytes_per_s)
                error.received = done
                raise

        return run(once)

    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        """As `Store.list`; goes on behind the last key seen."""
        run = self._run("list", prefix)
        left = limit
        for attempt in run.attempts():
            with attempt:
                if left == 0:
                    return
                for found in self.inner.list(prefix, limit=left, after=after):
                    run.progressed()
                    after = found.key
                    left = None if left is None else left - 1
                    yield found

    def delete(self, keys: Iterable[str]) -> None:
        """As `Store.delete`."""
        rest = iter(keys)
        while batch := tuple(islice(rest, _DELETE_KEYS)):
            super().delete(batch)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """As `Store.uploads`; begun anew after a failure, less what was shown already."""
        run = self._run("uploads", prefix)
        shown: set[tuple[str, str]] = set()
        for attempt in run.attempts():
            with attempt:
                for found in self.inner.uploads(prefix):
                    if (found.key, found.id) not in shown:
                        run.progressed()
                        shown.add((found.key, found.id))
                        yield found

    def _run(self, op: str, key: str) -> _Run:
        """Begin a request."""
        return _Run(self._retry, self._clock, self._observer, op, key)


class _Run:
    """One request and its tries, for one thread."""

    def __init__(self, retry: Retry, clock: Clock, observer: Observer, op: str, key: str) -> None:
        """Nothing was tried yet."""
        self._retry = retry
        self._clock = clock
        self._observer = observer
        self._op = op
        self._key = key
        self._tries = 0
        self._fruitful_try = 0
        self._throttled_tries = 0
        self._received = 0
        self._since_s = clock.monotonic()

    def __call__(self, request: Callable[[], T]) -> T:
        """Call until it succeeds, or fails for good. Most succeed at once: only failures are worth a controller."""
        try:
            try:
                self._tries = 1
                return request()
            except TransientError as error:
                return self._controller()(_after(error, request))
        except StoreError as error:
            error.attempts = self._tries
            raise

    def attempts(self) -> Iterator[tenacity.AttemptManager]:
        """Tries to be entered one after the other; the one that succeeds is the last."""
        try:
            yield from self._controller()
        except StoreError as error:
            error.attempts = self._tries
            raise

    def progressed(self) -> None:
        """Count tries and time anew: this one brought something."""
        self._fruitful_try, self._throttled_tries, self._received = self._tries, 0, 0
        self._since_s = self._clock.monotonic()

    def received(self, count: int, least_bytes_per_s: float) -> None:
        """Note bytes that came before a failure; they are progress when they came fast enough."""
        self._received += count
        if self._received >= (self._clock.monotonic() - self._since_s) * least_bytes_per_s:
            self.progressed()

    def _controller(self) -> tenacity.Retrying:
        """Make a fresh one: tenacity keeps state in it, which nested listings would share."""
        return tenacity.Retrying(
            sleep=self._clock.sleep,
            before=self._count,
            after=self._judge,
            retry=tenacity.retry_if_exception_type(TransientError),
            wait=self._pause_s,
            stop=self._is_over,
            before_sleep=self._tell,
            reraise=True,
        )

    def _count(self, state: tenacity.RetryCallState) -> None:
        """Note that a try begins."""
        self._tries = state.attempt_number

    def _judge(self, state: tenacity.RetryCallState) -> None:
        """Note what a failed try shall not be charged for."""
        failure = _failure(state)
        self._throttled_tries += failure.throttled
        self._since_s += failure.queued_s

    def _pause_s(self, state: tenacity.RetryCallState) -> float:
        """Roll the pause before the next try."""
        doublings = min(max(self._tries - self._fruitful_try - 1, 0), _DOUBLINGS)
        rolled_s = _DICE.uniform(0.0, min(self._retry.cap_s, self._retry.base_s * 2**doublings))
        return max(rolled_s, _failure(state).retry_after_s or 0.0)

    def _is_over(self, state: tenacity.RetryCallState) -> bool:
        """Whether there were enough fruitless tries, or the next would come too late.

        Being asked for a slower pace is the answer of a service that works; such tries are bounded by time alone.
        """
        if self._counted() >= self._retry.attempts:
            return True
        return self._clock.monotonic() + state.upcoming_sleep - self._since_s >= self._retry.deadline_s

    def _counted(self) -> int:
        """Tries since the last that brought something, less those in which the service asked for a slower pace."""
        return self._tries - self._fruitful_try - self._throttled_tries

    def _tell(self, state: tenacity.RetryCallState) -> None:
        """Tell the observer."""
        failure = _failure(state)
        which = "" if failure.throttled else f", try {self._counted()} of {self._retry.attempts}"
        message = f"{self._op} {self._key!r} failed{which}: {failure}; trying again in {state.upcoming_sleep:.2f} s"
        self._observer(Event(kind=Kind.RETRY, path=self._key, message=message))


def _after(failure: TransientError, request: Callable[[], T]) -> Callable[[], T]:
    """Return what fails so when it is first called, and then asks again."""
    waiting = [failure]

    def call() -> T:
        if waiting:
            raise waiting.pop()
        return request()

    return call


def _failure(state: tenacity.RetryCallState) -> TransientError:
    """Return what the last try failed with."""
    failure = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(failure, TransientError):
        raise TypeError(f"tried again after {failure!r}")
    return failure
