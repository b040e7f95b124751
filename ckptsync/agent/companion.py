"""A command with the sidecar beside it, from its start until what it left is durable."""

from __future__ import annotations

import os
import queue
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ckptsync.agent.agent import Agent
from ckptsync.agent.child import Child, has_terminal
from ckptsync.agent.notice import Notice, Source
from ckptsync.clock import Clock
from ckptsync.errors import CkptsyncError, FencedError, NotDurableError

_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT, signal.SIGWINCH, signal.SIGTSTP)
_PASSED = (*_ENDING, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT)
_MOST_PATIENT = 2
_GLANCE_S = 0.5
_STOP_S = 35.0
"""A launcher such as torchrun gives its workers 30 s; it must be able to end them itself."""


class Companion:
    """Passes signals on, waits for the command, drains. For the main thread."""

    _child: Child

    def __init__(
        self,
        agent: Agent,
        *,
        drain_timeout_s: float,
        margin_s: float,
        clock: Clock,
        say: Callable[[str], None],
    ) -> None:
        """Keep what is needed; nothing happens yet.

        Args:
            agent: that commits what the command writes.
            drain_timeout_s: for what is not durable when the command has ended, or from the first SIGTERM on for everything.
            margin_s: before that is over, everything is; of a short time it is at most a quarter.
            clock: tells the time.
            say: told what people should read.
        """
        self._agent, self._clock, self._say = agent, clock, say
        self._drain_timeout_s, self._margin_s = drain_timeout_s, min(margin_s, drain_timeout_s / 4)
        self._events: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._until_s: float | None = None
        self._asked_to_end = 0
        self._told_failure = self._draining = False

    @contextmanager
    def beside(self, start: Callable[[], Child]) -> Iterator[None]:
        """Start the command, and pass signals on to it for as long as the `with` block lasts; those that were ignored before stay so.

        What arrives while it is being started reaches it, too.

        Args:
            start: starts it.

        Raises:
            CommandError: it cannot be started.
        """
        before = dict[int, Any]()
        by_terminal = set(_FROM_TERMINAL) - {signal.SIGINT} if has_terminal() else set()

        def take_over(*numbers: int) -> None:
            for number in numbers:
                if signal.getsignal(number) is not signal.SIG_IGN and number not in by_terminal:
                    before[number] = signal.signal(number, self._signalled)

        try:
            take_over(*_PASSED, signal.SIGCHLD)
            self._child = start()
            take_over(signal.SIGTSTP)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, frame: FrameType | None) -> None:
        """Take in a signal, between any two instructions of the main thread.

        Raises:
            NotDurableError: it is the second that asks for the end, while what the command left is made durable.
        """
        del frame
        if self._draining and number in _ENDING:
            self._asked_to_end += 1
            if self._asked_to_end >= _MOST_PATIENT:
                raise NotDurableError("asked to end again before everything was durable; the next start continues")
        if number == signal.SIGTSTP:
            self._child.send(number)
            os.kill(os.getpid(), signal.SIGSTOP)
        else:
            self._events.put(number)

    def wait(self) -> int:
        """Wait for the command's end, and until what it left is durable; the exit code of it all.

        Raises:
            FencedError: a newer writer owns the run; the command was ended, or had ended well.
            NotDurableError: the command ended well, and something could not be made durable.
        """
        while (code := self._child.exit_code()) is None:
            try:
                number = self._events.get(timeout=_GLANCE_S)
            except queue.Empty:
                self._glance()
            else:
                self._take(number)
        return self._drained(code)

    def _take(self, number: int) -> None:
        """Pass a signal on; those that ask for the end are a notice, too."""
        if number == signal.SIGCHLD:
            return
        if not (self._child.has_terminal and number in _FROM_TERMINAL):  # the terminal told it
            self._child.send(number)
        if number not in _ENDING:
            return
        self._asked_to_end += 1
        if self._asked_to_end > _MOST_PATIENT:
            self._say("asked to end for the third time: the command is killed")
            self._child.kill()
        if self._until_s is not None:
            return
        now_s = self._clock.monotonic()
        self._until_s = now_s + self._drain_timeout_s
        if number != signal.SIGINT:
            self._agent.notice(_notice(number, self._until_s, self._drain_timeout_s))

    def _glance(self) -> None:
        """See whether the sidecar can still do its work, and whether there is time left."""
        failure = self._agent.failure
        if isinstance(failure, FencedError):
            self._say("the command is ended")
            self._stop()
        elif failure is not None and not self._told_failure:
            self._told_failure = True
            self._say("the command goes on, and nothing of it is committed any more")
        if self._until_s is not None and self._clock.monotonic() >= self._until_s - self._margin_s:
            self._say("the command has not ended in time and is killed")
            self._child.kill()
            self._child.wait(_GLANCE_S)

    def _stop(self) -> None:
        """End the command in good order, or else by force."""
        self._child.send(signal.SIGTERM)
        if self._child.wait(_STOP_S) is None:
            self._child.kill()
            self._child.wait(_STOP_S)

    def _drained(self, code: int) -> int:
        """Wait for what is not durable; the exit code of it all."""
        left_s = self._drain_timeout_s
        if self._until_s is not None:
            left_s = max(0.0, self._until_s - self._margin_s - self._clock.monotonic())
        self._draining = True
        try:
            # One that was asked to end, and ends with 0, may have been amid a save.
            self._agent.drain(left_s, trainer_ended=True, ended_well=code == 0 and not self._asked_to_end)
            if self._asked_to_end and code == 0 and (news := self._agent.look().news):
                raise NotDurableError(f"not durable: {news[0]}")
        except FencedError:
            raise
        except CkptsyncError as error:
            if code == 0:
                raise NotDurableError(str(error)) from error
            self._say(f"the command ended with {code}, and {error}")
        return code


def exit_by_code() -> None:
    """Let no signal that asks for the end replace the exit code any more, which is decided. For the main thread, at its very end."""
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)


def _notice(number: int, deadline_s: float, left_s: float) -> Notice:
    """The notice that a signal is."""
    name = signal.Signals(number).name
    return Notice(
        source=Source.SIGNAL,
        kind=name,
        final=True,
        deadline_s=deadline_s,
        message=f"{name} was received, which leaves {left_s:.0f} s",
    )
