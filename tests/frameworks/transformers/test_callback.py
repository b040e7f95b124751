"""The Trainer's callback: what is committed, what is brought back, and what happens when things go wrong."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from ckptsync import uploads
from ckptsync.errors import ConfigError, FencedError, IntegrityError, NoSnapshotError, StoreError
from ckptsync.integrations.huggingface import CkptsyncCallback, metrics_of
from ckptsync.options import Config
from ckptsync.policy import LatestN
from ckptsync.run import open_run
from ckptsync.snapshot.layout import manifest_key
from ckptsync.snapshot.manifest import Manifest
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify

pytestmark = pytest.mark.filterwarnings("default")  # of other people's packages

FROZEN_BYTES = 4 * 300_000


class Tiny(torch.nn.Module):
    """A model with a loss, most of which is never trained."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = torch.nn.Linear(4, 1)
        self.frozen = torch.nn.Parameter(torch.zeros(FROZEN_BYTES // 4), requires_grad=False)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.linear(x).squeeze(-1) - labels).pow(2).mean()}


class Points(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sixteen points."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.arange(4.0) * index, "labels": torch.tensor(float(index))}


@pytest.fixture
def callback(tmp_path: Path) -> Callable[..., CkptsyncCallback]:
    """Callbacks for one run in a directory."""

    def make(**options: Any) -> CkptsyncCallback:
        return CkptsyncCallback(tmp_path / "run", config=Config(state_dir=str(tmp_path / "state")), **options)

    return make


def trainer(folder: Path, *callbacks: TrainerCallback, **options: Any) -> Trainer:
    """A job of four steps that saves behind each, unless told otherwise."""
    given = {"max_steps": 4, "save_steps": 1, "logging_steps": 1, "learning_rate": 0.1, "seed": 0} | options
    args = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **given,
    )
    points = Points()
    return Trainer(Tiny(), args, train_dataset=points, eval_dataset=points, callbacks=list(callbacks))


def committed(tmp_path: Path) -> list[Manifest]:
    """Every manifest, the newest first; all snapshots are good."""
    with open_run(tmp_path / "run") as run:
        manifests = list(run.catalog.history())
        for manifest in manifests:
            assert not verify(run, manifest.snapshot).bad
    return manifests


def steps(tmp_path: Path) -> list[int]:
    """Of every snapshot, the newest first."""
    return [manifest.id.step for manifest in committed(tmp_path)]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a checkpoint."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spoil(tmp_path: Path, *, step: int) -> None:
    """Flip what is in the bucket of a step's weights."""
    (weights,) = (tmp_path / "run/data").glob(f"*-{step:012d}-*/model.safetensors")
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")


class Slow:
    """Saves that wait to be let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, until: Callable[[int], bool]) -> None:
        self.until, self.waited, plain = until, list[int](), uploads.save

        def waiting(*args: Any, **options: Any) -> Any:
            deadline = time.monotonic() + 30
            while not self.until(options["step"]) and time.monotonic() < deadline:
                time.sleep(0.01)
            self.waited.append(options["step"])
            return plain(*args, **options)

        monkeypatch.setattr(uploads, "save", waiting)


def test_every_checkpoint_becomes_a_snapshot_with_the_metrics_of_its_log(tmp_path: Path, callback: Any) -> None:
    trainer(tmp_path / "out", callback(), eval_strategy="steps", eval_steps=2).train()
    manifests = committed(tmp_path)
    assert [manifest.id.step for manifest in manifests] == [4, 3, 2, 1]
    for manifest in manifests:
        there = contents(tmp_path / f"out/checkpoint-{manifest.id.step}")
        assert {file.path for file in manifest.files} == there.keys()
        assert manifest.metrics["loss"] is not None
        assert ("eval_loss" in manifest.metrics) == (manifest.id.step % 2 == 0)
    assert manifests[0].metrics["loss"] != manifests[1].metrics["loss"]
    assert not list((tmp_path / "out").glob(".*"))


def test_unchanged_parts_are_not_sent_again(tmp_path: Path, callback: Any) -> None:
    trainer(tmp_path / "out", callback(), max_steps=2).train()
    second, first = committed(tmp_path)
    assert first.cost is not None
    assert second.cost is not None
    fixed = (tmp_path / "out/checkpoint-2/training_args.bin").stat().st_size
    assert first.cost.bytes_reused == 0
    assert second.cost.bytes_reused >= fixed
    assert second.cost.bytes_sent <= first.cost.bytes_sent - fixed


def test_old_snapshots_are_deleted_by_policy_and_the_best_one_is_spared(tmp_path: Path, callback: Any) -> None:
    job = trainer(
        tmp_path / "out",
        callback(keep=LatestN(1)),
        eval_strategy="steps",
        eval_steps=1,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the first is the worst, and so the best
    )
    job.train()
    assert job.state.best_global_step == 1
    assert steps(tmp_path) == [4, 1]


def test_what_is_rotated_on_the_disk_is_uploaded_all_the_same(
    tmp_path: Path, callback: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch, lambda step: step == 4 or not (tmp_path / f"out/checkpoint-{step}").exists())
    trainer(tmp_path / "out", callback(), save_total_limit=1).train()
    assert slow.waited == [1, 2, 3, 4]
    assert steps(tmp_path) == [4, 3, 2, 1]
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name != "runs"] == ["checkpoint-4"]


def test_what_is_written_to_while_it_is_uploaded_is_not_committed(
    tmp_path: Path, callback: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(step: int) -> bool:
        with (tmp_path / f"out/checkpoint-{step}/trainer_state.json").open("ab") as file:
            file.write(b" ")
        return True

    Slow(monkeypatch, write)
    with pytest.raises(Exception, match="was written to while it was being saved"):
        trainer(tmp_path / "out", callback(), max_steps=1).train()
    assert steps(tmp_path) == []


def test_a_busy_upload_lets_checkpoints_be_skipped_but_not_the_last(
    tmp_path: Path, callback: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = threading.Event()

    class AtTheEnd(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == 4:
                last.set()

    Slow(monkeypatch, lambda _: last.is_set())
    trainer(tmp_path / "out", callback(busy="skip"), AtTheEnd()).train()
    assert steps(tmp_path) == [4, 1]


def test_a_busy_upload_does_not_let_the_best_be_skipped(
    tmp_path: Path, callback: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    Slow(monkeypatch, lambda step: step > 1 or bool(time.sleep(1)) or True)
    options = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "eval_loss", "max_steps": 3}
    job = trainer(tmp_path / "out", callback(busy="skip"), greater_is_better=False, **options)
    job.train()
    assert job.state.best_global_step == 3  # each is better than the one before
    assert steps(tmp_path) == [3, 2, 1]


class Preempted(TrainerCallback):
    """Sends itself a SIGTERM behind a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Trainer does not wait for a SIGKILL before it writes a checkpoint on SIGTERM."""
    jit = pytest.importorskip("transformers.trainer_jit_checkpoint")
    monkeypatch.setattr(jit.CheckpointManager.__init__, "__defaults__", (0,))


@pytest.mark.usefixtures("at_once")
def test_a_checkpoint_that_is_written_on_sigterm_is_committed(tmp_path: Path, callback: Any) -> None:
    options = {"enable_jit_checkpoint": True, "max_steps": 9, "save_steps": 4}
    job = trainer(tmp_path / "out", callback(), Preempted(5), **options)
    job.train()
    assert job.state.global_step == 6
    assert steps(tmp_path) == [5, 4]
    again = callback()
    trainer(tmp_path / "new", again)
    assert again.newest() == str(tmp_path / "new/checkpoint-5")
    assert contents(tmp_path / "new/checkpoint-5") == contents(tmp_path / "out/checkpoint-5")


class Asked(TrainerCallback):  # type: ignore[misc]
    """Asks for a last checkpoint amid a step."""

    def __init__(self, step: int, path: Path) -> None:
        self.step, self.path = step, path

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, control, kwargs
        if state.global_step == self.step:
            self.path.touch()


def test_who_is_asked_for_a_last_checkpoint_saves_at_once(
    tmp_path: Path, callback: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = tmp_path / "request"
    monkeypatch.setenv("CKPTSYNC_REQUEST_FILE", str(request))
    monkeypatch.setattr("ckptsync.requested._LOOK_S", 0.0)
    trainer(tmp_path / "out", callback(), Asked(2, request), max_steps=9, save_steps=8).train()
    assert steps(tmp_path) == [9, 8, 3]


@pytest.mark.usefixtures("at_once")
def test_a_checkpoint_that_is_written_twice_is_committed_as_it_is_at_last(
    tmp_path: Path, callback: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "out/checkpoint-4/trainer_state.json"
    first: list[int] = []

    def written_twice(_: int) -> bool:
        first.extend([state.stat().st_mtime_ns] if not first else [])
        return state.stat().st_mtime_ns != first[0]

    slow = Slow(monkeypatch, lambda step: len(slow.waited) > 0 or written_twice(step))
    options = {"enable_jit_checkpoint": True, "max_steps": 9, "save_steps": 4}
    trainer(tmp_path / "out", callback(), Preempted(4), **options).train()
    assert slow.waited == [4, 4]
    assert steps(tmp_path) == [4]
    again = callback()
    trainer(tmp_path / "new", again)
    again.newest()
    assert contents(tmp_path / "new/checkpoint-4") == contents(tmp_path / "out/checkpoint-4")


@pytest.mark.parametrize("max_steps", [1, 4])
def test_what_goes_wrong_ends_the_training(
    tmp_path: Path, callback: Any, monkeypatch: pytest.MonkeyPatch, max_steps: int
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StoreError("the bucket is gone")

    monkeypatch.setattr(uploads, "save", fail)
    job = trainer(tmp_path / "out", callback(), max_steps=max_steps)
    with pytest.raises(StoreError, match="the bucket is gone"):
        job.train()
    assert job.state.global_step == min(max_steps, 2)
    assert not list((tmp_path / "out").glob(".*"))


def test_who_was_overtaken_saves_no_more(tmp_path: Path, callback: Any) -> None:
    class Successor(TrainerCallback):
        def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == 2:
                (tmp_path / "other").write_text("x")
                with open_run(tmp_path / "run", Config(state_dir=str(tmp_path / "state"))) as run:
                    save(run, tmp_path / "other", step=7)

    with pytest.raises(FencedError):
        trainer(tmp_path / "out", callback(), Successor()).train()


def test_the_newest_comes_back_whole(tmp_path: Path, callback: Any) -> None:
    ours = callback()
    job = trainer(tmp_path / "out", ours)
    assert ours.newest() is None
    job.train()
    again = callback()
    trainer(tmp_path / "elsewhere", again)
    path = again.newest()
    assert path == str(tmp_path / "elsewhere/checkpoint-4")
    assert contents(Path(path)) == contents(tmp_path / "out/checkpoint-4")
    assert again.newest() == path
    assert again.newest(tmp_path / "third", snapshot=2) == str(tmp_path / "third/checkpoint-2")
    assert contents(tmp_path / "third/checkpoint-2") == contents(tmp_path / "out/checkpoint-2")
    with pytest.raises(NoSnapshotError):
        again.newest(snapshot=9)
    assert [entry.name for entry in (tmp_path / "third").iterdir()] == ["checkpoint-2"]


def test_a_damaged_snapshot_is_passed_over(tmp_path: Path, callback: Any, caplog: pytest.LogCaptureFixture) -> None:
    trainer(tmp_path / "out", callback()).train()
    for step in (4, 3):
        spoil(tmp_path, step=step)
    again = callback()
    trainer(tmp_path / "new", again)
    with caplog.at_level(logging.WARNING, logger="ckptsync"):
        assert again.newest() == str(tmp_path / "new/checkpoint-2")
    assert "the next older one is taken" in caplog.text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["checkpoint-2"]
    with pytest.raises(IntegrityError):
        again.newest(snapshot=4)


def test_what_was_not_durable_is_written_anew_on_the_same_disk(tmp_path: Path, callback: Any) -> None:
    trainer(tmp_path / "out", callback()).train()
    whole = contents(tmp_path / "out/checkpoint-4")["model.safetensors"]
    with open_run(tmp_path / "run") as run:
        run.store.delete([manifest_key(listed.id) for listed in run.catalog.listed() if listed.id.step == 4])
    torn = tmp_path / "out/checkpoint-4/model.safetensors"
    torn.write_bytes(torn.read_bytes()[:100])
    before = contents(tmp_path / "out/checkpoint-3")
    again = callback()
    job = trainer(tmp_path / "out", again)
    path = again.newest()
    assert path == str(tmp_path / "out/checkpoint-3")
    assert contents(Path(path)) == before
    job.train(resume_from_checkpoint=path)
    assert steps(tmp_path) == [4, 3, 2, 1]
    assert torn.read_bytes() == whole
    assert sorted(path.name for path in (tmp_path / "out").glob("*checkpoint*")) == [
        f"checkpoint-{step}" for step in (1, 2, 3, 4)
    ]


def test_the_best_model_is_brought_back_too(tmp_path: Path, callback: Any) -> None:
    best = {
        "eval_strategy": "steps",
        "eval_steps": 1,
        "metric_for_best_model": "eval_loss",
        "greater_is_better": True,
        "load_best_model_at_end": True,
    }
    trainer(tmp_path / "out", callback(keep=LatestN(1)), max_steps=3, **best).train()
    again = callback(keep=LatestN(1))
    job = trainer(tmp_path / "new", again, **best)
    path = again.newest()
    assert path == str(tmp_path / "new/checkpoint-3")
    state = SimpleNamespace(global_step=3, best_global_step=1, best_model_checkpoint=None)
    again.on_train_begin(job.args, state, job.control)
    assert state.best_model_checkpoint == str(tmp_path / "new/checkpoint-1")
    job.train(resume_from_checkpoint=path)
    assert job.state.best_model_checkpoint == str(tmp_path / "new/checkpoint-1")
    whole = trainer(tmp_path / "whole", **best)
    whole.train()
    for ours, theirs in zip(job.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert steps(tmp_path) == [4, 1]


@pytest.mark.parametrize("loss", ["gone", "damaged"])
def test_a_best_model_that_cannot_be_brought_back_is_told(
    tmp_path: Path, callback: Any, caplog: pytest.LogCaptureFixture, loss: str
) -> None:
    best = {"eval_strategy": "steps", "eval_steps": 1, "load_best_model_at_end": True, "greater_is_better": True}
    trainer(tmp_path / "out", callback(), max_steps=2, metric_for_best_model="eval_loss", **best).train()
    if loss == "gone":
        with open_run(tmp_path / "run") as run:
            run.store.delete([manifest_key(listed.id) for listed in run.catalog.listed() if listed.id.step == 1])
    else:
        spoil(tmp_path, step=1)
    again = callback()
    trainer(tmp_path / "new", again, metric_for_best_model="eval_loss", **best)
    with caplog.at_level(logging.WARNING, logger="ckptsync"):
        assert again.newest() == str(tmp_path / "new/checkpoint-2")
    assert "the best model was that of step 1, and cannot be brought back" in caplog.text
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["checkpoint-2"]


def test_what_cannot_be_is_refused(tmp_path: Path, callback: Any) -> None:
    with pytest.raises(ConfigError, match="'wait' or 'skip'"):
        callback(busy="never")
    with pytest.raises(ConfigError, match="give the callback to a Trainer first"):
        callback().newest(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("x")
    with open_run(tmp_path / "run", Config(state_dir=str(tmp_path / "state"))) as run:
        save(run, tmp_path / "other", step=7)
    ours = callback()
    trainer(tmp_path / "out", ours)
    with pytest.raises(ConfigError, match=r"has no trainer_state.json"):
        ours.newest()


def test_metrics_are_those_of_the_step() -> None:
    class State:
        log_history = (
            {"step": 2, "loss": 3.0, "eval_loss": 9.0, "epoch": 1},
            {"step": 3, "loss": 2.0, "flag": True, "note": "text"},
            {"step": 4, "eval_a:b_loss": 1.0, "epoch": 2},
        )

    assert metrics_of(State(), 4) == {"loss": 2.0, "epoch": 2.0, "eval_a_b_loss": 1.0}
