"""What happens behind the loop's back: what was copied becomes a snapshot on this machine's disk, in the bucket, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from msgspec import UNSET, UnsetType

from ckptsync.background import Background
from ckptsync.errors import ConfigError, DiskError, NotDurableError, StoreError
from ckptsync.events import Event, Kind
from ckptsync.policy import KeepPolicy
from ckptsync.run import Run
from ckptsync.snapshot.cost import Loop
from ckptsync.snapshot.layout import SnapshotId, parse_snapshot_id
from ckptsync.snapshot.manifest import Manifest
from ckptsync.tenure import Tenure
from ckptsync.tier import LocalTier
from ckptsync.transfer.source import SourceTree
from ckptsync.verbs.gc import tidy
from ckptsync.verbs.save import Saved, save

if TYPE_CHECKING:
    from ckptsync.state.items import Taken

Busy = Literal["wait", "skip", "latest"]
BUSY: tuple[Busy, ...] = ("wait", "skip", "latest")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A save that was begun.

    Attributes:
        step: that was done.
        metrics: numbers to choose by later.
        meta: free text by name.
        begun_s: when, by the monotonic clock.
        loop: what the loop's time went into; unset when it is not known.
        taken: the copy in memory; None once it is on the disk.
        kept: the snapshot on the disk; None while there is none.
    """

    step: int
    begun_s: float
    metrics: Mapping[str, float]
    meta: Mapping[str, str]
    loop: Loop | UnsetType = UNSET
    taken: Taken | None = None
    kept: Manifest | None = None


