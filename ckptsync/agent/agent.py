"""The sidecar: watches a directory, and commits every checkpoint in it that is whole."""

from __future__ import annotations

import platform
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

import ckptsync
from ckptsync.agent.ask import Asker
from ckptsync.agent.backlog import Backlog
from ckptsync.agent.board import Board, Committed, State, Status
from ckptsync.agent.draining import wait_until_durable
from ckptsync.agent.endgame import Endgame
from ckptsync.agent.gate import Gate
from ckptsync.agent.gauge import Gauge
from ckptsync.agent.guard import Guard
from ckptsync.agent.holding import allow_many_files
from ckptsync.agent.ledger import Ledger, ledger_path
from ckptsync.agent.lookout import SETTLE_S, Candidate, Found, Lookout
from ckptsync.agent.memory import share_one_heap
from ckptsync.agent.notice import Notice
from ckptsync.agent.uploading import Uploading
from ckptsync.agent.watchdir import Watch
from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import CkptsyncError, ConfigError, DiskError, FencedError, NotDurableError, SourceChangedError
from ckptsync.events import Event, Kind, Observer, fan_out, log_observer
from ckptsync.options import Config
from ckptsync.patience import impatient
from ckptsync.redaction import redacted
from ckptsync.run import run_on
from ckptsync.store import open_store
from ckptsync.store.bandwidth import Bandwidth
from ckptsync.verbs.save import Saved

_LONGEST_GAP_S = 5.0
_LAST_LOOKS = 5
DONE_MARKER = ".ckptsync-done"
"""Whoever makes a file of this name in the directory says that the training is over."""
_PATIENCE_S = 5.0
_LOOK_SHARE, _SETTLE_SHARE = 10, 2
"""Looking takes at most one part in so many of the time, where a directory changes all the time; more while something settles."""
_IDLE_SHARE = 500
"""As `_LOOK_SHARE`, where nobody tells whether anything changed."""


