"""Checkpoints that are whole and not durable yet, and which of them is next."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Literal

from ckptsync.agent.lookout import Candidate
from ckptsync.clock import Clock

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 5.0, 300.0
_DOUBLINGS = 10


class Backlog:
    """What waits and what is under way. Safe for many threads; only what the disk holds is in it, so that it is bounded."""

    def __init__(self, mode: Literal["latest", "all"], *, is_durable: Callable[[str], bool]) -> None:
        """Be empty.

        Args:
            mode: `latest` passes over what a newer one overtakes.
            is_durable: whether a checkpoint of that mark is in the bucket.
        """
        self._mode, self._is_durable = mode, is_durable
        self.changed = threading.Condition()
        self._waiting: tuple[Candidate, ...] = ()
        self._passed: set[str] = set()
        self._under_way: Candidate | None = None
        self._failures = 0
        self._not_before_s = 0.0
        self.ended = False
        """Whether nothing more is to be begun."""
        self.paused = False
        """Whether nothing is to be begun until `resume`."""

    @property
    def waiting(self) -> tuple[Candidate, ...]:
        """The oldest first; with `latest`, only what may be uploaded yet."""
        with self.changed:
            return self._waiting

    @property
    def under_way(self) -> Candidate | None:
        """What is being uploaded."""
        with self.changed:
            return self._under_way

    @property
    def pending(self) -> tuple[Candidate, ...]:
        """What is not durable, the one under way first."""
        with self.changed:
            first = (self._under_way,) if self._under_way else ()
            return first + tuple(one for one in self._waiting if one is not self._under_way)

    @property
    def is_idle(self) -> bool:
        """Whether all is durable that was found."""
        return not self.pending

    def found(self, candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
        """Take in what a look found, the oldest first; those that waited and are gone, which can never become durable."""
        with self.changed:
            before, every = self._waiting, tuple(candidates)
            marks = {one.mark for one in every}
            self._passed &= marks
            busy = self._under_way.mark if self._under_way else ""
            kept = [one for one in every if not (one.mark in self._passed or self._is_durable(one.mark))]
            self._waiting = tuple(one for one in kept if one.mark != busy)
            if self._mode == "latest" and self._waiting:
                newest = self._waiting[-1]
                self._pass_over(self._waiting[:-1])
                if every[-1].mark != newest.mark:  # what is newer is durable, or under way
                    self._pass_over((newest,))
            self.changed.notify_all()
            return tuple(one for one in before if one.mark not in marks)

    def _pass_over(self, overtaken: Iterable[Candidate]) -> None:
        """Let some never be uploaded. The lock is held."""
        marks = {one.mark for one in overtaken}
        self._passed |= marks
        self._waiting = tuple(one for one in self._waiting if one.mark not in marks)

    def take(self, now_s: float) -> Candidate | None:
        """Begin the next one; None when there is none, or when one failed a moment ago."""
        with self.changed:
            held_back = self.ended or self.paused or now_s < self._not_before_s
            if held_back or self._under_way or not self._waiting:
                return None
            self._under_way, self._waiting = self._waiting[0], self._waiting[1:]
            return self._under_way

    def wait_for_one(self, clock: Clock) -> Candidate | None:
        """As `take`, waiting until there is one; None once nothing more is to be begun."""
        with self.changed:
            while not self.ended:
                if (candidate := self.take(clock.monotonic())) is not None:
                    return candidate
                self.changed.wait(self.due_s(clock.monotonic()))
            return None

    def end(self) -> None:
        """Let nothing more begin. Safe to call again."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def due_s(self, now_s: float) -> float | None:
        """Seconds until `take` may give something; None when nothing waits, or all of it for somebody."""
        with self.changed:
            return max(0.0, self._not_before_s - now_s) if self._waiting and not self.paused else None

    def done(self) -> None:
        """What was under way is durable, or is not to be uploaded: `is_durable` tells, or it is passed over."""
        with self.changed:
            if self._under_way and not self._is_durable(self._under_way.mark):
                self._passed.add(self._under_way.mark)
            self._under_way, self._failures, self._not_before_s = None, 0, 0.0
            self.changed.notify_all()

    def put_back(self) -> None:
        """What was under way waits again, unless with `latest` a newer one does."""
        with self.changed:
            back, self._under_way = self._under_way, None
            if back is not None:
                self._waiting = (back, *self._waiting)
                if self._mode == "latest":
                    self._pass_over(self._waiting[:-1])
            self.changed.notify_all()

    def forget(self) -> None:
        """What was under way has changed: the next look says what it is now."""
        with self.changed:
            self._under_way = None
            self.changed.notify_all()

    def failed(self, now_s: float) -> float:
        """What was under way waits again, for a pause that doubles with every failure; its length in seconds."""
        pause_s = min(_FIRST_PAUSE_S * float(1 << min(self._failures, _DOUBLINGS)), _LONGEST_PAUSE_S)
        with self.changed:
            self._failures += 1
            self._not_before_s = now_s + pause_s
        self.put_back()
        return pause_s

    def pause(self) -> None:
        """Let nothing begin until `resume`. Safe to call again."""
        with self.changed:
            self.paused = True
            self.changed.notify_all()

    def resume(self) -> None:
        """Let things begin again. Safe to call again."""
        if self.paused:
            with self.changed:
                self.paused = False
                self.changed.notify_all()

    def prefer_newest(self) -> None:
        """Pass over from now on what a newer one overtakes."""
        self._mode = "latest"

    def hurry(self) -> None:
        """Forget the pause."""
        with self.changed:
            self._not_before_s = 0.0
            self.changed.notify_all()
