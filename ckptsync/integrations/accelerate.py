"""What an Accelerator has prepared, into a run and out of it. Needs `accelerate`: `pip install 'ckptsync[transformers]'`.

    from ckptsync.integrations.accelerate import AcceleratorCheckpoints

    with AcceleratorCheckpoints(accelerator, "s3://bucket/run", keep=LatestN(3)) as checkpoints:
        for step in range(checkpoints.load(), 1000):
            train(step)
            if step % 100 == 0:
                checkpoints.save(step)

The files are those of `Accelerator.save_state`: a snapshot that was restored into a folder is loaded with `load_state`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ckptsync.errors import CkptsyncError, ConfigError
from ckptsync.events import Observer, log_observer
from ckptsync.integrations._nodes import any_of_all, bring_folder, brought, place, said_by_owner
from ckptsync.options import Config
from ckptsync.policy import KeepPolicy
from ckptsync.transfer.folders import remove_tree
from ckptsync.uploads import Busy, Upload, Uploads

_log = logging.getLogger("ckptsync")


class AcceleratorCheckpoints:
    """Saves what an Accelerator has prepared, and brings it back.

    A context manager: behind it everything is durable, or an error was raised. Every process makes one, and calls what the others call.

    `save_state` writes to a local folder; from there it is uploaded in a thread, one save at a time, and deleted. What goes wrong in it
    is raised by the next call.
    """

    def __init__(
        self,
        accelerator: Any,
        run: str | Path,
        *,
        folder: str | Path | None = None,
        keep: KeepPolicy | None = None,
        busy: Busy = "wait",
        config: Config | None = None,
        observer: Observer = log_observer,
    ) -> None:
        """Open a run. Nothing is asked of the bucket yet.

        Args:
            accelerator: the `accelerate.Accelerator`. With `save_on_each_node` in its project configuration each node saves what it has
                on its own disk, and all nodes together become one snapshot.
            run: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///dir`, a plain directory, or any URL fsspec understands.
            folder: where files lie until they are durable, on a disk that the processes share which save together; None is a
                temporary one of this machine.
            keep: what stays in the bucket; None keeps everything.
            busy: what `save` does while the one before is under way: `wait` for it, or `skip` this one.
            config: None resolves environment, TOML file and defaults.
            observer: told of everything that happens.

        Raises:
            ConfigError: an argument cannot be used.
        """
        if accelerator.project_configuration.automatic_checkpoint_naming:
            raise ConfigError(
                "turn automatic_checkpoint_naming off: the step names a snapshot, and `keep` says what stays"
            )
        self._accelerator = accelerator
        self._uploads = Uploads(run, keep=keep, busy=busy, config=config, observer=observer)
        self._here = place(on_each_node=accelerator.project_configuration.save_on_each_node)
        self._temporary = tempfile.TemporaryDirectory(prefix="ckptsync-") if folder is None else None
        own = str(folder if self._temporary is None else self._temporary.name)
        self._is_closed = False
        self._folder = Path(said_by_owner(self._here, own))

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

    def save(
        self,
        step: int,
        *,
        metrics: Mapping[str, float] | None = None,
        meta: Mapping[str, str] | None = None,
        alias: str | None = None,
    ) -> bool:
        """Begin to save; returns once `save_state` has written the local files. All processes call it.

        Args:
            step: that was just done, 0 to 999 999 999 999; `load` returns the next one.
            metrics: numbers to choose by later, as in `best:loss:min`.
            meta: free text by name.
            alias: a name that shall stand for the snapshot.

        Returns:
            Whether it was begun: not, when the one before is under way and this one is to be skipped.

        Raises:
            CkptsyncError: what the save before failed with; this one was not begun.
        """
        self._check_usable()
        since_s = self._uploads.now_s
        if self._uploads.busy == "skip" and any_of_all(self._uploads.is_under_way):
            return False
        self._uploads.wait()
        folder = self._folder / f"step-{step}"
        if self._here.saves:
            remove_tree(folder, ignore_errors=True)
        self._accelerator.wait_for_everyone()
        self._accelerator.save_state(str(folder))
        self._accelerator.wait_for_everyone()  # each has written its random numbers
        if self._here.saves:
            self._uploads.begin(
                Upload(
                    tree=folder,
                    step=step,
                    since_s=since_s,
                    metrics=metrics or {},
                    meta=meta or {},
                    alias=alias,
                    rank=self._here.rank(),
                    release=partial(self._let_go, folder),  # which keeps a temporary folder alive for so long
                )
            )
        return True

    def load(self, *, snapshot: str | int = "latest", **options: Any) -> int:
        """Bring the newest good snapshot back into what the Accelerator has prepared. All processes call it.

        Args:
            snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias.
            options: for `Accelerator.load_state`.

        Returns:
            The step to go on with: the one behind the step that was saved; 0 when there is no snapshot at all.

        Raises:
            NoSnapshotError: there is none of that name.
            IntegrityError: every snapshot tried was bad; nothing was changed.
            StoreError: the bucket failed for good; nothing was changed.
        """
        self._check_usable()
        self._uploads.wait()
        since_s = self._uploads.now_s
        target = self._folder / "loading"
        found = brought(
            self._uploads.run,
            self._here,
            str(snapshot),
            lambda reading, manifest: bring_folder(reading, manifest, self._here, target),
        )
        if found is None:
            return 0
        self._accelerator.load_state(str(target), **options)
        self._accelerator.wait_for_everyone()
        if self._here.saves:
            remove_tree(target, ignore_errors=True)
            self._uploads.goodput.resumed(self._uploads.run.store, str(found), found.step, since_s)
        return found.step + 1

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until what was saved is durable. Safe to call again.

        Args:
            timeout_s: how long; None waits as long as it takes.

        Raises:
            NotDurableError: it takes longer; it goes on all the same.
            CkptsyncError: what the save failed with.
        """
        self._uploads.wait(timeout_s)

    def close(self, timeout_s: float | None = None) -> None:
        """Wait as `wait` does, and let go of the bucket and of the local files. Safe to call again.

        Raises:
            NotDurableError: it takes longer than `timeout_s`; it goes on until the process ends.
            CkptsyncError: what the last save failed with.
        """
        if self._is_closed:
            return
        try:
            self._uploads.close(timeout_s)
        finally:
            if not self._uploads.is_under_way:
                self._is_closed = True
                if self._temporary is not None:
                    self._temporary.cleanup()

    def _check_usable(self) -> None:
        """Refuse to go on where the local files are gone."""
        if self._is_closed:
            raise ConfigError("these AcceleratorCheckpoints are closed")

    def _let_go(self, folder: Path) -> None:
        """Delete local files that are no longer needed."""
        remove_tree(folder, ignore_errors=True)
