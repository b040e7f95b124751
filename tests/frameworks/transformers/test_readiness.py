"""What the Trainer writes, watched without a pause: whatever is called whole is resumed from."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from frameworks.transformers.test_callback import trainer
from support.watching import Watching

from ckptsync.readiness.recognise import look

pytestmark = [pytest.mark.req(12), pytest.mark.filterwarnings("default")]  # of other people's packages


def test_every_checkpoint_of_the_trainer_that_is_whole_can_be_resumed_from(tmp_path: Path) -> None:
    with Watching(tmp_path / "watched", tmp_path / "taken") as watching:
        trainer(tmp_path / "watched", eval_strategy="steps", eval_steps=1, save_total_limit=3).train()
    assert {"huggingface"} == {ready.rule for ready, _ in watching.taken}
    assert watching.taken[-1][0].name == "checkpoint-4"
    for ready, place in watching.taken:
        assert json.loads((place / ready.name / "trainer_state.json").read_text())["global_step"] == ready.step
        assert {"loss", "eval_loss"} <= ready.metrics.keys()
        resumed = trainer(tmp_path / f"again-{ready.step}", max_steps=5, save_strategy="no")
        assert resumed.train(resume_from_checkpoint=str(place / ready.name)).global_step == 5


def test_the_last_model_is_no_checkpoint(tmp_path: Path) -> None:
    job = trainer(tmp_path / "watched", max_steps=1)
    job.train()
    job.save_model()
    job.save_state()
    with Watching(tmp_path / "watched", tmp_path / "taken") as watching:
        pass
    assert [ready.name for ready, _ in watching.taken] == ["checkpoint-1"]
    assert not watching.waiting


def test_the_best_so_far_comes_along_with_the_newest(tmp_path: Path) -> None:
    how = {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": True}
    trainer(tmp_path / "watched", eval_strategy="steps", eval_steps=1, save_total_limit=2, **how).train()
    newest = look(tmp_path / "watched", now_s=time.time()).snapshots[-1]
    best = Path(json.loads((tmp_path / "watched/checkpoint-4/trainer_state.json").read_text())["best_model_checkpoint"])
    assert newest.name == "checkpoint-4"
    assert {path.partition("/")[0] for path in newest.paths} == {"checkpoint-4", best.name}
    assert best.name != "checkpoint-4"
