"""Directories that a framework has written, into a run behind its back: what the integrations of such frameworks share."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from ckptsync.config import Config
from ckptsync.errors import CkptsyncError, ConfigError, NotDurableError
from ckptsync.events import Event, Kind, Observer
from ckptsync.policy import KeepPolicy
from ckptsync.run import Run, open_run
from ckptsync.tenure import Tenure
from ckptsync.transfer.source import SourceTree
from ckptsync.verbs.gc import collect
from ckptsync.verbs.ranks import Rank, save_rank
from ckptsync.verbs.save import save

_GRACE_S = 86400.0
"""What is younger, gc leaves alone: it may be of a save that is under way."""
_log = logging.getLogger("ckptsync")
Busy = Literal["wait", "skip"]


class Uploads:
    """Uploads to one run, one at a time, in a thread of their own. What goes wrong in it is raised by the next call."""

    def __init__(
        self, run: str | Path, *, keep: KeepPolicy | None, busy: Busy, config: Config | None, observer: Observer
    ) -> None:
        """Open a run. Nothing is asked of the bucket yet.

        Args:
            run: its URL or directory.
            keep: what stays in the bucket; None keeps everything.
            busy: what the caller does while an upload is under way: `wait` for it, or `skip` the next one.
            config: None resolves environment, TOML file and defaults.
            observer: told of everything that happens.

        Raises:
            ConfigError: an argument cannot be used.
        """
        if busy not in {"wait", "skip"}:
            raise ConfigError(f"busy is {busy!r}; it must be 'wait' or 'skip'")
        self.busy = busy
        self._url, self._keep, self._config, self._observer = run, keep, config, observer
        self._exits = ExitStack()
        self._opened: Run | None = None
        self._tenure = Tenure()
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None
        self._step = -1
        self._pid = os.getpid()
        self._open()  # an address that cannot be used is told now
        atexit.register(self._at_exit)

    @property
    def run(self) -> Run:
        """The run, which is opened again when it was closed."""
        return self._opened or self._open()

    def _open(self) -> Run:
        """Open the run."""
        self._opened = self._exits.enter_context(open_run(self._url, self._config, observer=self._observer))
        return self._opened

    @property
    def is_under_way(self) -> bool:
        """Whether an upload is."""
        return self._thread is not None and self._thread.is_alive()

    def begin(
        self,
        tree: Path | SourceTree,
        step: int,
        *,
        metrics: Mapping[str, float],
        meta: Mapping[str, str],
        alias: str | None = None,
        rank: Rank | None = None,
        release: Callable[[], None],
    ) -> None:
        """Begin to upload, once the upload before has come to its end.

        Args:
            tree: a directory, to be left alone until it is released.
            step: training step.
            metrics: numbers to choose by later.
            meta: free text by name.
            alias: a name that shall stand for the snapshot.
            rank: which part of the snapshot it is; None when it is the whole.
            release: called in any case, when the directory is no longer needed.

        Raises:
            CkptsyncError: what the upload before failed with; this one was not begun.
        """
        try:
            self.wait()
            run = self.run
        except BaseException:
            release()
            raise

        def upload() -> None:
            try:
                self._upload(run, tree, step, metrics, meta, alias, rank)
            except BaseException as error:  # noqa: BLE001  raised by the next call
                self._failure = error
            finally:
                release()

        self._step = step
        self._thread = threading.Thread(target=upload, name=f"ckptsync-save-{step}")
        self._thread.start()

    def _upload(
        self,
        run: Run,
        tree: Path | SourceTree,
        step: int,
        metrics: Mapping[str, float],
        meta: Mapping[str, str],
        alias: str | None,
        rank: Rank | None,
    ) -> None:
        """Commit, and delete what need not be kept any more; that this fails does not make the snapshot less durable."""
        if rank is None:
            saved = save(run, tree, step=step, metrics=metrics, meta=meta, alias=alias, tenure=self._tenure)
        else:
            saved = save_rank(run, tree, rank, step=step, metrics=metrics, meta=meta, alias=alias, tenure=self._tenure)
        if self._keep is None or (rank is not None and rank.rank != 0):
            return
        try:
            collect(run, self._keep, grace_s=_GRACE_S, dry_run=False)
        except CkptsyncError as error:
            message = f"{saved.snapshot} is saved, but older ones could not be deleted: {error}"
            run.observer(Event(kind=Kind.NOTICE, path=saved.snapshot, message=message))

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until what was begun is durable. Safe to call again.

        Args:
            timeout_s: how long; None waits as long as it takes.

        Raises:
            ConfigError: this is a forked process, which has no part in it.
            NotDurableError: it takes longer; it goes on all the same.
            CkptsyncError: what the upload failed with.
        """
        if os.getpid() != self._pid:
            raise ConfigError("this belongs to the process this one was forked from; make one here")
        if self._thread is not None:
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                raise NotDurableError(f"step {self._step} was not durable after {timeout_s:g} s")
            self._thread = None
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def close(self, timeout_s: float | None = None) -> None:
        """Wait as `wait` does, and let go of the bucket. Safe to call again; what is begun later opens it anew."""
        try:
            self.wait(timeout_s)
        finally:
            if not self.is_under_way:
                self._opened = None
                self._exits.close()

    def _at_exit(self) -> None:
        """Say what is not durable, for who never closes; the thread has ended by now."""
        if os.getpid() == self._pid and self._failure is not None:
            _log.error("step %d is not durable: %s", self._step, self._failure)
