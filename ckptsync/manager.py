"""CheckpointManager: what a training loop calls. A save costs the loop a copy in memory; the rest happens behind its back."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ckptsync.config import request_file
from ckptsync.errors import ConfigError, DiskError, NoSnapshotError, StoreError
from ckptsync.events import Event, Kind, Observer, log_observer
from ckptsync.goodput import Goodput
from ckptsync.options import Config
from ckptsync.policy import KeepPolicy, Moment, SavePolicy, checked_keep, checked_save
from ckptsync.requested import Requests
from ckptsync.run import Run, open_run
from ckptsync.saver import Busy, Job, Saver, checked_busy
from ckptsync.snapshot.layout import SnapshotId, checked_step
from ckptsync.snapshot.manifest import Manifest, checked_meta, copied_metrics
from ckptsync.tier import LocalTier, local_tier
from ckptsync.transfer.source import SourceTree
from ckptsync.verbs.ladder import Reached, newest_good
from ckptsync.verbs.restore import restore_folders
from ckptsync.verbs.sending import scanned

if TYPE_CHECKING:
    from ckptsync.state.items import Taken

_log = logging.getLogger("ckptsync")
_T = TypeVar("_T")


class CheckpointManager:
    """Saves and restores one training job. A context manager: behind it everything is durable, or an error was raised.

    One save is under way at a time, in a thread of its own, and at most one waits. What goes wrong is raised by the next call. A process that was
    forked has nothing to do with its parent's manager.

        with CheckpointManager("s3://bucket/run", save=EveryNSteps(100), keep=LatestN(3)) as manager:
            start = manager.restore(model=model, optimizer=optimizer)
            for step in range(start, 1000):
                train(step)
                if manager.should_save(step):
                    manager.save(step, model=model, optimizer=optimizer)
    """

    def __init__(
        self,
        run: str | Path,
        *,
        save: SavePolicy | None = None,
        keep: KeepPolicy | None = None,
        busy: Busy = "wait",
        local: str | Path | None = None,
        local_keep: int = 1,
        validate: Callable[[Mapping[str, Any]], bool | str | None] | None = None,
        config: Config | None = None,
        observer: Observer = log_observer,
    ) -> None:
        """Open a run. Nothing is asked of the bucket yet.

        Args:
            run: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///dir`, a plain directory, or any URL fsspec understands.
            save: when `should_save` says yes; None means at every step.
            keep: what stays in the bucket, which is seen to after every save; None keeps everything.
            busy: what `save` does while the one before is under way: `wait` for it, `skip` this one, or copy this one too, into a second set of
                buffers, and let it wait as the `latest`: the next one takes its place, which the observer is told.
            local: a directory on a disk of this machine, for the local tier: a save goes there first, and from there to the bucket; a
                restore takes what is there when that is the newest. None does without.
            local_keep: so many of the newest snapshots stay there when they are durable, 1 or more.
            validate: called in a thread with each snapshot, once it is committed and was fetched again: its items by name, as they were
                saved (state dictionaries, on the CPU). None, and whatever is true, mean that all is well, which makes the snapshot the one
                called `validated`; text, whatever is false, and an AssertionError, that it is not, and `latest` passes it over from then on.
                Any other exception is no verdict, and the cause of a CkptsyncError that the next call raises. Let it draw random numbers from
                a generator of its own.
            config: None resolves environment, TOML file and defaults.
            observer: told of everything that happens, in whatever thread it does.

        Raises:
            ConfigError: an argument cannot be used.
        """
        busy, save, keep = checked_busy(busy), checked_save(save), checked_keep(keep)
        if validate is not None and not callable(validate):
            raise ConfigError(f"validate is {validate!r}; it must be a function of a snapshot's items")
        if local_keep < 1:
            raise ConfigError(f"local_keep is {local_keep}; it must be 1 or more")
        self._exits = ExitStack()
        self._run = self._exits.enter_context(open_run(run, config, observer=observer))
        self._tier: LocalTier | None = None
        if local is not None:
            self._tier = self._exits.enter_context(local_tier(self._run, Path(local), keep=local_keep))
        self._save_policy, self._busy = save, busy
        self._requests = Requests(request_file())
        self._saver = Saver(
            self._run,
            busy=busy,
            keep=keep,
            tier=self._tier,
            tree_of=_tree_of,
            give_back=self._give_back,
            check=None if validate is None else partial(_validated, validate),
        )
        self._goodput = Goodput(self._run.clock)
        self._stager: Any = None
        self._saved_step = -1
        self._begun_s = self._run.clock.monotonic()
        self._stall_s: float | None = None
        self._mtbf_s: float | None = None
        self._closed = False
        self._pid = os.getpid()
        atexit.register(self._at_exit)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:  # what the loop died of is what people must see
            self.close()
        except Exception as late:  # noqa: BLE001  as it is said above
            _log.error("%s", late)

    # -- saving ------------------------------------------------------------------------------------------------------

    def should_save(self, step: int) -> bool:
        """Return whether the policy, or a notice of preemption, wants a save behind a step, which was just done.

        `ckptsync run` and the sidecar ask for a last checkpoint by the file that CKPTSYNC_REQUEST_FILE names, once for each notice.
        """
        if self._save_policy is None:
            return True
        now_s = self._run.clock.monotonic()
        if self._requests.is_new(now_s):
            return True
        since_s = now_s - self._begun_s
        moment = Moment(
            step=step,
            saved_step=self._saved_step,
            since_s=since_s,
            stall_s=self._stall_s,
            upload_s=self._saver.upload_s,
            mtbf_s=self._mtbf_s,
            under_way_s=since_s if self._saver.is_busy else None,
        )
        return self._save_policy.is_due(moment)

    def save(
        self,
        step: int,
        *,
        metrics: Mapping[str, float] | None = None,
        meta: Mapping[str, str] | None = None,
        **items: Any,
    ) -> bool:
        """Begin to save; returns once everything is copied in memory, and may be changed.

        The generators of random numbers (Python's, numpy's, torch's) are saved too.

        Args:
            step: that was just done, 0 to 999 999 999 999; `restore` returns the next one.
            metrics: numbers to choose by later, as in `best:loss:min`.
            meta: free text by name.
            items: by name: what has a `state_dict`, a `pathlib.Path` to leave alone until `wait` returns, or anything that
                `torch.save` takes.

        Returns:
            Whether it was begun: not, when the one before is under way and the manager is to skip.

        Raises:
            ConfigError: something cannot be saved; nothing was begun.
            CkptsyncError: what the save before failed with; this one was not begun.
        """
        self._check_usable()
        step, metrics, meta = checked_step(step), copied_metrics(metrics or {}), checked_meta(meta or {})
        if self._busy == "skip" and self._saver.is_busy:
            return False
        begun_s = self._run.clock.monotonic()
        self._saver.await_turn()
        self._raise_failure()
        taken = self._taken(items)
        self._stall_s = self._run.clock.monotonic() - begun_s
        self._saved_step, self._begun_s = step, begun_s
        loop = self._goodput.saving(begun_s)
        self._saver.begin(Job(step=step, begun_s=begun_s, metrics=metrics, meta=meta, taken=taken, loop=loop))
        return True

    def _taken(self, items: Mapping[str, Any]) -> Taken:
        """Copy what shall be saved."""
        from ckptsync.state.items import take  # noqa: PLC0415  torch is an extra, and takes a second to import
        from ckptsync.state.staging import Stager  # noqa: PLC0415

        if not items:
            raise ConfigError("nothing to save was given; name it, as in save(step, model=model, optimizer=optimizer)")
        self._stager = self._stager or Stager()
        return take(items, self._stager, self._scanned, self._saver.make_room)

    def _scanned(self, path: Path) -> SourceTree:
        """Look at what is on the disk; neither the run nor the local tier may lie in it."""
        if self._tier is not None:
            scanned(self._tier.run, path)
        return scanned(self._run, path)

    def _give_back(self, taken: Taken) -> None:
        """Let the next copy use the memory of one."""
        self._stager.give_back(taken.staged)

    # -- restoring ---------------------------------------------------------------------------------------------------

    def restore(
        self,
        *,
        snapshot: str | int = "latest",
        only: Collection[str] | None = None,
        map_location: Any = None,
        weights_only: bool = True,
        fallback: bool = True,
        **items: Any,
    ) -> int:
        """Bring the newest good snapshot back into what a loop has. Every byte is verified before any is deserialised.

        Args:
            snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias.
            only: names of the items to restore, and no random numbers; None restores all that are given, and those.
            map_location: as in `torch.load`.
            weights_only: as in `torch.load`: False lets a pickle run whatever code it names.
            fallback: with `latest`, take the next older snapshot when one is damaged or quarantined.
            items: by the names they were saved under: what has a `load_state_dict`, dictionaries, lists and tuples of such; a dictionary,
                list or tensor, which then has the content that was saved; or a `pathlib.Path`, at which the file or directory then stands that was saved as one. What stood
                there before and is in no snapshot is kept beside it.

        Returns:
            The step to go on with: the one behind the step that was saved; 0 when there is no snapshot at all.

        Raises:
            NoSnapshotError: there is none of that name.
            ConfigError: what was saved does not fit what was given; nothing was changed.
            IntegrityError: every snapshot tried was bad; nothing was changed.
            StoreError: the bucket failed for good; nothing was changed.
            CkptsyncError: a `load_state_dict` failed; what is named was changed.
        """
        from ckptsync.state.loading import fetched, paths_of, put, states_in, wanted  # noqa: PLC0415  torch is an extra

        def bring(run: Run, manifest: Manifest) -> dict[str, Any]:
            found = fetched(run, manifest, items, only)
            states = states_in(found, map_location=map_location, weights_only=weights_only)
            restore_folders(run, manifest, paths_of(items, only))
            return states

        self._check_usable()
        if not items:
            raise ConfigError("nothing to restore was given; name it, as in restore(model=model, optimizer=optimizer)")
        wanted(items, only)  # also where there is nothing to restore yet
        self.wait()
        begun_s = self._run.clock.monotonic()
        try:
            reached = self._kept_here(str(snapshot), bring) or newest_good(
                self._run, str(snapshot), fallback=fallback, use=bring
            )
        except NoSnapshotError:
            if snapshot != "latest":
                raise
            return 0
        put(reached.value, items)
        self._goodput.resumed(self._run.store, reached.manifest.snapshot, reached.manifest.id.step, begun_s)
        self._saved_step = reached.manifest.id.step
        self._begun_s = self._run.clock.monotonic()
        self._mtbf_s = self._run.catalog.claims.mean_tenure_s()
        return reached.manifest.id.step + 1

    def _kept_here(self, snapshot: str, bring: Callable[[Run, Manifest], _T]) -> Reached[_T] | None:
        """Take what is on this machine's disk, when it is what is asked for; if it is not in the bucket yet, it is brought there."""
        if self._tier is None:
            return None
        try:
            if snapshot != "latest":
                standing = self._tier.begin()
                waiting, reached = (standing.manifest if standing and standing.waits else None), None
            else:
                waiting, reached = self._tier.newest_good(bring)
        except (DiskError, StoreError) as error:
            message = f"what is kept on this machine could not be used: {error}"
            self._run.observer(Event(kind=Kind.NOTICE, message=message))
            return None
        if waiting is not None:
            self._saver.catch_up(waiting)
        return reached

    def latest(self) -> Manifest | None:
        """Return the manifest of the newest good snapshot; None when there is none."""
        return self._run.catalog.latest()

    def history(self) -> list[Manifest]:
        """Return every readable manifest, the newest first."""
        return list(self._run.catalog.history())

    # -- the end -----------------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until what was saved is durable. Safe to call again.

        Args:
            timeout_s: how long; None waits as long as it takes.

        Raises:
            NotDurableError: it takes longer; it goes on all the same.
            CkptsyncError: what the save failed with.
        """
        if os.getpid() == self._pid:
            self._saver.join(timeout_s)
            self._raise_failure()

    def close(self, timeout_s: float | None = None) -> None:
        """Wait as `wait` does, and let go of the bucket. Safe to call again.

        Raises:
            NotDurableError: it takes longer than `timeout_s`; it goes on until the process ends.
            CkptsyncError: what the last save failed with.
        """
        if self._closed or os.getpid() != self._pid:
            return
        try:
            self.wait(timeout_s)
        finally:
            if not self._saver.is_busy:
                self._closed = True
                self._exits.close()
                atexit.unregister(self._at_exit)

    def _check_usable(self) -> None:
        """Refuse what has no thread and no connections of its own."""
        if os.getpid() != self._pid:
            raise ConfigError("this CheckpointManager belongs to the process this one was forked from; make one here")
        if self._closed:
            raise ConfigError("this CheckpointManager is closed")

    def _raise_failure(self) -> None:
        """Raise what went wrong behind the loop's back, once."""
        if (failure := self._saver.take_failure()) is not None:
            raise failure

    def _at_exit(self) -> None:
        """Say what is not durable, for who never closes; the threads have ended by now."""
        if os.getpid() == self._pid and (failure := self._saver.take_failure()) is not None:
            _log.error("%s%s", self._saver.pending, failure)


def _tree_of(taken: Taken, now_ns: int) -> SourceTree:
    """What was copied, as the tree that becomes the snapshot."""
    from ckptsync.state.items import tree_of  # noqa: PLC0415  torch is an extra

    return tree_of(taken, now_ns=now_ns)


def _validated(check: Callable[[Mapping[str, Any]], bool | str | None], run: Run, snapshot: SnapshotId) -> None:
    """Let a check look at a snapshot."""
    from ckptsync.state.checking import validate  # noqa: PLC0415  torch is an extra

    validate(run, snapshot, check)
