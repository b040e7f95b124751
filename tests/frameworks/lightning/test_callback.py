"""What `CkptsyncCallback` saves, when, and what comes of it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning
import pytest
import torch
from frameworks.lightning.jobs import GoneError, example, fit, weights
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy

from ckptsync import BestN, CheckpointManager, ConfigError, EveryNSteps, LatestN
from ckptsync.errors import NoSnapshotError
from ckptsync.integrations.lightning import CkptsyncCallback, RunCheckpointIO
from ckptsync.run import open_run
from ckptsync.state import randomness

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return str(tmp_path / "run")


class Watching(lightning.Callback):
    """Keeps the steps that were done."""

    def __init__(self) -> None:
        self.ended: list[int] = []

    def on_train_batch_end(self, trainer: Any, *details: Any) -> None:
        del details
        self.ended.append(trainer.global_step)


class Colour:
    """Something a pickle names."""


class Colouring(lightning.Callback):
    """Adds it to every checkpoint."""

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        del trainer, pl_module
        checkpoint["colour"] = Colour()


def saved(run: str) -> list[tuple[int, list[str]]]:
    """Steps of the snapshots that are there, the oldest first, and the metrics they have."""
    with CheckpointManager(run) as manager:
        return [(one.id.step, sorted(one.metrics)) for one in reversed(manager.history())]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"val_check_interval": 4},
        {"check_val_every_n_epoch": None, "val_check_interval": 7},
        {"check_val_every_n_epoch": 2},
        {"accumulate_grad_batches": 4},
        {"limit_val_batches": 0},
        {"max_epochs": -1, "max_steps": 31},
    ],
    ids=str,
)
@pytest.mark.parametrize("every", [1, 3])
def test_interrupted_anywhere_it_ends_bit_for_bit_the_same(run: str, options: dict[str, Any], every: int) -> None:
    whole = fit([], enable_checkpointing=False, **options)
    stops = [2, 3, 6, 7] if "accumulate_grad_batches" in options else [5, 12, 13, 19, 24, 30]
    last = 0
    for stop in stops:
        saving = CkptsyncCallback(run, save=EveryNSteps(every))
        with pytest.raises(GoneError):
            fit([saving], ckpt_path=saving.last(), stop_at=stop, **options)
        last = saved(run)[-1][0]
        assert stop - every <= last <= stop
    saving = CkptsyncCallback(run, save=EveryNSteps(every))
    resumed = fit([saving], ckpt_path=saving.last(), **options)
    assert resumed.global_step == whole.global_step
    assert weights(resumed) == weights(whole)


def test_a_save_comes_behind_what_follows_its_step(run: str) -> None:
    fit([CkptsyncCallback(run, save=EveryNSteps(10))], val_check_interval=5)
    assert saved(run) == [(1, []), (10, ["val_loss"]), (20, []), (30, []), (36, [])]


def test_where_snapshots_are_compared_validations_are_saved(run: str) -> None:
    keep = LatestN(1) | BestN("val_loss", "min")
    saving = CkptsyncCallback(run, save=EveryNSteps(10), keep=keep, save_last=False)
    trainer = fit([saving])
    found = dict(saved(run))
    assert found.keys() == {36}
    assert found[36] == ["val_loss"]
    (measured,) = trainer.validate(
        trainer.lightning_module, datamodule=trainer.datamodule, ckpt_path="best", verbose=False
    )
    with CheckpointManager(run) as manager:
        assert manager.history()[0].metrics["val_loss"] == pytest.approx(measured["val_loss"], rel=1e-6)


@pytest.fixture
def broken(tmp_path: Path) -> str:
    """A run that nothing can be written to."""
    (tmp_path / "file").write_text("no folder")
    return str(tmp_path / "file/run")


@pytest.mark.usefixtures("run")
def test_what_fails_is_raised_by_the_next_save(broken: str) -> None:
    watching = Watching()
    with pytest.raises(ConfigError, match="not a directory"):
        fit([CkptsyncCallback(broken, save=EveryNSteps(5)), watching])
    assert watching.ended == [1, 2, 3, 4, 5]


@pytest.mark.usefixtures("run")
@pytest.mark.parametrize("handled", [None, ValueError()], ids=["alone", "while another error is handled"])
def test_what_fails_last_is_raised_at_the_end(broken: str, handled: Exception | None) -> None:
    def train() -> None:
        with pytest.raises(ConfigError, match="not a directory"):
            fit([ModelCheckpoint()], plugins=[RunCheckpointIO(broken)], max_epochs=1)

    if handled is None:
        train()
        return
    try:
        raise handled
    except ValueError:
        train()


def test_when_training_dies_its_last_save_is_durable(run: str) -> None:
    with pytest.raises(GoneError):
        fit([CkptsyncCallback(run, save=EveryNSteps(4))], stop_at=9)
    assert saved(run)[-1][0] == 8


@pytest.mark.usefixtures("run")
def test_what_training_died_of_hides_behind_no_late_error(broken: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="ckptsync"), pytest.raises(GoneError):
        fit([CkptsyncCallback(broken, save=EveryNSteps(100))], stop_at=2)
    assert "not a directory" in caplog.text


def test_a_damaged_snapshot_costs_a_step_back(run: str) -> None:
    fit([CkptsyncCallback(run, save=EveryNSteps(5))], max_epochs=1)
    newest, before = sorted((Path(run) / "data").iterdir(), reverse=True)[:2]
    file = newest / "checkpoint.pt"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    saving = CkptsyncCallback(run, save=EveryNSteps(5))
    watching = Watching()
    fit([saving, watching], max_epochs=1, ckpt_path=saving.last())
    assert watching.ended[0] == int(before.name.split("-")[1]) + 1


def test_pickles_run_no_code_unless_they_may(run: str) -> None:
    fit([CkptsyncCallback(run), Colouring()], max_epochs=1)
    saving = CkptsyncCallback(run)
    with pytest.raises(ConfigError, match="weights_only=False"):
        fit([saving], ckpt_path=saving.last())
    assert fit([CkptsyncCallback(run, weights_only=False)], ckpt_path=saving.last()).global_step == 36


def test_there_is_nothing_to_resume_from_at_first(run: str) -> None:
    saving = CkptsyncCallback(run)
    assert saving.last() is None
    with pytest.raises(NoSnapshotError, match="no snapshot"):
        fit([saving], ckpt_path=run)
    assert not Path(run).exists()


def test_files_of_others_stay_theirs(run: str, tmp_path: Path) -> None:
    local = ModelCheckpoint(dirpath=tmp_path / "local", save_last=True)
    fit([local, CkptsyncCallback(run, save=EveryNSteps(20))])
    assert sorted(path.name for path in (tmp_path / "local").iterdir()) == ["epoch=2-step=36.ckpt", "last.ckpt"]
    assert [step for step, _ in saved(run)] == [1, 20, 36]
    longer = CkptsyncCallback(run, save=EveryNSteps(20))
    assert fit([longer], ckpt_path=str(tmp_path / "local/last.ckpt"), max_epochs=4).global_step == 48


def test_one_file_of_a_snapshot_is_a_checkpoint_that_lightning_reads(run: str) -> None:
    trainer = fit([CkptsyncCallback(run)], max_epochs=1)
    (file,) = Path(run).glob("data/*-000000000012-*/checkpoint.pt")
    model = example.Regression.load_from_checkpoint(file)
    state = trainer.lightning_module.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_strategies_that_save_from_every_rank_are_refused(run: str) -> None:
    with pytest.raises(ConfigError, match="ModelParallelStrategy saves from every rank"):
        CkptsyncCallback(run).setup(SimpleNamespace(strategy=ModelParallelStrategy()), None, "fit")


def test_plugin_and_callback_do_not_fence_each_other(run: str) -> None:
    with pytest.raises(ConfigError, match="leave out one"):
        fit([CkptsyncCallback(run)], plugins=[RunCheckpointIO(run)])


def test_a_trainer_trains_again(run: str) -> None:
    saving = CkptsyncCallback(run, save=EveryNSteps(5))
    trainer = fit([saving, EarlyStopping("val_loss", patience=9)], max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(trainer.lightning_module, datamodule=trainer.datamodule)
    with open_run(run) as opened:
        assert [one.id.step for one in opened.catalog.listed()][:1] == [24]


def test_nothing_is_saved_where_lightning_only_tries_out(run: str) -> None:
    fit([CkptsyncCallback(run)], fast_dev_run=True)
    assert saved(run) == []


class Terminating(lightning.Callback):
    """The cloud says, behind a step, that it takes the machine away."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Any, *details: Any) -> None:
        del details
        if trainer.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("step", "options"),
    [(7, {}), (8, {"val_check_interval": 4}), (12, {}), (17, {"max_epochs": -1, "max_steps": 31})],
    ids=str,
)
def test_on_sigterm_the_step_is_saved(run: str, step: int, options: dict[str, Any]) -> None:
    whole = fit([], enable_checkpointing=False, **options)
    saving = CkptsyncCallback(run, save=EveryNSteps(1000))
    with pytest.raises(SystemExit):
        fit([saving, Terminating(step)], **options)
    assert saved(run)[-1][0] == step
    watching = Watching()
    resumed = fit([saving, watching], ckpt_path=saving.last(), **options)
    assert watching.ended[0] == step + 1
    assert weights(resumed) == weights(whole)


def test_no_two_ranks_draw_what_one_drew(caplog: pytest.LogCaptureFixture) -> None:
    saving = CkptsyncCallback("run")
    saving.on_load_checkpoint(None, None, {"ckptsync-random": [randomness.captured()]})
    before = torch.get_rng_state()
    torch.rand(1)
    saving.on_train_start(SimpleNamespace(world_size=2, global_rank=1, global_step=5), None)
    assert not torch.equal(torch.get_rng_state(), before)
    assert "1 ranks saved and 2 go on" in caplog.text


def test_without_lightning_a_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['lightning'] = None; import ckptsync.integrations.lightning"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ckptsync.errors.ConfigError: Lightning cannot be imported")
    assert last.endswith("pip install 'ckptsync[lightning]'")
