"""What Lightning writes, watched without a pause: whatever is called whole is resumed from."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from frameworks.lightning.jobs import fit
from lightning.pytorch.callbacks import ModelCheckpoint
from support.watching import Watching

from ckptsync.readiness.recognise import look

pytestmark = [
    pytest.mark.req(12),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def test_every_checkpoint_of_lightning_that_is_whole_can_be_resumed_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = ModelCheckpoint(tmp_path / "watched", every_n_train_steps=6, save_top_k=-1, save_last=True)
    with Watching(tmp_path / "watched", tmp_path / "taken") as watching:
        fit([kept], max_epochs=2)
    assert {ready.rule for ready, _ in watching.taken} == {"lightning"}
    assert {ready.step for ready, _ in watching.taken} >= {6, 12, 18, 24}
    for ready, place in watching.taken:
        assert torch.load(place / ready.name, weights_only=False)["global_step"] == ready.step
    ready, place = watching.taken[0]
    assert fit([], max_epochs=3, ckpt_path=str(place / ready.name)).global_step == 36


def test_the_best_so_far_comes_along_with_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    kept = ModelCheckpoint(
        tmp_path / "watched", every_n_train_steps=6, monitor="step", mode="min", save_top_k=2, save_last=True
    )
    fit([kept], max_epochs=2)
    newest = look(tmp_path / "watched", now_s=time.time()).snapshots[-1]
    assert newest.name == "last.ckpt"
    assert newest.paths == {"last.ckpt", "epoch=0-step=12.ckpt", "epoch=0-step=6.ckpt"}
    assert Path(kept.best_model_path).name == "epoch=0-step=6.ckpt"
