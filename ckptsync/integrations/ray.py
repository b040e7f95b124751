"""Checkpoints that Ray Train reports, in a run: Ray keeps a small file for each, which tells the snapshot.

    def train(config):
        try:
            step = ckptsync.restore("s3://bucket/run", "resumed").step + 1
        except ckptsync.NoSnapshotError:
            step = 0
        for step in range(step, 10_000):
            ...                                           # writes a checkpoint to `folder`, another each time
            ray.train.report(
                {"loss": loss},
                checkpoint=ray.train.Checkpoint.from_directory(folder),
                checkpoint_upload_fn=uploader("s3://bucket/run", step=step, keep=LatestN(3)),
            )

Source: https://docs.ray.io/en/latest/train/user-guides/checkpoints.html
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ckptsync.api import restore, save
from ckptsync.errors import ConfigError
from ckptsync.events import Observer, log_observer
from ckptsync.options import Config
from ckptsync.policy import KeepPolicy
from ckptsync.run import open_run
from ckptsync.verbs.gc import tidy

try:
    import ray.train
except ImportError as error:
    raise ConfigError(f"Ray Train is missing ({error}): pip install 'ckptsync[ray]'") from error

POINTER = "ckptsync.json"


def uploader(
    run: str | Path,
    *,
    step: int,
    metrics: Mapping[str, float] | None = None,
    meta: Mapping[str, str] | None = None,
    keep: KeepPolicy | None = None,
    config: Config | None = None,
    observer: Observer = log_observer,
) -> Callable[[Any, str], Any]:
    """Return what `ray.train.report` takes as `checkpoint_upload_fn`. One worker reports a checkpoint, the others None.

    With `CheckpointUploadMode.ASYNC` it is uploaded behind the training's back.

    Args:
        run: `s3://bucket/prefix`, `gs://bucket/prefix`, a directory, or any URL fsspec understands.
        step: training step, 0 to 999 999 999 999.
        metrics: numbers to choose by later, as in `best:loss:min`.
        meta: free text by name.
        keep: what stays in the bucket, which is seen to after the upload; None keeps everything.
        config: None resolves environment, TOML file and defaults.
        observer: told of everything that happens.

    Returns:
        A function that saves a checkpoint, and raises what `ckptsync.save` raises. It returns a checkpoint in Ray's own storage, which
        holds nothing but the name of the snapshot; what Ray deletes of those has no part in what stays in the bucket.
    """

    def upload(checkpoint: Any, name: str) -> Any:
        with checkpoint.as_directory() as folder:
            saved = save(folder, str(run), step=step, metrics=metrics, meta=meta, config=config, observer=observer)
        if keep is not None:
            with open_run(run, config, observer=observer) as opened:
                tidy(opened, keep, behind=saved.snapshot)
        with tempfile.TemporaryDirectory() as pointer:
            Path(pointer, POINTER).write_text(json.dumps({"snapshot": saved.snapshot}))
            storage = ray.train.get_context().get_storage()
            return storage.persist_current_checkpoint(ray.train.Checkpoint.from_directory(pointer), name)

    return upload


@contextmanager
def restored(
    checkpoint: Any, run: str | Path, *, config: Config | None = None, observer: Observer = log_observer
) -> Iterator[Path]:
    """Bring the snapshot of a reported checkpoint back, verified, for as long as the `with` block lasts.

    Args:
        checkpoint: of `ray.train.get_checkpoint`, or of a `Result`.
        run: where it was uploaded to.
        config: None resolves environment, TOML file and defaults.
        observer: told of everything that happens.

    Returns:
        The folder it is in; it is deleted behind the block.

    Raises:
        ConfigError: the checkpoint was not uploaded by `uploader`.
        NoSnapshotError: the snapshot is there no more.
        IntegrityError: it is damaged.
        StoreError: the bucket failed for good.
    """
    with checkpoint.as_directory() as pointer:
        try:
            snapshot = str(json.loads(Path(pointer, POINTER).read_text())["snapshot"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{checkpoint} was not uploaded by ckptsync: it has no {POINTER}") from error
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "checkpoint")
        restore(str(run), target, snapshot=snapshot, config=config, observer=observer)
        yield target
