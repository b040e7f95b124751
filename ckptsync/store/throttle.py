"""How many requests are under way at once: fewer when the service asks for a slower pace, and slowly more again.

Additive increase, multiplicative decrease, as in TCP's congestion avoidance.
Source: https://www.rfc-editor.org/rfc/rfc5681 section 3.1
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import TransientError
from ckptsync.events import Event, Kind, Observer, log_observer
from ckptsync.store.base import Stat, Store, StoreWrapper, Upload

T = TypeVar("T")

_PAGE_ENTRIES = 1000
"""Entries of a listing in one request of the usual services."""


class Limiter:
    """Lets a number of requests go at once, in the order they come. Safe for many threads.

    The number halves when the service throttles a request that was sent after it last halved: requests under way together count
    once. It grows by one after as many successes as it is large, up to where it began. When the service names a pause, every
    request waits for its end, not only the one that was told.
    """

    def __init__(
        self, most: int, *, longest_pause_s: float, clock: Clock = SYSTEM, observer: Observer = log_observer
    ) -> None:
        """Begin at the largest number.

        Args:
            most: requests at once, 1 or more.
            longest_pause_s: a pause this long or longer is left to the request that was told.
            clock: does the pausing.
            observer: told when the number halves first, and when it is back where it began.
        """
        self._most = most
        self._longest_pause_s = longest_pause_s
        self._clock = clock
        self._observer = observer
        self._limit = most
        self._is_reduced = False
        self._successes = 0
        self._round = 0
        self._paused_until_s = float("-inf")
        self._begin()

    def _begin(self) -> None:
        """Have no request under way; also after a fork, since those of the parent never end here."""
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._under_way = 0
        self._waiting: deque[threading.Event] = deque()

    @property
    def limit(self) -> int:
        """Requests that may be under way now."""
        return self._limit

    @contextmanager
    def permit(self, *, counts: bool = True) -> Iterator[None]:
        """Wait for a turn, and have it as long as the `with` block lasts. Not to be nested in one thread.

        Args:
            counts: a success counts towards growth.

        Raises:
            TransientError: what the block raised; it carries how long the turn was waited for.
        """
        waited_s, sent_in = self._wait_for_turn(), -1
        try:
            waited_s += self._wait_for_pause()
            sent_in = self._round
            yield
        except TransientError as error:
            error.queued_s += waited_s
            if error.throttled:
                self._throttled(sent_in, error.retry_after_s or 0.0)
            raise
        else:
            if counts and self._limit < self._most:
                self._succeeded()
        finally:
            self._leave()

    def _wait_for_turn(self) -> float:
        """Take a place, in order; return the seconds that took."""
        if self._pid != os.getpid():
            self._begin()
        with self._lock:
            if self._under_way < self._limit and not self._waiting:
                self._under_way += 1
                return 0.0
            turn = threading.Event()
            self._waiting.append(turn)
        since_s = self._clock.monotonic()
        try:
            turn.wait()
        except BaseException:  # Ctrl-C; the place must not be lost to the others
            with self._lock:
                if turn.is_set():
                    self._under_way -= 1
                else:
                    self._waiting.remove(turn)
                self._hand_on()
            raise
        return self._clock.monotonic() - since_s

    def _wait_for_pause(self) -> float:
        """Let the pause end that the service asked for; return the seconds that took."""
        waited_s = 0.0
        while (left_s := self._paused_until_s - self._clock.monotonic()) > 0:
            self._clock.sleep(left_s)
            waited_s += left_s
        return waited_s

    def _leave(self) -> None:
        """Give a place back."""
        with self._lock:
            self._under_way -= 1
            self._hand_on()

    def _hand_on(self) -> None:
        """Give free places to those who wait longest. The lock is held."""
        while self._waiting and self._under_way < self._limit:
            self._under_way += 1
            self._waiting.popleft().set()

    def _succeeded(self) -> None:
        """Count towards the next step up."""
        with self._lock:
            self._successes += 1
            if self._limit == self._most or self._successes < self._limit:
                return
            self._successes = 0
            self._limit += 1
            back = self._limit == self._most
            self._is_reduced = not back
            self._hand_on()
        if back:
            self._tell(f"the service takes requests at the full pace again: up to {self._most} at once")

    def _throttled(self, sent_in: int, pause_s: float) -> None:
        """Halve, unless the request belongs to a round that was answered by halving already."""
        with self._lock:
            if pause_s < self._longest_pause_s:
                self._paused_until_s = max(self._paused_until_s, self._clock.monotonic() + pause_s)
            if sent_in != self._round:
                return
            first, self._is_reduced = not self._is_reduced, True
            self._round += 1
            self._successes = 0
            self._limit = max(1, self._limit // 2)
        if first:
            self._tell(
                f"the service asks for a slower pace: {self._limit} requests at once instead of {self._most}, or fewer"
            )

    def _tell(self, message: str) -> None:
        """Tell the observer."""
        self._observer(Event(kind=Kind.NOTICE, message=message))


class Throttled(StoreWrapper):
    """Sends requests through a `Limiter`. Put it inside `Retrying`, so that the pauses between tries take no one's turn.

    A listing has a turn while the inner store is asked for its next entry, not while the caller works with it. A deletion of many
    keys has one turn, however many requests the inner store makes of it.
    """

    def __init__(self, inner: Store, limiter: Limiter) -> None:
        """Wrap `inner`, which is closed with this one."""
        super().__init__(inner)
        self.limiter = limiter

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        """Send one request in its turn."""
        del verb, key
        with self.limiter.permit():
            return request()

    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        """As the inner store's."""
        return self._in_turns(self.inner.list(prefix, limit=limit, after=after))

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """As the inner store's."""
        return self._in_turns(self.inner.uploads(prefix))

    def _in_turns(self, entries: Iterator[T]) -> Iterator[T]:
        """Take each entry in a turn; a page of them counts as one success."""
        number = 0
        while True:
            with self.limiter.permit(counts=number % _PAGE_ENTRIES == 0):
                entry = next(entries, None)
            if entry is None:
                return
            number += 1
            yield entry
