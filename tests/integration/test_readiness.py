"""What torch writes, watched without a pause: whatever is called whole can be loaded."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from support.watching import Watching

pytestmark = [
    pytest.mark.req(12),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
    pytest.mark.filterwarnings("ignore:Detected an existing checkpoint:UserWarning"),
]
VALUES = 500_000
ROUNDS = 25


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_files_of_torch_save_written_in_place(tmp_path: Path, legacy: bool) -> None:  # noqa: FBT001  parametrized
    with Watching(tmp_path / "watched", tmp_path / "taken") as watching:
        for step in range(ROUNDS):
            state = {"w": torch.full((VALUES,), float(step)), "step": step}
            for name in ("last.pt", f"model_{step}.pt"):
                torch.save(state, tmp_path / "watched" / name, _use_new_zipfile_serialization=not legacy)
    assert watching.taken[-1][0].step == ROUNDS - 1
    assert {ready.step for ready, _ in watching.taken} == set(range(ROUNDS))
    for ready, place in watching.taken:
        state = torch.load(place / ready.name, weights_only=True)
        assert (state["step"], float(state["w"].min()), float(state["w"].max())) == (ready.step, ready.step, ready.step)


def test_a_file_that_is_written_slowly(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(VALUES), "step": 1}, buffer)
    content = buffer.getvalue()
    with Watching(tmp_path / "watched", tmp_path / "taken") as watching:
        for _ in range(3):
            with (tmp_path / "watched/a.pt").open("wb", buffering=0) as file:
                for at in range(0, len(content), 10_007):
                    file.write(content[at : at + 10_007])
    assert watching.waiting
    for ready, place in watching.taken:
        torch.load(place / ready.name, weights_only=True)
    assert watching.taken


def test_sharded_checkpoints_new_and_written_over(tmp_path: Path) -> None:
    with Watching(tmp_path / "watched", tmp_path / "taken") as watching:
        for step in range(ROUNDS):
            state = {name: torch.full((VALUES,), float(step)) for name in ("a", "b")}
            for name in ("last", f"step-{step}"):
                dcp.save(state, checkpoint_id=tmp_path / "watched" / name)
    assert {ready.step for ready, _ in watching.taken} >= set(range(ROUNDS))
    for ready, place in watching.taken:
        state = {name: torch.empty(VALUES) for name in ("a", "b")}
        dcp.load(state, checkpoint_id=place / ready.name)
        assert len({*state["a"].unique().tolist(), *state["b"].unique().tolist()}) == 1
