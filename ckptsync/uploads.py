"""Directories that a framework has written, into a run behind the training's back; what integrations of frameworks with files build on."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from ckptsync.background import Background
from ckptsync.errors import ConfigError, NotDurableError
from ckptsync.events import Observer
from ckptsync.goodput import Goodput
from ckptsync.options import Config
from ckptsync.policy import KeepPolicy, checked_keep
from ckptsync.run import Run, open_run
from ckptsync.snapshot.cost import Loop
from ckptsync.snapshot.layout import checked_step
from ckptsync.snapshot.manifest import checked_meta, copied_metrics
from ckptsync.tenure import Tenure
from ckptsync.transfer.source import SourceTree
from ckptsync.verbs.gc import tidy
from ckptsync.verbs.ranks import Rank, save_rank
from ckptsync.verbs.save import save

_log = logging.getLogger("ckptsync")
Busy = Literal["wait", "skip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """What is to become a snapshot.

    Attributes:
        tree: a directory, to be left alone until it is released.
        step: training step.
        metrics: numbers to choose by later.
        meta: free text by name.
        alias: a name that shall stand for the snapshot.
        rank: which part of the snapshot it is; None when it is the whole.
        since_s: when the loop began to wait for it, by the monotonic clock.
        release: called in any case, when the directory is no longer needed.
    """

    tree: Path | SourceTree
    step: int
    since_s: float
    release: Callable[[], None]
    metrics: Mapping[str, float] = field(default_factory=dict)
    meta: Mapping[str, str] = field(default_factory=dict)
    alias: str | None = None
    rank: Rank | None = None


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
        self._url, self._keep, self._config, self._observer = run, checked_keep(keep), config, observer
        self._exits = ExitStack()
        self._opened: Run | None = None
        self._tenure = Tenure()
        self._work: Background[tuple[Upload, Loop]] = Background(self._commit, name="ckptsync-upload")
        self._step = -1
        self._pid = os.getpid()
        self.goodput = Goodput(self._open().clock)  # an address that cannot be used is told now
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
    def now_s(self) -> float:
        """By the monotonic clock."""
        return self.run.clock.monotonic()

    @property
    def is_under_way(self) -> bool:
        """Whether an upload is."""
        return self._work.is_busy

    def begin(self, upload: Upload) -> None:
        """Begin to upload, once the upload before has come to its end.

        Raises:
            ConfigError: step, metrics or free text cannot stand in a manifest; it was not begun.
            CkptsyncError: what the upload before failed with; this one was not begun.
        """
        try:
            upload = replace(
                upload,
                step=checked_step(upload.step),
                metrics=copied_metrics(upload.metrics),
                meta=checked_meta(upload.meta),
            )
            self.wait()
            _ = self.run
        except BaseException:
            upload.release()
            raise
        self._step = upload.step
        self._work.submit((upload, self.goodput.saving(upload.since_s)))

    def _commit(self, told: tuple[Upload, Loop]) -> None:
        """Commit, and tidy up behind it."""
        upload, loop = told
        try:
            if upload.rank is None:
                saved = save(
                    self.run,
                    upload.tree,
                    step=upload.step,
                    metrics=upload.metrics,
                    meta=upload.meta,
                    alias=upload.alias,
                    tenure=self._tenure,
                    loop=loop,
                )
            else:
                saved = save_rank(
                    self.run,
                    upload.tree,
                    upload.rank,
                    step=upload.step,
                    metrics=upload.metrics,
                    meta=upload.meta,
                    alias=upload.alias,
                    tenure=self._tenure,
                    loop=loop,
                )
        finally:
            upload.release()
        self._step = -1 if self._step == upload.step else self._step
        if upload.rank is None or upload.rank.rank == 0:
            tidy(self.run, self._keep, behind=saved.snapshot)

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
        if not self._work.join(timeout_s):
            raise NotDurableError(f"step {self._step} was not durable after {timeout_s:g} s")
        if (failure := self._work.take_failure()) is not None:
            raise failure

    def close(self, timeout_s: float | None = None) -> None:
        """Wait as `wait` does, and let go of the bucket. Safe to call again; what is begun later opens it anew."""
        if os.getpid() != self._pid:
            return
        try:
            self.wait(timeout_s)
        finally:
            if not self.is_under_way:
                self._opened = None
                self._exits.close()

    def _at_exit(self) -> None:
        """Say what is not durable, for who never closes; the thread has ended by now."""
        if os.getpid() == self._pid and (failure := self._work.take_failure()) is not None:
            _log.error("%s%s", f"step {self._step} is not durable: " if self._step >= 0 else "", failure)
