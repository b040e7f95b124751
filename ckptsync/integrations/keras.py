"""`keras.callbacks.BackupAndRestore`, with the backup in a run: a `fit` that is killed goes on anywhere.

    model.fit(..., callbacks=[BackupAndRestore("s3://bucket/run", "backup")])

Source: keras/src/callbacks/backup_and_restore.py, of Keras 3
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ckptsync.directory import SyncedDirectory
from ckptsync.errors import ConfigError
from ckptsync.events import Observer, log_observer
from ckptsync.options import Config
from ckptsync.policy import KeepPolicy
from ckptsync.readiness.base import Ready, folder_of
from ckptsync.readiness.keras import METADATA, newest
from ckptsync.transfer.source import SourceTree
from ckptsync.uploads import Busy

try:
    import keras
except ImportError as error:
    raise ConfigError(f"Keras 3 is missing ({error}): pip install 'ckptsync[tensorflow]'") from error

SEEDS = "seeds.json"
_log = logging.getLogger("ckptsync")


class _BackupDirectory(SyncedDirectory):
    """The directory of a `keras.callbacks.BackupAndRestore`."""

    def ready(self, tree: SourceTree) -> Ready | None:
        """As `SyncedDirectory` asks for it: Keras writes the metadata last, and the next weights in place."""
        return newest(folder_of(tree))


class BackupAndRestore(keras.callbacks.BackupAndRestore):  # type: ignore[misc]  # Keras has no types
    """What Keras backs up is saved in a run behind the training's back, and restored when `fit` begins.

    Besides weights, optimizer and epoch, which Keras backs up, it keeps the states of the layers that draw random numbers, as `Dropout`
    does. When `fit` ends, all is durable, and Keras deletes the directory. The step of a snapshot is the optimizer's. Use a run for one
    `fit`: where it is called again with the same callback, nothing is restored.
    """

    def __init__(
        self,
        run: str | Path,
        backup_dir: str | Path,
        *,
        keep: KeepPolicy | None = None,
        busy: Busy = "wait",
        config: Config | None = None,
        observer: Observer = log_observer,
        **options: Any,
    ) -> None:
        """Open a run. Nothing is asked of the bucket yet.

        Args:
            run: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///dir`, a plain directory, or any URL fsspec understands.
            backup_dir: on this machine; for nothing but this callback.
            keep: what stays in the bucket; None keeps everything.
            busy: what is done with a backup while the one before is under way: `wait` for that one, or `skip` this one.
            config: None resolves environment, TOML file and defaults.
            observer: told of everything that happens, in whatever thread it does.
            options: Keras' own: `save_freq`, `double_checkpoint`, `delete_checkpoint`.

        Raises:
            ConfigError: an argument cannot be used.
        """
        super().__init__(os.fspath(backup_dir), **options)
        self.synced = _BackupDirectory(run, backup_dir, keep=keep, busy=busy, config=config, observer=observer)
        self._is_first = True

    def on_train_begin(self, logs: Mapping[str, Any] | None = None) -> None:
        """Bring the newest good snapshot back, and load it.

        Raises:
            CkptsyncError: what `SyncedDirectory.restore` raises; the model is as it was.
        """
        is_first, self._is_first = self._is_first, False
        if is_first:
            self.synced.restore()
        super().on_train_begin(logs)
        seeds = Path(self.backup_dir, SEEDS)
        if is_first and seeds.exists():
            _apply(json.loads(seeds.read_text()), self.model)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save what Keras backed up, if it did.

        Raises:
            CkptsyncError: what this save, or the one before, failed with.
        """
        self._save_after(super().on_train_batch_end, batch, logs)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Save what Keras backed up, if it did.

        Raises:
            CkptsyncError: what this save, or the one before, failed with.
        """
        self._save_after(super().on_epoch_end, epoch, logs)

    def on_train_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Wait until the last backup is durable, and let Keras delete it here.

        Raises:
            CkptsyncError: what the save failed with; the directory is still there.
        """
        self.synced.wait()
        super().on_train_end(logs)

    def _save_after(self, hook: Callable[[int, Any], None], number: int, logs: Mapping[str, Any] | None) -> None:
        """Let Keras do its part, and see whether it wrote a backup."""
        before = self._written_ns()
        hook(number, logs)
        if self._written_ns() == before:
            return
        numbers = {name: float(value) for name, value in (logs or {}).items() if isinstance(value, int | float)}
        self.synced.save(
            step=int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)),
            metrics=numbers,
            beside={SEEDS: json.dumps(_captured(self.model)).encode()},
        )

    def _written_ns(self) -> int:
        """When the last backup was written, nanoseconds since the Unix epoch; 0 when there is none."""
        try:
            return Path(self.backup_dir, METADATA).stat().st_mtime_ns
        except FileNotFoundError:
            return 0


def _seeds(model: Any) -> list[Any]:
    """The variables that layers draw random numbers from: those that are neither weights nor of a metric."""
    others = {id(variable) for variable in [*model.weights, *model.metrics_variables]}
    return [variable for variable in model.variables if id(variable) not in others]


def _captured(model: Any) -> dict[str, Any]:
    """Their values, as JSON has them."""
    return {"seeds": [keras.ops.convert_to_numpy(variable).tolist() for variable in _seeds(model)]}


def _apply(saved: Mapping[str, Any], model: Any) -> None:
    """Set them to what was captured; their order is that of the layers, their names are another in every process."""
    found = _seeds(model)
    if len(saved["seeds"]) != len(found):
        _log.warning("the model has %d random layers, %d were saved; they begin anew", len(found), len(saved["seeds"]))
        return
    for variable, value in zip(found, saved["seeds"], strict=True):
        variable.assign(value)
