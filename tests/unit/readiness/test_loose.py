"""Files that are written over in place: which of them are checkpoints, and which are parts of one that nothing ties together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import later, safetensors_file, torch_file

from ckptsync.readiness.base import Ready
from ckptsync.readiness.recognise import Looked, Recogniser

pytestmark = pytest.mark.req(12)
Look = Callable[..., Looked]

PARTS = [
    ("model.pt", "optim.pt"),
    ("model.pt", "opt.pt"),
    ("model.pt", "optimizer.pt"),
    ("net.pt", "state.pt"),
    ("last.pt", "last_optim.pt"),
    ("ema.pt", "last.pt"),
    ("generator.pt", "discriminator.pt"),
    ("model/latest.pt", "optim/latest.pt"),
    ("model_state.pth", "optimizer_state.pth"),
    ("model_latest.pth", "optimizer_latest.pth"),
    ("bestModel.pt", "bestOptimizer.pt"),
    ("weights.pt", "optimizer_state_dict.pt"),
    ("pytorch_model.bin", "optimizer.bin", "scheduler.bin"),
    ("model.safetensors", "optimizer.pt"),
    ("model_rank0.pt", "model_rank1.pt"),
    ("model-00001-of-00002.pt", "model-00002-of-00002.pt"),
    ("model.pt", "epoch.pt"),
    ("model.pt", "checkpoint.pt"),
]
STATES = [
    ("step_100.pt", "interrupted.pt"),
    ("last.pt", "emergency_checkpoint.pt"),
    ("last.pt", "best.pt"),
    ("model_last.pt", "model_best.pt"),
    ("best_model.pt", "last.pt"),
    ("best_acc.pt", "best_val_loss.pt", "checkpoint.pt"),
    ("unet-latest.ckpt", "unet-best.ckpt"),
    ("last/model.pt", "best/model.pt"),
    ("checkpoint.pth.tar", "model_best.pth.tar"),
    ("rank0_last.pt", "rank0_best.pt"),
]


def written(folder: Path, name: str, version: int = 1) -> None:
    """Write a file once more, later than all before."""
    path = folder / name.replace("%d", str(version))
    later(safetensors_file(path) if name.endswith(".safetensors") else torch_file(path))


def newest(looked: Looked) -> Ready:
    return looked.snapshots[-1]


@pytest.mark.parametrize("names", PARTS, ids=" ".join)
def test_parts_are_never_taken_one_by_one(folder: Path, names: tuple[str, ...]) -> None:
    recogniser = Recogniser(folder)
    assert recogniser.look(0).snapshots == ()
    alone = set()
    for _ in range(4):
        for name in names:
            written(folder, name)
            alone |= {one.paths for one in recogniser.look(0).snapshots}
    assert alone <= {frozenset({"last.pt"})}, "while no second is there, a name that says that it is all counts"
    (why,) = recogniser.look(0).waiting
    assert all(name in why for name in names)
    assert "mark them" in why


@pytest.mark.parametrize("names", PARTS, ids=" ".join)
def test_all_parts_are_taken_when_the_training_has_ended_well(folder: Path, names: tuple[str, ...]) -> None:
    recogniser = Recogniser(folder)
    recogniser.look(0)
    for name in names:
        written(folder, name)
    (folder / names[0]).with_name("random_states_0.pkl").write_bytes(b"state")
    recogniser.look(0)
    recogniser.training_is_over()
    looked = recogniser.look(0)
    assert looked.waiting == ()
    assert newest(looked).paths == {*names, str(Path(names[0]).with_name("random_states_0.pkl"))}


@pytest.mark.parametrize("since_first_look", [True, False])
def test_parts_that_a_killed_training_left_are_not_another_ones(folder: Path, since_first_look: bool) -> None:  # noqa: FBT001  parametrized
    for name in ("generator.pt", "discriminator.pt"):
        written(folder, name)
    recogniser = Recogniser(folder)
    recogniser.look(0)
    recogniser.training_is_over(since_first_look=since_first_look)
    assert [one.paths for one in recogniser.look(0).snapshots] == (
        [] if since_first_look else [{"generator.pt", "discriminator.pt"}]
    )


def test_what_was_written_before_the_first_save_comes_along(folder: Path) -> None:
    recogniser = Recogniser(folder)
    recogniser.look(0)
    for name in ("vocab.pt", "latest.pt", "latest.pt", "latest.pt"):
        written(folder, name)
        recogniser.look(0)
    assert newest(recogniser.look(0)).paths == {"vocab.pt", "latest.pt"}


def test_the_first_pair_of_numbered_files_is_taken_when_the_next_begins(folder: Path) -> None:
    recogniser = Recogniser(folder)
    recogniser.look(0)
    taken = []
    for step in (100, 200):
        for name in ("model_%d.pt", "optimizer_%d.pt"):
            written(folder, name, step)
            taken.append([one.paths for one in recogniser.look(0).snapshots])
    first, second = ({f"model_{step}.pt", f"optimizer_{step}.pt"} for step in (100, 200))
    assert taken == [[], [], [first], [first, second]]


def test_a_numbered_file_that_says_that_it_is_all_is_taken_at_once(folder: Path) -> None:
    recogniser = Recogniser(folder)
    recogniser.look(0)
    written(folder, "epoch_%d.pt", 1)
    assert newest(recogniser.look(0)).paths == {"epoch_1.pt"}


def test_what_is_written_over_just_now_is_waited_for(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for name in ("last.pt", "best.pt"):
        written(folder, name)
    recogniser.look(0)
    whole = (folder / "best.pt").read_bytes()
    written(folder, "last.pt")
    (folder / "best.pt").write_bytes(whole[:-40])
    later(folder / "best.pt")
    looked = recogniser.look(0)
    assert looked.snapshots == ()
    assert "best.pt is not whole, and was before" in str(looked.waiting)
    for _ in range(2):  # nobody writes the other any more
        written(folder, "last.pt")
        looked = recogniser.look(0)
    assert newest(looked).paths == {"last.pt"}


def test_trainings_beside_each_other_all_come_along(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for fold in range(3):
        for _ in range(3):
            written(folder, f"fold_{fold}/last.pt")
            recogniser.look(0)
    assert newest(recogniser.look(0)).paths == {f"fold_{fold}/last.pt" for fold in range(3)}


@pytest.mark.parametrize("names", STATES, ids=" ".join)
def test_states_of_the_same_thing_are_taken_at_once_and_together(folder: Path, names: tuple[str, ...]) -> None:
    recogniser = Recogniser(folder)
    recogniser.look(0)
    written(folder, names[0])
    for name in (*names[1:], *names):
        written(folder, name)
        looked = recogniser.look(0)
        assert (newest(looked).name, looked.waiting) == (name, ())
    assert newest(recogniser.look(0)).paths == set(names)


def test_what_stays_while_another_is_written_twice_is_no_part_of_it(folder: Path) -> None:
    recogniser = Recogniser(folder)
    written(folder, "vocabulary.pt")
    taken = []
    for _ in range(3):
        written(folder, "latest.pt")
        taken.append([one.paths for one in recogniser.look(0).snapshots])
    assert taken == [[], [{"latest.pt", "vocabulary.pt"}], [{"latest.pt", "vocabulary.pt"}]]


def test_after_a_restart_one_save_tells_it_again(folder: Path) -> None:
    for name in ("vocabulary.pt", "latest.pt"):
        written(folder, name)
    recogniser = Recogniser(folder)
    assert recogniser.look(0).snapshots == ()
    written(folder, "latest.pt")
    assert newest(recogniser.look(0)).paths == {"latest.pt", "vocabulary.pt"}


def test_one_file_in_place_beside_one_for_each_step(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for version in range(1, 4):
        written(folder, "model_%d.pt", version)
        found = [one.paths for one in recogniser.look(0).snapshots]
        assert found == ([{"model_1.pt"}] if version == 1 else [])
        written(folder, "optim.pt")
        assert recogniser.look(0).snapshots == ()
    recogniser.training_is_over()
    assert newest(recogniser.look(0)).paths == {"model_3.pt", "optim.pt"}


def test_one_that_never_changes_beside_one_for_each_step(folder: Path) -> None:
    recogniser = Recogniser(folder)
    written(folder, "embeddings.pt")
    for version in (1, 2, 3):
        written(folder, "model_%d.pt", version)
        found = {one.name: one.paths for one in recogniser.look(0).snapshots}
        assert found.get(f"model_{version}.pt") == (None if version == 1 else {f"model_{version}.pt", "embeddings.pt"})


def test_a_part_that_is_being_written_holds_the_others_back(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for name in ("last.pt", "last_optim.pt"):
        written(folder, name)
    recogniser.look(0)
    whole = (folder / "last_optim.pt").read_bytes()
    written(folder, "last.pt")
    (folder / "last_optim.pt").write_bytes(whole[:-40])
    looked = recogniser.look(0)
    assert looked.snapshots == ()
    assert looked.unfinished == {"last_optim.pt"}


def test_what_was_torn_before_holds_others_back_until_it_is_overtaken(folder: Path) -> None:
    whole = torch_file(folder / "left.pt").read_bytes()
    (folder / "left.pt").write_bytes(whole[:-40])
    later(folder / "left.pt")
    recogniser = Recogniser(folder)
    taken = []
    for _ in range(3):
        taken.append([one.paths for one in recogniser.look(0).snapshots])
        written(folder, "latest.pt")
    assert taken == [[], [], [{"latest.pt"}]]


def test_a_part_whose_other_is_torn_is_not_taken_for_all(folder: Path, looked: Look) -> None:
    for name in ("generator.pt", "discriminator.pt"):
        written(folder, name)
    (folder / "discriminator.pt").write_bytes((folder / "discriminator.pt").read_bytes()[:-40])
    found = looked()
    assert (found.snapshots, found.unfinished) == ((), {"discriminator.pt"})


@pytest.mark.parametrize(
    "name", ["step-{}-rank{}.pt", "shards/model_{}_shard-{}.safetensors", "step{}_0000{}-of-00002.pt"]
)
def test_what_each_rank_writes_for_a_step_belongs_together(folder: Path, name: str) -> None:
    recogniser = Recogniser(folder)
    first, second, third, fourth = (name.format(step, rank) for step in (100, 200) for rank in (0, 1))
    seen = []
    for path in (first, second, third, fourth):
        written(folder, path)
        seen.append([one.paths for one in recogniser.look(0).snapshots])
    assert seen[:3] == [[], [], [{first, second}]]
    assert newest(recogniser.look(0)).paths == {third, fourth}


def test_the_first_of_a_name_that_tells_nothing_is_waited_for_unless_it_holds_an_optimizer(folder: Path) -> None:
    recogniser = Recogniser(folder)
    recogniser.look(0)
    written(folder, "net.pt")
    looked = recogniser.look(0)
    assert looked.snapshots == ()
    assert "may be the first part" in looked.waiting[0]
    written(folder, "net.pt")
    assert newest(recogniser.look(0)).paths == {"net.pt"}


def test_what_holds_an_optimizer_is_taken_at_once(folder: Path) -> None:
    recogniser = Recogniser(folder)
    recogniser.look(0)
    later(torch_file(folder / "net.pt", optimizer_state_dict={}))
    assert newest(recogniser.look(0)).paths == {"net.pt"}


def test_what_was_there_before_is_taken_at_once(folder: Path, looked: Look) -> None:
    written(folder, "net.pt")
    assert newest(looked()).paths == {"net.pt"}


def test_a_part_alone_is_taken_at_the_end_only(folder: Path) -> None:
    written(folder, "optimizer.pt")
    recogniser = Recogniser(folder)
    for _ in range(3):
        looked = recogniser.look(0)
        assert looked.snapshots == ()
        assert "no rest of it is there" in looked.waiting[0]
        written(folder, "optimizer.pt")
    recogniser.training_is_over()
    assert newest(recogniser.look(0)).paths == {"optimizer.pt"}
