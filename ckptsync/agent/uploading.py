"""Takes checkpoints from the backlog into the bucket, one at a time, and tries again what failed."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from ckptsync.agent.backlog import Backlog
from ckptsync.agent.board import Board, Committed
from ckptsync.agent.gate import Gate
from ckptsync.agent.gauge import Gauge
from ckptsync.agent.guard import free_bytes
from ckptsync.agent.holding import held
from ckptsync.agent.ledger import Entry, Ledger, is_in
from ckptsync.agent.lookout import Candidate
from ckptsync.errors import (
    CkptsyncError,
    ConfigError,
    CredentialsError,
    DeniedError,
    DiskError,
    FencedError,
    NotDurableError,
    NotFoundError,
    SourceChangedError,
    StoreError,
    UnsupportedError,
    VersionError,
)
from ckptsync.run import Run
from ckptsync.snapshot.manifest import Manifest
from ckptsync.tenure import Tenure
from ckptsync.verbs.save import Saved, save

_FOR_GOOD = (FencedError, UnsupportedError)
_FOR_GOOD_AT_START = (*_FOR_GOOD, ConfigError, CredentialsError, DeniedError, NotFoundError, VersionError)
"""What was right at the start may be wrong for a while: rights are changed, and given back."""
_ASK_AGAIN_S = 5.0
_COMMITS_COUNTED = 3


@dataclass(slots=True, kw_only=True)
class Uploading:
    """The work of one thread.

    Attributes:
        run: where to, behind a gate.
        gate: shut to stop the upload under way.
        directory: that is watched; its name is the journal's.
        backlog: what waits.
        ledger: what is durable.
        gauge: measures.
        board: shows what happens.
        say: told what people should read.
        fail: told what can never succeed.
        went_wrong: told what will be tried again.
        committed: told of every commit.
        tenure: our right to write the run.
    """

    run: Run
    gate: Gate
    directory: Path
    backlog: Backlog
    ledger: Ledger
    gauge: Gauge
    board: Board
    say: Callable[[str], None]
    fail: Callable[[CkptsyncError], None]
    went_wrong: Callable[[CkptsyncError], None]
    committed: Callable[[Candidate, Saved], None]
    tenure: Tenure = field(default_factory=Tenure)
    answered: threading.Event = field(default_factory=threading.Event)
    unreadable: DiskError | None = None
    """Why the last one could not be read, which no waiting changes."""
    _newest: Manifest | None = None
    _newest_step: int = -1
    _said_steps: bool = False
    _said_old: bool = False
    _restless: set[str] = field(default_factory=set)
    _sent: deque[Saved] = field(default_factory=lambda: deque(maxlen=_COMMITS_COUNTED))

    # -- the bucket's first answer -----------------------------------------------------------------------------------

    def ask_bucket(self) -> float | None:
        """Ask what is committed; None when it answered or never will, else seconds until it is to be asked again."""
        try:
            self._newest = self.run.catalog.newest_readable()
            self._believe_the_bucket()
        except _FOR_GOOD_AT_START as error:
            self.fail(error)
            return None
        except CkptsyncError as error:
            self.went_wrong(error)
            return _ASK_AGAIN_S
        if self._newest is not None:
            newest = self._newest
            self._newest_step = newest.id.step
            made_s = datetime.fromisoformat(newest.created).timestamp()
            self.board.change(
                newest=Committed(snapshot=newest.snapshot, step=newest.id.step, bytes=newest.size, at_s=made_s)
            )
        self.board.change(failing=False)
        self.answered.set()
        return None

    def _believe_the_bucket(self) -> None:
        """Take for durable only what is in a snapshot that is there, and was not found damaged."""
        if not len(self.ledger):
            self.ledger.keep(())
            return
        bad = self.run.catalog.quarantined()
        self.ledger.keep({str(listed.id) for listed in self.run.catalog.listed() if listed.id not in bad})

    def usual_bytes(self, unsent_bytes: int) -> int | None:
        """Payload that the next checkpoint has to send, by the last few, or by the snapshot that was there before; None if by none.

        Args:
            unsent_bytes: size of the newest checkpoint that is whole and not durable, which the next is likely to have, too; 0 when
                there is none.
        """
        if not self._sent:
            return max(unsent_bytes, 0 if self._newest is None else self._newest.size) or None
        share = max(saved.bytes_sent / max(1, saved.bytes) for saved in self._sent)
        return max(int(share * unsent_bytes), *(saved.bytes_sent for saved in self._sent))

    @property
    def pending_bytes(self) -> int:
        """Payload that is not in the bucket yet."""
        return self.gauge.left_bytes + sum(one.bytes for one in self.backlog.waiting)

    # -- one upload --------------------------------------------------------------------------------------------------

    def upload_one(self, candidate: Candidate) -> None:
        """Commit what was taken from the backlog, or say why not; the backlog knows afterwards what became of it."""
        if self._is_known(candidate):
            self.backlog.done()
            return
        self.gauge.begin(candidate.bytes)
        self.board.change(pending_bytes=self.pending_bytes)
        self.gate.open()
        if self.backlog.paused:  # since it was taken
            self.gate.shut("nothing is begun any more")
        try:
            saved = self._save(candidate)
        except SourceChangedError as error:
            self._changed(candidate, error)
            self.backlog.forget()
        except NotDurableError:  # the gate was shut, and who shut it said why
            self.backlog.put_back()
        except _FOR_GOOD as error:
            self.fail(error)
            self.backlog.put_back()
        except (CkptsyncError, OSError) as error:
            self.unreadable = error if isinstance(error, DiskError) else None
            self.backlog.failed(self.run.clock.monotonic())
            self.went_wrong(error if isinstance(error, CkptsyncError) else StoreError(str(error)))
        else:
            self._newest_step, self.unreadable = saved.step, None
            self._sent.append(saved)
            self._remember(candidate, saved.step, saved.snapshot)
            self.committed(candidate, saved)
            self.backlog.done()
        finally:
            self.gauge.end()

    def _save(self, candidate: Candidate) -> Saved:
        """Hold and send it."""
        holding = held(
            candidate.tree, candidate.ready, now_s=self.run.clock.now(), copies=self._place_for_copies(candidate)
        )
        try:
            return save(
                self.run,
                holding,
                step=self._step_of(candidate),
                metrics=candidate.ready.metrics,
                tenure=self.tenure,
                journal_of=self.directory,
            )
        finally:
            holding.close()

    def _place_for_copies(self, candidate: Candidate) -> Path | None:
        """Where to copy a checkpoint first; None when that is not needed, or would take the space of the training's next one."""
        if candidate.ready.name not in self._restless:
            return None
        place = self.directory if os.access(self.directory, os.W_OK) else self.run.config.state_path()
        return place if place.is_dir() and free_bytes(place) > 2 * candidate.bytes else None

    def _changed(self, candidate: Candidate, error: SourceChangedError) -> None:
        """Copy a checkpoint before it is sent, from now on, as it is written over faster than it is sent."""
        name = candidate.ready.name
        if name not in self._restless:
            then = "and copied first, where there is space for that"
        else:
            then = "but is written over sooner than it is copied or sent: write it beside and rename it, or less often"
        self._restless.add(name)
        self.went_wrong(SourceChangedError(f"{error}; it will be looked at again {then}"))

    def _step_of(self, candidate: Candidate) -> int:
        """The step its files tell, else one more than the newest."""
        if candidate.ready.step is not None:
            return candidate.ready.step
        if not self._said_steps:
            self._said_steps = True
            self.say(f"{candidate.title} does not tell its step; snapshots are counted on from {self._newest_step + 1}")
        return self._newest_step + 1

    def _remember(self, candidate: Candidate, step: int, snapshot: str) -> None:
        """Note that it is durable, alone as well as with what came along."""
        marks = {candidate.mark, candidate.own_mark}
        self.ledger.add(*(Entry(mark=mark, step=step, snapshot=snapshot) for mark in marks))

    def _is_known(self, candidate: Candidate) -> bool:
        """Whether it is what the bucket had at the start, or was there then and is older."""
        newest, step = self._newest, candidate.ready.step
        if candidate.mark in self.ledger:  # it waited for the bucket's first answer
            return True
        if newest is None:
            return False
        if is_in(newest, candidate.tree, candidate.ready):
            self._remember(candidate, newest.id.step, newest.snapshot)
            return True
        if not candidate.at_start or step is None or step > newest.id.step:
            return False
        if not self._said_old:
            self._said_old = True
            self.say(f"{candidate.title} was there at the start and is of step {step}; the newest snapshot is of step "
                     f"{newest.id.step}, so it is not committed, and neither are others before that")  # fmt: skip
        return True