class Saver:
    """Saves what a loop hands in: one save under way, and one that waits; with a local tier, that twice, on the disk and on the way to the bucket.

    The loop's thread calls it, and no other.
    """

    def __init__(
        self,
        run: Run,
        *,
        busy: Busy,
        keep: KeepPolicy | None,
        tier: LocalTier | None,
        tree_of: Callable[[Taken, int], SourceTree],
        give_back: Callable[[Taken], None],
        check: Callable[[Run, SnapshotId], object] | None,
    ) -> None:
        """Begin nothing yet.

        Args:
            run: the bucket.
            busy: what becomes of a save while another is under way.
            keep: what stays in the bucket; None keeps everything.
            tier: the local tier, if there is one.
            tree_of: makes the tree of what was copied, given the time in nanoseconds.
            give_back: lets the next copy use the memory of one.
            check: looks at what was committed.
        """
        self._run, self._busy, self._keep, self._tier = run, busy, keep, tier
        self._tree_of, self._give_back, self._check = tree_of, give_back, check
        self._tenure = Tenure()
        self._upload: Background[Job] = Background(self._bring, name="ckptsync-upload")
        self._local: Background[Job] | None = Background(self._keep_here, name="ckptsync-local") if tier else None
        self.pending_step = -1
        self.upload_s: float | None = None

    @property
    def pending(self) -> str:
        """Which step is not durable, to begin a sentence with; empty when all is."""
        return f"step {self.pending_step} is not durable: " if self.pending_step >= 0 else ""

    @property
    def is_busy(self) -> bool:
        """Whether anything is under way."""
        return self._upload.is_busy or (self._local is not None and self._local.is_busy)

    # -- for the loop ------------------------------------------------------------------------------------------------

    def await_turn(self) -> None:
        """Wait for the save before, unless a newer one may replace it."""
        if self._busy != "latest":
            self._first.join()

    def make_room(self) -> None:
        """Let there be memory for another copy: what waits for its turn is given up."""
        if (waiting := self._first.withdraw()) is not None:
            self._gave_up(waiting)

    @property
    def _first(self) -> Background[Job]:
        """Where a save goes first."""
        return self._local or self._upload

    def begin(self, job: Job) -> None:
        """Begin a save, or let it wait for the one that is under way."""
        self.pending_step = job.step
        self._first.submit(job)

    def catch_up(self, kept: Manifest) -> None:
        """Bring a snapshot to the bucket that an earlier process of this machine could not."""
        job = Job(step=kept.id.step, begun_s=self._run.clock.monotonic(), metrics={}, meta={}, kept=kept)
        if self.pending_step < 0:
            self.pending_step = job.step
        self._upload.submit(job)

    def join(self, timeout_s: float | None = None) -> None:
        """Wait until all is durable, or has failed.

        Args:
            timeout_s: how long; None waits as long as it takes.

        Raises:
            NotDurableError: it takes longer.
        """
        end_s = None if timeout_s is None else self._run.clock.monotonic() + timeout_s
        for stage in (self._local, self._upload):
            left_s = None if end_s is None else max(0.0, end_s - self._run.clock.monotonic())
            if stage is not None and not stage.join(left_s):
                raise NotDurableError(f"step {self.pending_step} was not durable after {timeout_s:g} s")

    def take_failure(self) -> BaseException | None:
        """Return what went wrong since the last call; None when nothing did."""
        failures = [
            found for stage in (self._local, self._upload) if stage is not None and (found := stage.take_failure())
        ]
        for later in failures[1:]:
            failures[0].add_note(f"and then: {later}")
        return failures[0] if failures else None

    # -- behind its back ---------------------------------------------------------------------------------------------

    def _keep_here(self, job: Job) -> None:
        """Commit a save on this machine's disk, and hand it on; where the disk takes none, from memory."""
        job = self._kept(job)
        if self._busy == "latest" and (waiting := self._upload.withdraw()) is not None:
            self._gave_up(waiting)
        self._upload.submit(job)
        if job.taken is not None:  # no third copy in memory
            self._upload.join()

    def _kept(self, job: Job) -> Job:
        """The same save, on the disk."""
        tier, taken = self._tier, job.taken
        assert tier is not None  # noqa: S101  else there is no such thread
        assert taken is not None  # noqa: S101  it comes from the loop
        try:
            if not tier.has_begun and (standing := tier.begin()) is not None and standing.waits:
                self.catch_up(standing.manifest)
            kept = tier.keep(self._tree(taken), step=job.step, metrics=job.metrics, meta=job.meta, loop=job.loop)
        except (DiskError, StoreError) as error:  # a full disk costs the fast restart, not the snapshot
            self._tell(f"step {job.step} is not kept on this machine, and goes to the bucket alone: {error}")
            return job
        except BaseException:
            self._let_go(job)
            raise
        self._let_go(job)
        return replace(job, taken=None, kept=kept)

    def _bring(self, job: Job) -> None:
        """Bring a save to the bucket, have it checked, and tidy up there."""
        try:
            saved = self._sent(job)
        finally:
            self._let_go(job)
        self.upload_s = self._run.clock.monotonic() - job.begun_s
        if self.pending_step == job.step:
            self.pending_step = -1
        if self._check is not None and (snapshot := parse_snapshot_id(saved.snapshot)) is not None:
            self._check(self._run, snapshot)
        tidy(self._run, self._keep, behind=saved.snapshot)

    def _sent(self, job: Job) -> Saved:
        """Commit it in the bucket."""
        if job.kept is not None and self._tier is not None:
            return self._tier.carry(job.kept, self._tenure)
        assert job.taken is not None  # noqa: S101  it is in memory or on the disk
        tree = self._tree(job.taken)
        return save(
            self._run, tree, step=job.step, metrics=job.metrics, meta=job.meta, tenure=self._tenure, loop=job.loop
        )

    def _tree(self, taken: Taken) -> SourceTree:
        """What becomes the snapshot."""
        return self._tree_of(taken, int(self._run.clock.now() * 1e9))

    def _gave_up(self, job: Job) -> None:
        """Say that a save was replaced by a newer one."""
        self._let_go(job)
        where = "is kept on this machine only, and " if job.kept else ""
        self._tell(f"step {job.step} {where}was not sent: a newer one was saved before its turn came")

    def _let_go(self, job: Job) -> None:
        """Let the next copy use the memory."""
        if job.taken is not None:
            self._give_back(job.taken)

    def _tell(self, message: str) -> None:
        """Tell what a person should read."""
        self._run.observer(Event(kind=Kind.NOTICE, message=message))


def checked_busy(busy: str) -> Busy:
    """Return what `save` is to do while another is under way.

    Raises:
        ConfigError: it is none of these.
    """
    for known in BUSY:
        if busy == known:
            return known
    raise ConfigError(f"busy is {busy!r}; it must be 'wait', 'skip' or 'latest'")
