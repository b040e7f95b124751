"""CheckpointManager: what a training loop calls. A save costs the loop a copy in memory; the rest happens behind its back."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from ckptsync.config import Config
from ckptsync.errors import CkptsyncError, ConfigError, NoSnapshotError, NotDurableError
from ckptsync.events import Event, Kind, Observer, log_observer
from ckptsync.goodput import Goodput
from ckptsync.policy import KeepPolicy, Moment, SavePolicy
from ckptsync.run import open_run
from ckptsync.snapshot.cost import Loop
from ckptsync.snapshot.manifest import Manifest
from ckptsync.tenure import Tenure
from ckptsync.verbs.gc import collect
from ckptsync.verbs.ladder import newest_good
from ckptsync.verbs.save import Saved, save
from ckptsync.verbs.sending import scanned

if TYPE_CHECKING:
    from ckptsync.state.items import Taken

_GRACE_S = 86400.0
"""What is younger, gc leaves alone: it may be of a save that is under way."""
_log = logging.getLogger("ckptsync")
Busy = Literal["wait", "skip"]


class CheckpointManager:
    """Saves and restores one training job. A context manager: behind it everything is durable, or an error was raised.

    One save is under way at a time, in a thread of its own. What goes wrong in it is raised by the next call. A process that was
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
        config: Config | None = None,
        observer: Observer = log_observer,
    ) -> None:
        """Open a run. Nothing is asked of the bucket yet.

        Args:
            run: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///dir`, a plain directory, or any URL fsspec understands.
            save: when `should_save` says yes; None means at every step.
            keep: what stays in the bucket, which is seen to after every save; None keeps everything.
            busy: what `save` does while the one before is under way: `wait` for it, or `skip` this one.
            config: None resolves environment, TOML file and defaults.
            observer: told of everything that happens, in whatever thread it does.

        Raises:
            ConfigError: an argument cannot be used.
        """
        if busy not in {"wait", "skip"}:
            raise ConfigError(f"busy is {busy!r}; it must be 'wait' or 'skip'")
        self._exits = ExitStack()
        self._run = self._exits.enter_context(open_run(run, config, observer=observer))
        self._save_policy, self._keep, self._busy = save, keep, busy
        self._tenure = Tenure()
        self._goodput = Goodput(self._run.clock)
        self._stager: Any = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._pending_step = self._saved_step = -1
        self._begun_s = self._run.clock.monotonic()
        self._stall_s: float | None = None
        self._upload_s: float | None = None
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
        except CkptsyncError as late:
            _log.error("%s", late)

    # -- saving ------------------------------------------------------------------------------------------------------

    def should_save(self, step: int) -> bool:
        """Return whether the policy wants a save behind a step, which was just done."""
        if self._save_policy is None:
            return True
        moment = Moment(
            step=step,
            saved_step=self._saved_step,
            since_s=self._run.clock.monotonic() - self._begun_s,
            stall_s=self._stall_s,
            upload_s=self._upload_s,
            mtbf_s=self._mtbf_s,
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
        if self._thread is not None and self._thread.is_alive() and self._busy == "skip":
            return False
        begun_s = self._run.clock.monotonic()
        self._join()
        self._raise_failure()
        taken = self._taken(items)
        self._stall_s = self._run.clock.monotonic() - begun_s
        self._saved_step = self._pending_step = step
        self._begun_s = begun_s
        # not a daemon: a program that ends waits for it
        self._thread = threading.Thread(
            target=self._upload,
            args=(step, taken, metrics or {}, meta or {}, self._goodput.saving(begun_s)),
            name=f"ckptsync-save-{step}",
        )
        self._thread.start()
        return True

    def _taken(self, items: Mapping[str, Any]) -> Taken:
        """Copy what shall be saved."""
        from ckptsync.state.items import take  # noqa: PLC0415  torch is an extra, and takes a second to import
        from ckptsync.state.staging import Stager  # noqa: PLC0415

        if not items:
            raise ConfigError("nothing to save was given; name it, as in save(step, model=model, optimizer=optimizer)")
        self._stager = self._stager or Stager()
        return take(items, self._stager, lambda path: scanned(self._run, path))

    def _upload(
        self, step: int, taken: Taken, metrics: Mapping[str, float], meta: Mapping[str, str], loop: Loop
    ) -> None:
        """Bring what was copied into the bucket, and tidy up there."""
        from ckptsync.state.items import tree_of  # noqa: PLC0415  as above

        try:
            tree = tree_of(taken, now_ns=int(self._run.clock.now() * 1e9))
            self._saved(save(self._run, tree, step=step, metrics=metrics, meta=meta, tenure=self._tenure, loop=loop))
            del tree
        except BaseException as error:  # noqa: BLE001  raised by the next call
            self._failure = error
        finally:
            self._stager.give_back(taken.staged)

    def _saved(self, saved: Saved) -> None:
        """Delete what need not be kept any more; that this fails does not make the snapshot less durable."""
        self._pending_step = -1
        self._upload_s = self._run.clock.monotonic() - self._begun_s
        if self._keep is None:
            return
        try:
            collect(self._run, self._keep, grace_s=_GRACE_S, dry_run=False)
        except CkptsyncError as error:
            message = f"{saved.snapshot} is saved, but older ones could not be deleted: {error}"
            self._run.observer(Event(kind=Kind.NOTICE, path=saved.snapshot, message=message))

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
            items: by the names they were saved under: what has a `load_state_dict`, or a dictionary or list, which then has the
                content that was saved.

        Returns:
            The step to go on with: the one behind the step that was saved; 0 when there is no snapshot at all.

        Raises:
            NoSnapshotError: there is none of that name.
            ConfigError: what was saved does not fit what was given; nothing was changed.
            IntegrityError: every snapshot tried was bad; nothing was changed.
            StoreError: the bucket failed for good; nothing was changed.
        """
        from ckptsync.state.loading import fetched, put_back  # noqa: PLC0415  torch is an extra

        self._check_usable()
        self.wait()
        begun_s = self._run.clock.monotonic()
        try:
            reached = newest_good(
                self._run,
                str(snapshot),
                fallback=fallback,
                use=lambda run, manifest: fetched(run, manifest, items, only),
            )
        except NoSnapshotError:
            if snapshot != "latest":
                raise
            return 0
        put_back(reached.value, items, map_location=map_location, weights_only=weights_only)
        self._goodput.resumed(self._run.store, reached.manifest.id, begun_s)
        self._saved_step = reached.manifest.id.step
        self._begun_s = self._run.clock.monotonic()
        self._mtbf_s = self._run.catalog.claims.mean_tenure_s()
        return reached.manifest.id.step + 1

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
        self._join(timeout_s)
        self._raise_failure()

    def close(self, timeout_s: float | None = None) -> None:
        """Wait as `wait` does, and let go of the bucket. Safe to call again.

        Raises:
            NotDurableError: it takes longer than `timeout_s`; it goes on until the process ends.
            CkptsyncError: what the last save failed with.
        """
        if self._closed:
            return
        try:
            self.wait(timeout_s)
        finally:
            if self._thread is None or not self._thread.is_alive():
                self._closed = True
                self._exits.close()
                atexit.unregister(self._at_exit)

    def _check_usable(self) -> None:
        """Refuse what has no thread and no connections of its own."""
        if os.getpid() != self._pid:
            raise ConfigError("this CheckpointManager belongs to the process this one was forked from; make one here")
        if self._closed:
            raise ConfigError("this CheckpointManager is closed")

    def _join(self, timeout_s: float | None = None) -> None:
        """Wait for the thread."""
        if self._thread is None or os.getpid() != self._pid:
            return
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise NotDurableError(f"step {self._pending_step} was not durable after {timeout_s:g} s")
        self._thread = None

    def _raise_failure(self) -> None:
        """Raise what the thread failed with, once."""
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _at_exit(self) -> None:
        """Say what is not durable, for who never closes; the thread has ended by now."""
        if os.getpid() == self._pid and self._failure is not None:
            _log.error("step %d is not durable: %s", self._pending_step, self._failure)