class Agent:
    """Ships checkpoints until it is closed. A context manager; behind it no thread of it begins anything."""

    def __init__(
        self,
        directory: Path,
        run: str,
        *,
        config: Config,
        observer: Observer = log_observer,
        asker: Asker | None = None,
        clock: Clock = SYSTEM,
        committed: Callable[[Saved], None] | None = None,
    ) -> None:
        """Open a run. Nothing is asked of the bucket or of the directory yet.

        Args:
            directory: to be watched; need not be there yet.
            run: its URL.
            config: options in force.
            observer: told of everything that happens, in whatever thread it does.
            asker: asks the trainer for a last checkpoint; None asks nobody.
            clock: replaced in tests.
            committed: told of every commit, in the thread that made it.

        Raises:
            ConfigError: the URL or an option cannot be used, or what stands there is no directory.
        """
        if directory.exists() and not directory.is_dir():
            raise ConfigError(f"{directory} is no directory; name the one that checkpoints are written to")
        share_one_heap()
        options = config.agent
        self.directory, self._config, self._clock = directory, config, clock
        self._tell_commit = committed
        self.ended = threading.Event()
        self.failure: CkptsyncError | None = None
        self.trainer_done = threading.Event()
        """Set once the file `DONE_MARKER` is in the directory: no checkpoint comes any more."""
        self._stop, self._draining = threading.Event(), threading.Event()
        self._looking = threading.Lock()
        self._exits, self._threads = ExitStack(), list[threading.Thread]()
        self._gauge = Gauge(clock)
        self._observer = fan_out(self._count, impatient(self._trouble, clock=clock), observer)
        cap = config.transfer.max_bytes_per_s
        bandwidth = Bandwidth(cap, clock=clock) if cap else None
        store = open_store(run, config, clock=clock, observer=self._observer, bandwidth=bandwidth)
        self._exits.enter_context(store)
        self._gate = Gate(store)
        opened = run_on(self._gate, config, observer=self._observer, clock=clock)
        if opened.overlaps(directory):
            raise ConfigError(f"{directory} and the run {opened.directory} lie in each other; keep the run elsewhere")
        self._ledger = Ledger(ledger_path(config.state_path(), opened.place, directory))
        self._backlog = Backlog(options.backlog, is_durable=self._ledger.__contains__)
        self.lookout = Lookout(directory, options.ready, options.quiet_s, clock)
        self._guard = Guard(directory, options, is_durable=self._ledger.__contains__, observer=self._observer)
        self._watch = Watch(directory, way=options.watch, say=self._say, stop=self._stop)
        self.board = Board(_first_status(opened.url, directory, clock), clock=clock)
        self._work = Uploading(
            run=opened,
            gate=self._gate,
            directory=directory,
            backlog=self._backlog,
            ledger=self._ledger,
            gauge=self._gauge,
            board=self.board,
            say=self._say,
            fail=self._fail,
            went_wrong=self._went_wrong,
            committed=self._committed,
        )
        self._endgame = Endgame(
            backlog=self._backlog,
            gate=self._gate,
            gauge=self._gauge,
            board=self.board,
            clock=clock,
            margin_s=options.margin_s,
            bandwidth=bandwidth,
            asker=asker,
            say=self._say,
            usual_bytes=self._work.usual_bytes,
            draining=self._draining.is_set,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(patience_s=0.0 if isinstance(error, KeyboardInterrupt | NotDurableError) else _PATIENCE_S)

    # -- its life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Watch and upload from now on, in threads of its own; returns at once."""
        allow_many_files()
        self._watch.start()
        for name, work in (
            ("watch", self._watching),
            ("upload", self._uploading),
            ("notice", self._endgame.work),
        ):
            thread = threading.Thread(target=work, name=f"ckptsync-{name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether none of its threads has ended."""
        return all(thread.is_alive() for thread in self._threads)

    def notice(self, notice: Notice) -> None:
        """Take in that this machine may end soon. From any thread; returns at once, also amid a signal handler."""
        self._endgame.tell(notice)

    def drain(self, timeout_s: float, *, trainer_ended: bool = False, ended_well: bool | None = None) -> None:
        """Look a last time, and wait until all that is whole is durable; nothing else is begun from now on. Safe to call again.

        Args:
            timeout_s: how long to wait.
            trainer_ended: whether no checkpoint can come any more, so that one that was asked for is not waited for.
            ended_well: whether the training came to its own end, so that what it wrote is all there; None leaves it to `DONE_MARKER`.

        Raises:
            NotDurableError: something is not durable yet; the journal keeps how far it came.
            FencedError: a newer writer owns the run.
            CkptsyncError: it cannot go on for another reason.
        """
        until_s = self._clock.monotonic() + timeout_s
        self._draining.set()
        self._endgame.lift_cap()
        if over := self.trainer_done.is_set() if ended_well is None else ended_well:
            with self._looking:
                self.lookout.training_is_over(since_first_look=ended_well is not None)
        self._look_a_last_time()
        while not trainer_ended and self._endgame.awaits and self._clock.monotonic() < until_s:
            if self._stop.wait(SETTLE_S):
                break
            self.look()
        self._work.unreadable = None
        self._backlog.hurry()
        self._show()
        wait_until_durable(self._work, self._is_over, until_s=until_s, say=self._say)
        if self.failure is not None:
            raise self.failure
        if pending := self._backlog.pending:
            names, why = ", ".join(one.title for one in pending), self._why_pending(timeout_s)
            raise NotDurableError(f"not durable: {names} ({why}); the next start continues where this one was")
        found = self.look()
        for sentence in found.left_over(self._config.agent.ready):
            self._say(sentence)
        if over and found.lacking:
            raise NotDurableError(f"not durable: {min(found.lacking)}; mark its checkpoint when that is all of it")
        self.board.entered(State.DONE)

    def _why_pending(self, timeout_s: float) -> str:
        """Why something is not durable at the end."""
        if self._backlog.paused and self._endgame.plan is not None:
            return self._endgame.plan.why
        if self.board.status.failing:
            return self.board.status.errors[-1].message
        return f"not within {timeout_s:g} s" if timeout_s else "there was no time left"

    def close(self, *, patience_s: float = _PATIENCE_S) -> None:
        """Begin nothing more, and let go of the bucket. Safe to call again.

        Args:
            patience_s: how long to wait for requests under way, which would end with an error else.
        """
        self._gate.shut("the sidecar is closing")
        self._stop.set()
        self._backlog.end()
        self._endgame.close()
        self._watch.nudge()
        for thread in self._threads:
            thread.join(patience_s)
        self._threads.clear()
        self._exits.close()

    def _is_over(self) -> bool:
        """Whether there is nothing to wait for."""
        backlog, failure = self._backlog, self.failure or self._work.unreadable
        return failure is not None or backlog.ended or backlog.paused or backlog.is_idle

    # -- looking -----------------------------------------------------------------------------------------------------

    def _watching(self) -> None:
        """Look whenever there may be something new."""
        while not self._stop.is_set():
            begun_s = time.monotonic()
            found = Found() if self._draining.is_set() else self.look()
            took_s = time.monotonic() - begun_s
            gap_s = min(took_s * (_SETTLE_SHARE if found.settling else _LOOK_SHARE), _LONGEST_GAP_S)
            if not self._stop.wait(gap_s):
                self._watch.wait(self._next_look_s(found, took_s))

    def _next_look_s(self, found: Found, took_s: float) -> float | None:
        """Seconds until it is looked again though nothing tells of a change; None when that is not needed."""
        options = self._config.agent
        if found.settling:
            return SETTLE_S
        if self._draining.is_set():
            return None
        if self._watch.polls or found.waiting or options.ready == "quiet" or options.min_free_bytes:
            return max(options.poll_s, took_s * _IDLE_SHARE)
        return None

    def look(self) -> Found:
        """Look once, and let what is new and whole wait for its upload. From any thread."""
        with self._looking:
            try:
                found = self.lookout.look()
            except (DiskError, SourceChangedError) as error:
                self._failed(error)
                return Found(settling=isinstance(error, SourceChangedError))
            gone = self._backlog.found(found.candidates)
            try:
                if self._work.answered.is_set():
                    self._guard.see_to(found.candidates, busy={one.mark for one in self._backlog.pending})
            except DiskError as error:
                self._failed(error)
        if found.candidates:
            self._endgame.whole(found.candidates[-1])
        if (self.directory / DONE_MARKER).exists():
            self.trainer_done.set()
        for candidate in filter(found.is_gone, gone):
            self._say(f"{candidate.title} was deleted before it was committed")
        for why in found.overdue:
            self._say(f"not committed yet: {why}")
        self.board.change(waiting=found.waiting)
        self._show()
        return found

    def _look_a_last_time(self) -> None:
        """Look until nothing has to settle."""
        for _ in range(_LAST_LOOKS):
            if not self.look().settling:
                return
            self._clock.sleep(SETTLE_S)

    # -- uploading ---------------------------------------------------------------------------------------------------

    def _uploading(self) -> None:
        """Take one checkpoint after the other into the bucket."""
        while not self._work.answered.is_set() and not self._backlog.ended:
            if (pause_s := self._work.ask_bucket()) is not None:
                self._stop.wait(pause_s)
            self._show()
        while (candidate := self._backlog.wait_for_one(self._clock)) is not None:
            self._show()
            self._work.upload_one(candidate)
            self._show()

    def _committed(self, candidate: Candidate, saved: Saved) -> None:
        """Show a commit."""
        self.board.committed(
            Committed(
                snapshot=saved.snapshot,
                step=saved.step,
                bytes=saved.bytes,
                at_s=self._clock.now(),
                seconds=saved.seconds,
                bytes_sent=saved.bytes_sent,
            ),
            epoch=saved.epoch,
            whole_since_s=candidate.at_s,
        )
        self._watch.nudge()  # what is durable now may be deleted
        if self._tell_commit is not None:
            self._tell_commit(saved)

    # -- telling -----------------------------------------------------------------------------------------------------

    def _count(self, event: Event) -> None:
        """Measure what an event tells."""
        self._gauge.tell(event)
        self.board.observe(event)
        if event.kind in {Kind.SENT, Kind.REUSED}:
            self.board.change(pending_bytes=self._work.pending_bytes)

    def _trouble(self, event: Event) -> None:
        """Show that nothing but failures comes back."""
        self.board.troubled(event.message)

    def _say(self, message: str) -> None:
        """Tell people something."""
        self._observer(Event(kind=Kind.NOTICE, message=message))

    def _failed(self, error: CkptsyncError) -> None:
        """Show what failed, and tell it unless it is what was told last."""
        errors = self.board.status.errors
        self.board.failed(error)
        if not errors or errors[-1].message != self.board.status.errors[-1].message:
            self._observer(Event(kind=Kind.FAILED, message=str(error)))

    def _went_wrong(self, error: CkptsyncError) -> None:
        """Show what will be tried again."""
        if isinstance(error, SourceChangedError):
            self._say(str(error))
            self._watch.nudge()
            return
        self._failed(error)

    def _fail(self, error: CkptsyncError) -> None:
        """Give up for good."""
        self.failure = error
        self._failed(error)
        error.was_told = True
        self._backlog.end()
        self._show()
        self.ended.set()

    def _show(self) -> None:
        """Let the board tell what is pending, and what is being done."""
        pending = self._backlog.pending
        self.board.change(
            pending=len(pending),
            pending_bytes=self._work.pending_bytes,
            pending_since_s=min((one.at_s for one in pending), default=None),
        )
        if self.board.status.state is not State.DONE:
            self.board.entered(self._state())

    def _state(self) -> State:
        """What is being done."""
        if self.failure is not None:
            return State.FENCED if isinstance(self.failure, FencedError) else State.FAILED
        if self._draining.is_set():
            return State.DRAINING
        if not self._work.answered.is_set():
            return State.STARTING
        return State.UPLOADING if self._backlog.under_way else State.WATCHING


def _first_status(url: str, directory: Path, clock: Clock) -> Status:
    """As an agent begins."""
    now_s = clock.now()
    return Status(
        run=redacted(url),
        directory=str(directory),
        host=platform.node(),
        version=ckptsync.__version__,
        state=State.STARTING,
        since_s=now_s,
        started_s=now_s,
        at_risk_since_s=now_s,
    )
