"""Folders of a step that no framework ties together: half of one is never whole, and nobody has to say when it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.checkpoints import deepspeed_tag, later, safetensors_file, sharded, torch_file, trainer_checkpoint

from ckptsync.readiness.names import family, number_in, number_of_unit
from ckptsync.readiness.recognise import Recogniser

pytestmark = pytest.mark.req(12)


def names(recogniser: Recogniser) -> list[str]:
    return [one.name for one in recogniser.look(2e9).checkpoints]


def step(folder: Path, number: int, *files: str) -> Path:
    for name in files or ("model.pt", "optimizer.pt", "rng.npy"):
        path = folder / f"step-{number}" / name
        if name.endswith(".pt"):
            torch_file(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"{}")
    return folder / f"step-{number}"


def test_the_first_is_whole_when_the_next_begins_and_later_ones_at_once(folder: Path) -> None:
    recogniser = Recogniser(folder)
    first = step(folder, 100)
    assert names(recogniser) == []
    (sentence,) = recogniser.look(2e9).waiting
    assert "step-100 is the first of its kind" in sentence
    step(folder, 200, "model.pt")
    (ready,) = recogniser.look(2e9).checkpoints
    assert (ready.name, ready.step, ready.rule) == ("step-100", 100, "torch")
    assert ready.paths == {f"step-100/{path.name}" for path in first.iterdir()}
    assert recogniser.look(2e9).waiting == ("step-200 has no optimizer.pt yet, as those before it have",)
    step(folder, 200)
    assert names(recogniser) == ["step-100", "step-200"]


def test_half_of_one_that_a_killed_training_left_is_not_whole_when_the_next_begins(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for number in (100, 200):
        step(folder, number)
    step(folder, 300, "model.pt")
    step(folder, 400)
    assert names(recogniser) == ["step-100", "step-200", "step-400"]


def test_who_saves_less_from_now_on_is_waited_for_twice(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for number in (100, 200, 300):
        step(folder, number)
    for number in (400, 500):
        step(folder, number, "model.pt")
        assert names(recogniser) == ["step-100", "step-200", "step-300"]
    step(folder, 600, "model.pt")
    assert names(recogniser)[-1] == "step-600"
    assert recogniser.look(2e9).waiting == ()  # those in between are of no interest any more


@pytest.mark.parametrize("whole", [[100], [100, 200], [100, 200, 300]])
def test_half_of_one_that_was_left_makes_no_habit(folder: Path, whole: list[int]) -> None:
    recogniser = Recogniser(folder)
    for number in whole:
        step(folder, number)
    step(folder, 310, "model.pt")
    names(recogniser)
    step(folder, 400, "model.pt")
    assert "step-400" not in names(recogniser)
    step(folder, 400)
    assert names(recogniser)[-1] == "step-400"
    step(folder, 500, "model.pt")
    assert names(recogniser)[-1] == "step-400"


def test_what_is_saved_every_other_time_is_no_part_of_all(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for number in range(1, 5):
        step(folder, number, "model.pt", *(["ema.pt"] if number % 2 == 0 else []))
        names(recogniser)
    for number in range(5, 9):
        step(folder, number, "model.pt", *(["ema.pt"] if number % 2 == 0 else []))
        assert names(recogniser)[-1] == f"step-{number}"


def test_what_is_deleted_before_the_next_begins_is_remembered(folder: Path) -> None:
    recogniser = Recogniser(folder)
    step(folder, 100)
    assert names(recogniser) == []
    shutil.rmtree(folder / "step-100")
    assert names(recogniser) == []
    step(folder, 200, "model.pt")
    assert names(recogniser) == []
    step(folder, 200)
    assert names(recogniser) == ["step-200"]
    for file in (folder / "step-200").iterdir():  # one file after the other
        file.unlink()
        names(recogniser)
    step(folder, 300, "model.pt")
    assert names(recogniser) == []


def test_a_training_that_ended_well_has_written_all(folder: Path) -> None:
    recogniser = Recogniser(folder)
    step(folder, 100)
    assert names(recogniser) == []
    recogniser.training_is_over()
    assert names(recogniser) == ["step-100"]


def test_the_end_of_a_training_weighs_less_than_two_before_that_have_more(folder: Path) -> None:
    recogniser = Recogniser(folder)
    step(folder, 100)
    step(folder, 200, "model.pt", "optimizer.pt")
    recogniser.training_is_over()
    assert names(recogniser) == ["step-100", "step-200"]
    recogniser = Recogniser(folder)
    step(folder, 200)
    step(folder, 300, "model.pt")
    recogniser.training_is_over()
    found = recogniser.look(2e9)
    assert [one.name for one in found.checkpoints] == ["step-100", "step-200"]
    assert found.lacking == found.unfinished == {"step-300/model.pt"}


def test_an_older_one_that_was_made_smaller_is_not_unfinished(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for number in (100, 200, 300):
        step(folder, number)
        names(recogniser)
    (folder / "step-200/optimizer.pt").unlink()
    found = recogniser.look(2e9)
    assert [one.name for one in found.checkpoints] == ["step-100", "step-300"]
    assert found.lacking == set()


def test_what_is_torn_is_not_whole_even_then(folder: Path) -> None:
    recogniser = Recogniser(folder)
    file = step(folder, 100) / "model.pt"
    file.write_bytes(file.read_bytes()[:-1])
    recogniser.training_is_over()
    assert names(recogniser) == []


def test_a_file_that_names_it_last_says_that_all_is_there(folder: Path) -> None:
    recogniser = Recogniser(folder)
    later(torch_file(folder / "iter_0000100/mp_rank_00/model_optim_rng.pt"))
    told = folder / "latest_checkpointed_iteration.txt"
    told.write_text("90")
    later(told)
    assert names(recogniser) == []
    told.write_text("100")
    later(told)
    assert [(one.name, one.step) for one in recogniser.look(2e9).checkpoints] == [("iter_0000100", 100)]
    later(folder / "iter_0000100/mp_rank_00/model_optim_rng.pt")
    assert names(recogniser) == []


@pytest.mark.parametrize(
    "files",
    [
        ("model.safetensors", "optimizer.bin", "scheduler.bin", "random_states_0.pkl"),  # Accelerate
        ("model.safetensors", "training_state.pt"),
        ("model/", "optim/"),
        ("model/", "config.json"),
        ("model.safetensors", "config.json", "optimizer.pt"),  # Transformers' save_pretrained, and more
    ],
)
@pytest.mark.parametrize("name", ["checkpoint_{}", "step-{}", "epoch{}", "iter_{:07}", "ep-{}"])
def test_one_file_less_is_not_whole(folder: Path, files: tuple[str, ...], name: str) -> None:
    def written(number: int, names: tuple[str, ...]) -> None:
        for one in names:
            path = folder / name.format(number) / one
            if one.endswith("/"):
                sharded(path)
            elif one.endswith(".safetensors"):
                safetensors_file(path)
            elif one.endswith((".pt", ".bin")):
                torch_file(path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(b"{}")

    for less in range(len(files)):
        recogniser = Recogniser(folder)
        written(1, files)
        written(2, files[:less] + files[less + 1 :])
        assert names(recogniser) == [name.format(1)]
        written(2, files)
        assert names(recogniser) == [name.format(1), name.format(2)]
        shutil.rmtree(folder)
        folder.mkdir()


def test_what_frameworks_tie_together_is_theirs(folder: Path) -> None:
    recogniser = Recogniser(folder)
    trainer_checkpoint(folder / "checkpoint-5")
    trainer_checkpoint(folder / "checkpoint-6")
    (folder / "checkpoint-6/trainer_state.json").unlink()
    deepspeed_tag(folder / "ds", "global_step8")
    recogniser.training_is_over()
    assert names(recogniser) == ["checkpoint-5", "ds/global_step8"]


def test_a_loop_may_call_its_folders_as_the_trainer_does(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for number in (1, 2):
        for name in ("model.pt", "optimizer.pt"):
            torch_file(folder / f"checkpoint-{number}" / name)
    assert names(recogniser) == ["checkpoint-1", "checkpoint-2"]


def test_folders_of_ranks_are_no_steps(folder: Path) -> None:
    for rank in range(2):
        torch_file(folder / f"version_{rank}" / "last.pt")
    assert names(Recogniser(folder)) == ["version_0/last.pt", "version_1/last.pt"]


def test_a_forced_rule_looks_at_its_own_files(folder: Path) -> None:
    for number in (1, 2):
        step(folder, number, "model.pt")
    assert names(Recogniser(folder, rule="torch")) == ["step-1", "step-2"]
    assert names(Recogniser(folder, rule="safetensors")) == []


@pytest.mark.parametrize(
    ("name", "unit", "number"),
    [
        ("step-100", 100, 100),
        ("epoch_3", 3, 3),
        ("ep3", 3, 3),
        ("it_100", 100, 100),
        ("global_100", 100, 100),
        ("gemma-it-7b", None, None),
        ("version_0", None, 0),
        ("optimizer_100", None, 100),
        ("run2b", None, None),
        ("last", None, None),
    ],
)
def test_names_tell_numbers(name: str, unit: int | None, number: int | None) -> None:
    assert (number_of_unit(name), number_in(name)) == (unit, number)
    assert family(f"a1/{name}") == f"a#/{family(name)}"


def test_a_number_may_have_a_sign_a_point_and_an_exponent() -> None:
    rewards = {family(f"reward_{number}.pt") for number in ("-12.5", "3", "+0.25", "1e-05", "2E+4")}
    assert rewards == {"reward_#.pt"}
    assert {family(f"step-{number}") for number in (1, 20)} == {"step-#"}
    assert family("5e2f.pt") == "#e#f.pt"


def test_a_script_may_call_its_folders_as_the_trainer_does_and_write_the_same_files(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for step in (100, 200, 300):
        made = trainer_checkpoint(folder / f"checkpoint-{step}", step=step)
        for name in ("trainer_state.json", "training_args.bin"):
            (made / name).unlink()
        looked = recogniser.look(0)
        assert [one.name for one in looked.snapshots] == [
            f"checkpoint-{number}" for number in range(100, step, 100)
        ] + ([f"checkpoint-{step}"] if step > 100 else [])
        assert looked.unfinished == frozenset()


def test_half_of_the_trainers_second_is_not_taken_for_a_scripts(folder: Path) -> None:
    for step in (100, 200):
        (trainer_checkpoint(folder / f"checkpoint-{step}", step=step) / "trainer_state.json").unlink()
    found = Recogniser(folder).look(0)
    assert found.snapshots == ()
    assert {path.partition("/")[0] for path in found.unfinished} == {"checkpoint-100", "checkpoint-200"}
