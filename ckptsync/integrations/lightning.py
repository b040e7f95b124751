"""Lightning saves into a run behind the loop's back, and resumes from it on a machine that has nothing.

    from ckptsync import EveryNSteps, LatestN
    from ckptsync.integrations.lightning import CkptsyncCallback
    saving = CkptsyncCallback("s3://bucket/run", save=EveryNSteps(100), keep=LatestN(3))
    Trainer(callbacks=[saving]).fit(model, ckpt_path=saving.last())

`RunCheckpointIO` brings what `ModelCheckpoint` saves into a run. Both are for strategies that save from rank zero: one device, plain DDP.
Built on what https://lightning.ai/docs/pytorch/stable/common/checkpointing_expert.html documents.
"""

from __future__ import annotations

import logging
import pickle
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ckptsync.errors import CkptsyncError, ConfigError, IntegrityError, NoSnapshotError
from ckptsync.events import Observer, log_observer
from ckptsync.manager import CheckpointManager
from ckptsync.options import Config
from ckptsync.policy import AnyOf, BestN, KeepPolicy, SavePolicy
from ckptsync.run import open_run
from ckptsync.saver import Busy

try:
    import torch
    from lightning.fabric.plugins import CheckpointIO, TorchCheckpointIO
    from lightning.pytorch.callbacks import Checkpoint
    from lightning.pytorch.strategies import Strategy
    from lightning.pytorch.utilities.exceptions import SIGTERMException
except ImportError as error:
    raise ConfigError(f"Lightning cannot be imported ({error}); pip install 'ckptsync[lightning]'") from error

from ckptsync.state import randomness

_PATH = "lightning-path"
_RANDOM = "ckptsync-random"
_log = logging.getLogger("ckptsync")


