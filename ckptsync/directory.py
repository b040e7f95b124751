"""A directory that a framework writes its checkpoints to, saved behind the training's back; what integrations build on."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from ckptsync.errors import ConfigError, IncompleteError, NoSnapshotError, NotDurableError
from ckptsync.events import Event, Kind, Observer, log_observer
from ckptsync.options import Config
from ckptsync.policy import KeepPolicy
from ckptsync.readiness.base import Ready
from ckptsync.transfer.held import HeldTree, chosen, hold
from ckptsync.transfer.memory_source import MemoryFile
from ckptsync.transfer.source import SourceTree
from ckptsync.uploads import Busy, Upload, Uploads
from ckptsync.verbs.restore import restore
from ckptsync.verbs.sending import scanned

_LOOKS, _PAUSE_S = 5, 0.05
_NO_METRICS: Mapping[str, float] = {}
_NO_META: Mapping[str, str] = {}
_NOTHING: Mapping[str, bytes] = {}
_log = logging.getLogger("ckptsync")
_Mark = frozenset[tuple[str, int, int]]


class SyncedDirectory(ABC):
    """Saves and restores a directory. A context manager: behind it everything is durable, or an error was raised.

    One save is under way at a time, in a thread of its own. What goes wrong in it is raised by the next call. The files are held open
    meanwhile: the framework may delete old checkpoints and write new ones.
    """

    def __init__(
        self,
        run: str | Path,
        directory: str | Path,
        *,
        keep: KeepPolicy | None = None,
        busy: Busy = "wait",
        config: Config | None = None,
        observer: Observer = log_observer,
    ) -> None:
        """Open a run. Nothing is asked of the bucket yet.

        Args:
            run: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///dir`, a plain directory, or any URL fsspec understands.
            directory: on this machine; need not be there yet.
            keep: what stays in the bucket, which is seen to after every save; None keeps everything.
            busy: what `save` does while the one before is under way: `wait` for it, or `skip` this one.
            config: None resolves environment, TOML file and defaults.
            observer: told of everything that happens, in whatever thread it does.

        Raises:
            ConfigError: an argument cannot be used.
        """
        self.directory = Path(directory)
        self._uploads = Uploads(run, keep=keep, busy=busy, config=config, observer=observer)
        self._mark: _Mark | None = None
        self._closed = False
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
            return
        try:  # what the training died of is what people must see
            self.close()
        except Exception as late:  # noqa: BLE001  as it is said above
            _log.error("%s", late)

    @abstractmethod
    def ready(self, tree: SourceTree) -> Ready | None:
        """Find the newest checkpoint that is whole.

        Args:
            tree: everything in the directory.

        Returns:
            None when there is none yet.

        Raises:
            IncompleteError: the newest should be whole, and is not.
        """

    # -- saving ------------------------------------------------------------------------------------------------------

    def save(
        self,
        *,
        step: int | None = None,
        metrics: Mapping[str, float] = _NO_METRICS,
        meta: Mapping[str, str] = _NO_META,
        beside: Mapping[str, bytes] = _NOTHING,
    ) -> bool:
        """Begin to save the newest checkpoint that is whole. Call it when the framework has written one. Safe to call again.

        Args:
            step: training step, 0 to 999 999 999 999; None takes the one that the files tell.
            metrics: numbers to choose by later, as in `best:loss:min`.
            meta: free text by name.
            beside: small files, content by path, to be saved with it.

        Returns:
            Whether it was begun: not, when there is nothing newer than what was saved or restored before, or when a save is under
            way and this one is to be skipped.

        Raises:
            IncompleteError: the framework says that a checkpoint is there, and files are missing; nothing was begun.
            SourceChangedError: it is being written to at this moment; nothing was begun.
            ConfigError: it cannot be saved; nothing was begun.
            CkptsyncError: what the save before failed with; this one was not begun.
        """
        self._check_usable()
        since_s = self._uploads.now_s
        if self._uploads.busy == "skip" and self._uploads.is_under_way:
            return False
        self.wait()
        if (taken := self._taken(beside)) is None:
            return False
        held, found_step, mark = taken
        if (step := found_step if step is None else step) is None:
            held.close()
            raise ConfigError(f"the checkpoint in {self.directory} does not tell its step; say it: save(step=…)")
        self._mark = mark
        self._uploads.begin(
            Upload(tree=held, step=step, since_s=since_s, metrics=metrics, meta=meta, release=held.close)
        )
        return True

    def _taken(self, beside: Mapping[str, bytes]) -> tuple[HeldTree, int | None, _Mark] | None:
        """Take hold of the newest checkpoint, and tell its step and mark; None when it was taken before.

        A framework that writes and deletes from a thread of its own may do so at this moment: then it is looked again, for a fifth of a
        second.
        """
        for look in range(_LOOKS):
            try:
                tree = scanned(self._uploads.run, self.directory)
                ready = self.ready(tree)
                if ready is None or (mark := _mark(tree, ready)) == self._mark:
                    return None
                made_ns = int(self._uploads.run.clock.now() * 1e9)
                made = {**ready.replaced, **beside}
                added = [MemoryFile.of(path, [memoryview(made[path])], made_ns=made_ns) for path in made]
                return hold(chosen(tree, ready.paths), copied=ready.copied, added=added), ready.step, mark
            except IncompleteError:
                if look == _LOOKS - 1:
                    raise
                self._uploads.run.clock.sleep(_PAUSE_S)
        raise AssertionError("unreachable")

    # -- restoring ---------------------------------------------------------------------------------------------------

    def restore(self, *, snapshot: str | int = "latest", fallback: bool = True) -> int | None:
        """Let the newest good snapshot appear in the directory, whole and verified. Call it before the framework looks there.

        The bucket decides: what else is in the directory, and in no snapshot, is put aside beside it and stays there.

        Args:
            snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias.
            fallback: with `latest`, take the next older snapshot when one is damaged or quarantined.

        Returns:
            The step that was saved; None when there is no snapshot at all, and the directory was left as it is.

        Raises:
            NoSnapshotError: there is none of that name.
            IntegrityError: every snapshot tried was bad.
            ConfigError: the directory cannot be used.
            DiskError: the disk is full or read-only.
            StoreError: the bucket failed for good; the next call continues.
        """
        self._check_usable()
        self.wait()
        since_s = self._uploads.now_s
        try:
            restored = restore(self._uploads.run, self.directory, snapshot=str(snapshot), fallback=fallback)
        except NoSnapshotError:
            if snapshot != "latest":
                raise
            return None
        self._uploads.goodput.resumed(self._uploads.run.store, restored.snapshot, restored.step, since_s)
        for path in restored.kept:
            message = f"what stood at {self.directory} before is kept in {path}: it is in no snapshot, or could not be deleted"
            self._uploads.run.observer(Event(kind=Kind.NOTICE, path=path, message=message))
        tree = scanned(self._uploads.run, self.directory)
        ready = self.ready(tree)
        self._mark = _mark(tree, ready) if ready else None
        return restored.step

    # -- the end -----------------------------------------------------------------------------------------------------

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until what was saved is durable. Safe to call again.

        Args:
            timeout_s: how long; None waits as long as it takes.

        Raises:
            NotDurableError: it takes longer; it goes on all the same.
            CkptsyncError: what the save failed with.
        """
        if os.getpid() != self._pid:
            return
        try:
            self._uploads.wait(timeout_s)
        except NotDurableError:
            raise
        except BaseException:
            self._mark = None  # the next call saves this checkpoint again
            raise

    def close(self, timeout_s: float | None = None) -> None:
        """Wait as `wait` does, and let go of the bucket. Safe to call again.

        Args:
            timeout_s: how long; None waits as long as it takes.

        Raises:
            NotDurableError: it takes longer than `timeout_s`; it goes on until the process ends.
            CkptsyncError: what the last save failed with.
        """
        if os.getpid() != self._pid:
            return
        try:
            self.wait(timeout_s)
        finally:
            if not self._uploads.is_under_way:
                self._closed = True
                self._uploads.close()

    def _check_usable(self) -> None:
        """Refuse what has no thread and no connections of its own."""
        if os.getpid() != self._pid:
            raise ConfigError(
                f"this {type(self).__name__} belongs to the process this one was forked from; make one here"
            )
        if self._closed:
            raise ConfigError(f"this {type(self).__name__} is closed")


def _mark(tree: SourceTree, ready: Ready) -> _Mark:
    """What changes when there is something to save."""
    return frozenset((file.path, file.size, file.identity.mtime_ns) for file in tree.files if file.path in ready.paths)
