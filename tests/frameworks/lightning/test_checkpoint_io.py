"""`RunCheckpointIO` under Lightning's own `ModelCheckpoint`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from frameworks.lightning.jobs import GoneError, fit, weights
from lightning.pytorch.callbacks import ModelCheckpoint

from ckptsync import CheckpointManager, ConfigError, LatestN
from ckptsync.integrations.lightning import RunCheckpointIO
from ckptsync.snapshot.manifest import Manifest

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def snapshots(run: str) -> list[Manifest]:
    with CheckpointManager(run) as manager:
        return manager.history()[::-1]


def monitoring(**options: Any) -> ModelCheckpoint:
    return ModelCheckpoint(dirpath="here", monitor="val_loss", save_top_k=2, **options)


def test_a_checkpoint_is_a_snapshot_and_nothing_is_on_the_disk(url: str, folder: Path) -> None:
    trainer = fit([monitoring(save_last=True)], plugins=[RunCheckpointIO(url)])
    found = snapshots(url)
    assert [one.id.step for one in found] == [12, 24, 36]  # last.ckpt is none of its own
    assert all(one.metrics.keys() == {"val_loss"} for one in found)
    assert len({one.id.epoch for one in found}) == 1
    assert not list(folder.rglob("*.ckpt"))
    best = min(found, key=lambda one: one.metrics["val_loss"])
    for path in ("best", trainer.checkpoint_callback.last_model_path, f"{url}@best:val_loss:min"):
        (measured,) = trainer.validate(
            trainer.lightning_module, datamodule=trainer.datamodule, ckpt_path=path, verbose=False
        )
        wanted = found[-1] if "last" in path else best
        assert measured["val_loss"] == pytest.approx(wanted.metrics["val_loss"], rel=1e-6)


def test_a_name_that_lightning_saved_under_is_found_on_another_machine(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    trainer = fit([monitoring()], plugins=[RunCheckpointIO(run)])
    again = RunCheckpointIO(run)
    loaded = again.load_checkpoint(trainer.checkpoint_callback.best_model_path)
    again.teardown()
    best = min(snapshots(run), key=lambda one: one.metrics["val_loss"])
    assert loaded["global_step"] == best.id.step
    with pytest.raises(FileNotFoundError):
        again.load_checkpoint(tmp_path / "other.ckpt")


def test_the_policy_says_what_stays(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    every = ModelCheckpoint(dirpath="here", every_n_train_steps=5, save_top_k=1)
    fit([every], plugins=[RunCheckpointIO(run, keep=LatestN(3))])
    assert [one.id.step for one in snapshots(run)] == [25, 30, 35]


def test_a_training_goes_on_from_the_run(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    plugin = RunCheckpointIO(run)
    with pytest.raises(GoneError):
        fit([ModelCheckpoint(dirpath="here")], plugins=[plugin], stop_at=30)
    assert plugin.last() == f"{run}@latest"
    resumed = fit([ModelCheckpoint(dirpath="here")], plugins=[RunCheckpointIO(run)], ckpt_path=run)
    assert resumed.global_step == 36
    assert [one.id.step for one in snapshots(run)] == [12, 24, 36]


@pytest.mark.parametrize("whole_first", [True, False])
def test_weights_alone_do_not_stand_for_the_whole(tmp_path: Path, *, whole_first: bool) -> None:
    run = str(tmp_path / "run")
    light = ModelCheckpoint(dirpath="light", monitor="val_loss", save_weights_only=True)
    whole = ModelCheckpoint(dirpath="whole")
    savers = [whole, light] if whole_first else [light, whole]
    trainer = fit(savers, plugins=[RunCheckpointIO(run)], max_epochs=1)
    assert [one.id.step for one in snapshots(run)] == [12] if whole_first else [12, 12]
    again = RunCheckpointIO(run)
    resumed = fit([], enable_checkpointing=False, plugins=[again], ckpt_path=run, max_epochs=1)
    assert weights(resumed) == weights(trainer)


def test_other_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="storage_options"):
        RunCheckpointIO(tmp_path / "run").save_checkpoint({"global_step": 1, "loops": {}}, "a", {"acl": "public"})