class RunCheckpointIO(CheckpointIO):  # type: ignore[misc]  # without Lightning it is Any
    """Saves Lightning's checkpoints into a run, each as a snapshot of its global step, and loads them from there, verified.

        Trainer(plugins=[RunCheckpointIO("s3://bucket/run", keep=LatestN(3))], callbacks=[ModelCheckpoint(…)])

    A save costs the loop a copy in memory. One is under way at a time; what goes wrong in it is raised by the next, and when the trainer is
    done, which waits until the last is durable. `keep` decides what stays. What is saved under two names, as `last.ckpt`, is one snapshot.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        save: SavePolicy | None = None,
        keep: KeepPolicy | None = None,
        busy: Busy = "wait",
        weights_only: bool = True,
        elsewhere: CheckpointIO | None = None,
        config: Config | None = None,
        observer: Observer = log_observer,
    ) -> None:
        """Ask the bucket nothing yet.

        Args:
            run: `s3://bucket/prefix`, `gs://bucket/prefix`, a directory, or any URL fsspec understands.
            save: what `should_save` asks; `ModelCheckpoint` has rules of its own.
            keep: what stays in the bucket, which is seen to after every save; None keeps everything.
            busy: what a save does while the one before is under way: `wait` for it, or `skip` this one.
            weights_only: as in `torch.load`, where Lightning does not say; False lets a pickle run whatever code it names.
            elsewhere: saves and loads what is not named after the run; None saves all of it into the run.
            config: None resolves environment, TOML file and defaults.
            observer: told of everything that happens, in whatever thread it does.
        """
        super().__init__()
        self.run = str(run)
        self.elsewhere = elsewhere
        self.saved_step = -1
        """Global step that was last saved or loaded; -1 when none was."""
        self._open = partial(
            CheckpointManager, self.run, save=save, keep=keep, busy=busy, config=config, observer=observer
        )
        self._look = partial(open_run, self.run, config, observer=observer)
        self._weights_only = weights_only
        self._manager: CheckpointManager | None = None
        self._around: BaseException | None = None
        self._steps: dict[str, int] = {}
        self._saved: tuple[bytes, bool] = b"", False

    def last(self) -> str | None:
        """Return a `ckpt_path` that stands for the newest good snapshot; None, for which Lightning begins anew, when there is none."""
        with self._look() as run:
            return f"{self.run}@latest" if any(True for _ in run.catalog.listed(limit=1)) else None

    def should_save(self, step: int) -> bool:
        """Return whether the policy wants a save at a global step."""
        return self._opened().should_save(step)

    def wait(self) -> None:
        """Wait until what was saved is durable; raises what the save failed with, a CkptsyncError. Safe to call again."""
        if self._manager is not None:
            self._manager.wait()

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Begin to save; returns once everything is copied in memory.

        Args:
            checkpoint: what Lightning gathered.
            path: where Lightning means to put it: remembered, so that it can be loaded by that name.
            storage_options: None, or `{"metrics": {"val_loss": 0.5}}`, numbers to choose by later.

        Raises:
            ConfigError: something cannot be saved; nothing was begun.
            CkptsyncError: what the save before failed with; this one was not begun.
        """
        path = str(path)
        if self.elsewhere is not None and self._named(path) is None:
            self.elsewhere.save_checkpoint(checkpoint, path, storage_options=storage_options)
            return
        step, whole = checkpoint["global_step"], "optimizer_states" in checkpoint
        position = pickle.dumps((step, checkpoint["loops"]))
        if self._saved not in {(position, True), (position, whole)}:
            metrics = _metrics_of(checkpoint, path, storage_options)
            meta = {} if self._named(path) else {_PATH: path}
            if not self._opened().save(step, metrics=metrics, meta=meta, checkpoint=checkpoint):
                return
            self._saved, self.saved_step = (position, whole), step
        self._steps[path] = step

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Any = None,
        weights_only: bool | None = None,  # noqa: FBT001  Lightning's
    ) -> dict[str, Any]:
        """Return a checkpoint; every byte of it is verified before any is deserialised.

        Args:
            path: the run, for its newest good snapshot; the run, `@`, and an id, a step, `latest`, `best:METRIC:min|max` or an alias; or a
                name that Lightning saved under.
            map_location: as in `torch.load`.
            weights_only: as in `torch.load`; None takes what was said when this was made.

        Raises:
            NoSnapshotError: there is none of that name.
            ConfigError: it holds more than `weights_only` allows.
            IntegrityError: every snapshot tried was bad, or the ranks found different ones.
            StoreError: the bucket failed for good.
        """
        path = str(path)
        manager = self._opened()
        if (snapshot := self._snapshot(path, manager)) is None:
            said = (("map_location", map_location), ("weights_only", weights_only))
            given = {name: value for name, value in said if value is not None}
            found: dict[str, Any] = (self.elsewhere or TorchCheckpointIO()).load_checkpoint(path, **given)
            return found
        strict, found = self._weights_only if weights_only is None else weights_only, {}
        following = manager.restore(
            snapshot=snapshot, only=["checkpoint"], map_location=map_location, weights_only=strict, checkpoint=found
        )
        if not following:
            raise NoSnapshotError(f"there is no snapshot in {self.run}; `last()` returns None then, to begin")
        if len(steps := set(_gathered(following - 1))) > 1:
            raise IntegrityError(f"the ranks found snapshots of different steps ({sorted(steps)}); start again")
        self.saved_step = following - 1
        return found

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove nothing from the run: what stays in it is for `keep` to say."""
        if self.elsewhere is not None and self._named(str(path)) is None:
            self.elsewhere.remove_checkpoint(path)

    def teardown(self) -> None:
        """Wait until everything is durable, and let go of the bucket. Lightning calls it when a trainer is done. Safe to call again.

        Raises:
            CkptsyncError: what the last save failed with; it is only logged when training died of something else.
        """
        manager, self._manager = self._manager, None
        is_dying = sys.exception() is not self._around
        try:
            if manager is not None:
                manager.close()
        except CkptsyncError as late:
            if not is_dying:
                raise
            _log.error("%s", late)  # what training died of is what people must see
        finally:
            if self.elsewhere is not None:
                self.elsewhere.teardown()

    def _opened(self) -> CheckpointManager:
        """The manager, made on use: not before Lightning has started its processes, and anew for each of their trainings."""
        if self._manager is None:
            self._manager, self._around = self._open(), sys.exception()
        return self._manager

    def _named(self, path: str) -> str | None:
        """Which snapshot a path means that is named after the run; None when it is not."""
        if path == self.run:
            return "latest"
        return path.removeprefix(f"{self.run}@") if path.startswith(f"{self.run}@") else None

    def _snapshot(self, path: str, manager: CheckpointManager) -> str | None:
        """Which snapshot a path means; None when there is none of that name in the run."""
        if (snapshot := self._named(path)) is not None:
            return snapshot
        if path in self._steps:
            return str(self._steps[path])
        if self.elsewhere is not None or Path(path).exists():
            return None
        manager.wait()
        return next((one.snapshot for one in manager.history() if one.meta.get(_PATH) == path), None)


class CkptsyncCallback(Checkpoint):  # type: ignore[misc]  # without Lightning it is Any
    """Saves a training into a run when a policy says so, with the random numbers of every rank, and all that Lightning resumes from.

    Where a validation or the end of an epoch follows a step, the save comes behind it, so that neither is done again after a restart.
    What a validation measured is stored with the snapshot of the very step that was validated, and where `keep` has a `BestN`, every
    validation is followed by a save. No save comes between batches whose gradients are being accumulated.
    Lightning takes it for a `ModelCheckpoint`: without another one, nothing is saved on the disk. Steps are optimizer steps that were done.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        save: SavePolicy | None = None,
        keep: KeepPolicy | None = None,
        save_last: bool = True,
        busy: Busy = "wait",
        weights_only: bool = True,
        config: Config | None = None,
        observer: Observer = log_observer,
    ) -> None:
        """Ask the bucket nothing yet.

        Args:
            run: `s3://bucket/prefix`, `gs://bucket/prefix`, a directory, or any URL fsspec understands.
            save: when to save; None means at every step.
            keep: what stays in the bucket, which is seen to after every save; None keeps everything.
            save_last: save where training ends, too.
            busy: what a save does while the one before is under way: `wait` for it, or `skip` this one.
            weights_only: as in `torch.load`, where Lightning does not say; False lets a pickle run whatever code it names.
            config: None resolves environment, TOML file and defaults.
            observer: told of everything that happens, in whatever thread it does.
        """
        self.io = RunCheckpointIO(
            run, save=save, keep=keep, busy=busy, weights_only=weights_only, config=config, observer=observer
        )
        best = _best_of(keep)
        self.best_model_path = f"{self.io.run}@{best or 'latest'}"
        """What Lightning means by `ckpt_path="best"`: by the metric of the first `BestN` in `keep`; without one, the newest."""
        self._save_last, self._saves_validated = save_last, best is not None
        self._random: list[dict[str, Any]] = []
        self._seen_step, self._has_stepped, self._validated_step = 0, False, -1
        self._validation_metrics: set[str] = set()
        self._other_metrics: set[str] = set()

    def last(self) -> str | None:
        """Return a `ckpt_path` that stands for the newest good snapshot; None, for which Lightning begins anew, when there is none."""
        return self.io.last()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Let the trainer save and load what is named after the run by way of `RunCheckpointIO`.

        Raises:
            ConfigError: its strategy does not save from rank zero, or a `RunCheckpointIO` for the same run is there already.
        """
        del pl_module, stage
        strategy = trainer.strategy
        if type(strategy).save_checkpoint is not Strategy.save_checkpoint:
            name = type(strategy).__name__
            raise ConfigError(f"{name} saves from every rank, CkptsyncCallback from rank zero; see `ckptsync agent`")
        if (there := strategy.checkpoint_io) is self.io:
            return
        if isinstance(there, RunCheckpointIO) and there.run == self.io.run:
            raise ConfigError(f"a callback and a RunCheckpointIO would both write {self.io.run}; leave out one")
        self.io.elsewhere = there
        strategy.checkpoint_io = self.io

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the states of the generators of random numbers, of all ranks."""
        del trainer, pl_module
        checkpoint[_RANDOM] = _gathered(randomness.captured())

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep them until training goes on: what Lightning does before that draws from the generators."""
        del trainer, pl_module
        self._random = checkpoint.get(_RANDOM, [])

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Go on with the random numbers; not with another number of ranks, of which no two may draw the same."""
        del pl_module
        states, self._random = self._random, []
        if len(states) == trainer.world_size:
            randomness.applied(states[trainer.global_rank])
        elif states:
            _log.warning("%d ranks saved and %d go on: random numbers are not resumed", len(states), trainer.world_size)
        self._seen_step, self._validated_step = trainer.global_step, -1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Save when it is due, unless a later hook of the same step is the better moment."""
        del pl_module, outputs, batch
        self._has_stepped, self._seen_step = trainer.global_step != self._seen_step, trainer.global_step
        if self._has_stepped and not trainer.is_last_batch and not _validation_follows(trainer, batch_idx):
            self._save_if_due(trainer)

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Remember which metrics are not of a validation."""
        del pl_module
        self._other_metrics = set(trainer.callback_metrics) - self._validation_metrics

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Save when it is due; at the end of an epoch, `on_train_epoch_end` does."""
        del pl_module
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self._validation_metrics = set(trainer.callback_metrics) - self._other_metrics
        self._validated_step = trainer.global_step
        if self._has_stepped and not trainer.is_last_batch:
            self._save_if_due(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Save when it is due."""
        del pl_module
        self._save_if_due(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Save where training ends."""
        del pl_module
        if self._save_last:
            self.io.wait()
            self._save_if(trainer, wanted=True)

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Save when the machine is taken away: on SIGTERM, Lightning ends training between two batches. Ranks do not do so together."""
        del pl_module
        if isinstance(exception, SIGTERMException) and trainer.world_size == 1 and self._has_stepped:
            self._save_if(trainer, wanted=True)

    def _save_if_due(self, trainer: Any) -> None:
        """Ask the policy, on rank zero alone: the clocks of others differ."""
        wanted = self._saves_validated and self._validated_step == trainer.global_step
        self._save_if(trainer, wanted=wanted or (trainer.is_global_zero and self.io.should_save(trainer.global_step)))

    def _save_if(self, trainer: Any, *, wanted: bool) -> None:
        """Save, all ranks or none, when rank zero wants to and this step is not saved yet."""
        step = trainer.global_step
        if trainer.fast_dev_run or not trainer.strategy.broadcast(wanted and self.io.saved_step != step):
            return
        stale = set() if self._validated_step == step else self._validation_metrics
        metrics = {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if name not in stale and value.numel() == 1
        }
        trainer.save_checkpoint(f"{self.io.run}@{step}", weights_only=False, storage_options={"metrics": metrics})


def _validation_follows(trainer: Any, batch_idx: int) -> bool:
    """Whether Lightning validates right behind a batch that is not the last of its epoch."""
    every = trainer.check_val_every_n_epoch
    if not trainer.enable_validation or (every is not None and (trainer.current_epoch + 1) % every):
        return False
    done = 1 + (trainer.fit_loop.total_batch_idx if every is None else batch_idx)
    return trainer.val_check_batch is not None and done % trainer.val_check_batch == 0


def _best_of(keep: KeepPolicy | None) -> str | None:
    """Name of the snapshot that a policy takes for the best; None when it compares none."""
    policies = keep.policies if isinstance(keep, AnyOf) else (keep,)
    best = next((policy for policy in policies if isinstance(policy, BestN)), None)
    return f"best:{best.metric}:{best.mode}" if best else None


def _metrics_of(checkpoint: Mapping[str, Any], path: str, storage_options: Any) -> dict[str, float]:
    """The numbers a snapshot can be chosen by: those that were given, else what a `ModelCheckpoint` monitors."""
    if storage_options is None:
        states = [state for state in checkpoint.get("callbacks", {}).values() if isinstance(state, Mapping)]
        scored = [state for state in states if state.get("monitor") and path in state.get("best_k_models", {})]
        return {state["monitor"]: float(state["best_k_models"][path]) for state in scored}
    if not isinstance(storage_options, Mapping) or storage_options.keys() != {"metrics"}:
        raise ConfigError('storage_options can only be {"metrics": {NAME: NUMBER}}')
    return dict(storage_options["metrics"])


def _gathered(own: Any) -> list[Any]:
    """What every rank has, by rank."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return [own]
    found = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    return found
