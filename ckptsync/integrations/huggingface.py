"""A callback for the Trainer of transformers, which saves every checkpoint to a run. Needs `pip install 'ckptsync[transformers]'`.

    from ckptsync.integrations.huggingface import CkptsyncCallback

    callback = CkptsyncCallback("s3://bucket/run", keep=LatestN(3))
    trainer = Trainer(model, args, callbacks=[callback], ...)
    trainer.train(resume_from_checkpoint=callback.newest())

The files are those of the Trainer: a snapshot that was restored into a folder is loaded with `from_pretrained` as well.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ckptsync.config import request_file
from ckptsync.errors import ConfigError, IntegrityError, NoSnapshotError, SourceChangedError
from ckptsync.events import Event, Kind, Observer, log_observer
from ckptsync.integrations._nodes import Place, any_of_all, bring_folder, brought, meet, place
from ckptsync.options import Config
from ckptsync.policy import KeepPolicy
from ckptsync.readiness.huggingface import CHECKPOINT, INCOMPLETE, STATE, metrics_in
from ckptsync.requested import Requests
from ckptsync.run import Run
from ckptsync.snapshot.manifest import Manifest
from ckptsync.transfer.held import hold
from ckptsync.uploads import Busy, Upload, Uploads
from ckptsync.verbs.sending import scanned

try:
    from transformers import TrainerCallback
except ImportError as error:
    raise ConfigError("transformers is not installed; pip install 'ckptsync[transformers]'") from error


class CkptsyncCallback(TrainerCallback):  # type: ignore[misc]  # Any where transformers is not installed
    """Commits every `checkpoint-N` as a snapshot of step N once the Trainer has written it, behind the training's back.

    One upload is under way at a time. The Trainer may rotate its local checkpoints meanwhile: what is being uploaded is held open. What
    goes wrong is raised at the next checkpoint, and at the end of the training, which waits until the last one is durable.

    Numbers of the Trainer's log become metrics of the snapshot: `eval_` ones of this very step, of others the last. With
    `metric_for_best_model` the best model's snapshot has an alias, by which it is spared and found.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        keep: KeepPolicy | None = None,
        busy: Busy = "wait",
        best: str = "best",
        config: Config | None = None,
        observer: Observer = log_observer,
    ) -> None:
        """Open a run. Nothing is asked of the bucket yet.

        Args:
            run: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///dir`, a plain directory, or any URL fsspec understands.
            keep: what stays in the bucket, which is seen to after every save; None keeps everything.
            busy: what becomes of a checkpoint that is written while the one before is uploaded: the training may `wait`, or `skip` it,
                unless it is the best or the last.
            best: the alias of the best model's snapshot.
            config: None resolves environment, TOML file and defaults.
            observer: told of everything that happens, in whatever thread it does.

        Raises:
            ConfigError: an argument cannot be used.
        """
        self._uploads = Uploads(run, keep=keep, busy=busy, config=config, observer=observer)
        self._best = best
        self._args: Any = None
        self._here: Place | None = None
        self._requests = Requests(request_file())
        self._saved_step = -1
        self._before: Mapping[int, int] = {}

    # -- restoring ---------------------------------------------------------------------------------------------------

    def newest(self, output_dir: str | Path | None = None, *, snapshot: str | int = "latest") -> str | None:
        """Bring the newest good snapshot back to `output_dir/checkpoint-N`, for `train(resume_from_checkpoint=...)`.

        It appears whole and verified, or not at all. With `load_best_model_at_end` the checkpoint of the best model is brought back too.
        All processes call it, once the callback was given to a Trainer. Safe to call again.

        Args:
            output_dir: None takes that of the Trainer.
            snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias.

        Returns:
            The path; None when there is no snapshot at all.

        Raises:
            NoSnapshotError: there is none of that name.
            ConfigError: no Trainer has this callback yet, or the snapshot is not a Trainer's.
            IntegrityError: every snapshot tried was bad.
            StoreError: the bucket failed for good.
        """
        if self._args is None:
            raise ConfigError("give the callback to a Trainer first: it tells which process saves, and where")
        self._uploads.wait()
        since_s = self._uploads.now_s
        here = place(on_each_node=self._args.save_on_each_node)
        folder = Path(self._args.output_dir if output_dir is None else output_dir)
        if here.saves:
            folder.mkdir(parents=True, exist_ok=True)

        def bring(reading: Run, manifest: Manifest) -> None:
            bring_folder(reading, manifest, here, folder / _name(manifest.id.step), needs=STATE)

        found = brought(self._uploads.run, here, str(snapshot), bring)
        if found is None:
            return None
        path = folder / _name(found.step)
        if self._args.load_best_model_at_end and (best := _best_step(_state_in(path))) not in {None, found.step}:
            try:
                brought(self._uploads.run, here, str(best), bring)
            except (NoSnapshotError, IntegrityError) as error:
                message = f"the best model was that of step {best}, and cannot be brought back; training goes on without it: {error}"
                self._uploads.run.observer(Event(kind=Kind.NOTICE, path=str(path), message=message))
        if here.saves:
            self._uploads.goodput.resumed(self._uploads.run.store, str(found), found.step, since_s)
        return str(path)

    # -- what the Trainer calls --------------------------------------------------------------------------------------

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Learn where checkpoints are written."""
        del state, control, kwargs
        self._args = args

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Find out which process saves, and where the best model is by now."""
        del control, kwargs
        self._here = place(on_each_node=args.save_on_each_node)
        self._saved_step, self._before = state.global_step, _written(Path(args.output_dir))
        if (best := _best_step(vars(state))) is not None:
            moved = Path(args.output_dir) / _name(best)  # from another folder, perhaps of another machine
            if moved.is_dir():
                state.best_model_checkpoint = str(moved)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Let the Trainer save where `ckptsync run` or the sidecar ask for a last checkpoint. Ranks do not hear of it together."""
        del state, kwargs
        if args.world_size == 1 and self._requests.is_new(time.monotonic()):
            control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to upload the checkpoint that was just written.

        Raises:
            ConfigError: it is not where it is looked for.
            CkptsyncError: what the upload before failed with.
        """
        del control, kwargs
        assert self._here is not None  # noqa: S101  training has begun
        since_s = self._uploads.now_s
        meet()  # each has written its random numbers
        is_best = _best_step(vars(state)) == state.global_step
        if self._uploads.busy == "skip" and any_of_all(self._uploads.is_under_way) and not is_best:
            return
        if self._here.saves:
            self._begin(Path(args.output_dir), state.global_step, state, since_s)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait until the last checkpoint is durable, one that was written without a word too, and let go of the bucket.

        Raises:
            CkptsyncError: what its upload failed with.
        """
        del control, kwargs
        assert self._here is not None  # noqa: S101  training has begun
        meet()
        try:
            self._uploads.wait()
        except SourceChangedError:  # on SIGTERM the Trainer may write the checkpoint of a step once more
            self._saved_step = -1
        last = max(_written(Path(args.output_dir)).items() - self._before.items(), default=(-1, 0))[0]
        if self._here.saves and last > self._saved_step:  # on SIGTERM, or skipped
            self._begin(Path(args.output_dir), last, state, self._uploads.now_s)
        self._uploads.close()

    def wait(self, timeout_s: float | None = None) -> None:
        """Wait until what was saved is durable. Safe to call again.

        Args:
            timeout_s: how long; None waits as long as it takes.

        Raises:
            NotDurableError: it takes longer; it goes on all the same.
            CkptsyncError: what the upload failed with.
        """
        self._uploads.wait(timeout_s)

    def _begin(self, folder: Path, step: int, state: Any, since_s: float) -> None:
        """Hold the checkpoint of a step, and upload it."""
        assert self._here is not None  # noqa: S101  training has begun
        self._uploads.wait()
        held = hold(scanned(self._uploads.run, folder / _name(step)))
        self._uploads.begin(
            Upload(
                tree=held,
                step=step,
                since_s=since_s,
                metrics=metrics_of(state, step),
                alias=self._best if _best_step(vars(state)) == step else None,
                rank=self._here.rank(),
                release=held.close,
            )
        )
        self._saved_step = step


def metrics_of(state: Any, step: int) -> Mapping[str, float]:
    """Return what a Trainer's log tells of a step: `eval_` numbers of this very step, of others the last.

    Args:
        state: the `TrainerState`. `:` and `=` in names become `_`, for `best:NAME:min` could not address them.
        step: the one it is at, or was at just now.
    """
    return metrics_in(state.log_history, step)


def _name(step: int) -> str:
    """What the Trainer calls the checkpoint of a step."""
    return f"checkpoint-{step}"


def _written(folder: Path) -> Mapping[int, int]:
    """Every whole checkpoint by step, and when it was written, in nanoseconds."""
    found: dict[int, int] = {}
    for state in folder.glob(f"checkpoint-*/{STATE}"):  # it is written last
        named = CHECKPOINT.fullmatch(state.parent.name)
        if named and not (state.parent / INCOMPLETE).exists():
            found[int(named[1])] = state.stat().st_mtime_ns
    return found


def _state_in(checkpoint: Path) -> dict[str, Any]:
    """What the Trainer knew when it wrote a checkpoint."""
    found: dict[str, Any] = json.loads((checkpoint / STATE).read_bytes())
    return found


def _best_step(state: Mapping[str, Any]) -> int | None:
    """The step of the best model so far, None when there is none; versions before 4.50 tell its checkpoint alone."""
    if step := state.get("best_global_step"):
        return int(step)
    named = re.search(r"checkpoint-(\d+)$", state.get("best_model_checkpoint") or "")
    return int(named[1]) if named else None
