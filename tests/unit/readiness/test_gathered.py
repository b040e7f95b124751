"""What one snapshot holds: all that a training needs to go on from it on an empty disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import later, safetensors_file, sharded, torch_file, trainer_checkpoint

from ckptsync.readiness.base import Ready
from ckptsync.readiness.recognise import Looked, Recogniser

pytestmark = pytest.mark.req(12)
Look = Callable[..., Looked]


def newest(looked: Looked) -> Ready:
    return looked.snapshots[-1]


def test_last_and_best_come_together_whichever_is_newer(folder: Path, looked: Look) -> None:
    last, best = torch_file(folder / "last.pt", step=7), torch_file(folder / "best.pt")
    later(last)
    for newer in (best, last, best):
        later(newer)
        (one,) = looked().snapshots
        assert (one.name, one.paths, one.step) == (newer.name, {"last.pt", "best.pt"}, 7)
        assert one.beside == {"last.pt", "best.pt"} - {newer.name}


def test_steps_of_a_kind_are_one_snapshot_each(folder: Path, looked: Look) -> None:
    later(*(torch_file(folder / f"step-{number}.pt") for number in (1, 2, 3)))
    later(torch_file(folder / "best.pt"))
    later(torch_file(folder / "step-4.pt"))
    found = looked().snapshots
    assert [(one.name, one.step) for one in found] == [
        ("step-1.pt", 1),
        ("step-2.pt", 2),
        ("step-3.pt", 3),
        ("step-4.pt", 4),
    ]
    assert found[-1].paths == {"step-4.pt", "best.pt"}
    assert all(one.paths == {one.name} for one in found[:-1])


def test_what_has_the_same_number_belongs_together(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for number in (90, 100):
        later(torch_file(folder / f"model_{number}.pt"))
        later(torch_file(folder / f"optimizer_{number}.pt"))
        later(safetensors_file(folder / f"ema_{number}.safetensors"))
    found = recogniser.look(0)
    assert [(one.step, len(one.paths)) for one in found.snapshots] == [(90, 3), (100, 3)]
    later(torch_file(folder / "model_110.pt"))
    found = recogniser.look(0)
    assert [one.step for one in found.snapshots] == [90, 100]
    assert found.waiting == ("model_110.pt has no ema_#.safetensors beside it yet, as those before it have",)
    later(torch_file(folder / "optimizer_110.pt"))
    assert [one.step for one in recogniser.look(0).snapshots] == [90, 100]
    later(safetensors_file(folder / "ema_110.safetensors"))
    assert newest(recogniser.look(0)).paths == {"model_110.pt", "optimizer_110.pt", "ema_110.safetensors"}


@pytest.mark.parametrize("older", [1, 2])
def test_the_end_of_a_training_weighs_more_than_one_before_and_less_than_two(folder: Path, older: int) -> None:
    recogniser = Recogniser(folder)
    for number in (90, 100)[-older:]:
        later(torch_file(folder / f"model_{number}.pt"))
        later(torch_file(folder / f"ema_{number}.pt"))
    later(torch_file(folder / "model_110.pt"))
    assert recogniser.look(0).lacking == recogniser.look(0).unfinished == {"model_110.pt"}
    recogniser.training_is_over()
    found = recogniser.look(0)
    if older == 1:
        assert (newest(found).step, newest(found).paths) == (110, {"model_110.pt", "ema_100.pt", "model_100.pt"})
        assert found.lacking == set()
    else:
        assert (newest(found).step, newest(found).paths) == (100, {"ema_100.pt", "model_100.pt"})
        assert found.lacking == {"model_110.pt"}


def test_half_of_a_step_that_was_left_makes_no_habit(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for number in (10, 20, 30):
        later(torch_file(folder / f"model_{number}.pt"))
        later(torch_file(folder / f"optimizer_{number}.pt"))
    later(torch_file(folder / "model_31.pt"))
    later(torch_file(folder / "model_40.pt"))
    assert newest(recogniser.look(0)).step == 30
    later(torch_file(folder / "optimizer_40.pt"))
    assert newest(recogniser.look(0)).step == 40
    later(torch_file(folder / "model_50.pt"))
    assert newest(recogniser.look(0)).step == 40


def test_the_best_of_one_step_is_not_wanted_of_the_next(folder: Path) -> None:
    recogniser = Recogniser(folder)
    for name in ("epoch_1.pt", "best_1.pt", "epoch_2.pt"):
        later(torch_file(folder / name))
    found = recogniser.look(0)
    assert newest(found).name == "epoch_2.pt"
    assert found.lacking == set()
    for name in ("optimizer_last_3.pt", "model_last_3.pt", "optimizer_last_4.pt"):
        later(torch_file(folder / name))
    assert recogniser.look(0).lacking == {"optimizer_last_4.pt"}


def test_folders_beside_each_other_are_all_needed(folder: Path, looked: Look) -> None:
    for name in ("generator", "discriminator"):
        for number in (1, 2):
            later(torch_file(folder / name / f"step-{number}.pt"))
    one = newest(looked())
    assert one.paths == {"discriminator/step-2.pt", "generator/step-2.pt"}


def test_one_run_of_a_framework_follows_another(folder: Path, looked: Look) -> None:
    for version in (0, 1):
        state = {"pytorch-lightning_version": "2", "global_step": 4}
        later(torch_file(folder / f"lightning_logs/version_{version}/checkpoints/epoch=0-step=4.ckpt", **state))
    assert newest(looked()).paths == {"lightning_logs/version_1/checkpoints/epoch=0-step=4.ckpt"}


def test_links_and_small_files_that_name_it_come_along(folder: Path, looked: Look) -> None:
    later(torch_file(folder / "step-90.pt"))
    later(torch_file(folder / "step-100.pt"))
    (folder / "latest.pt").symlink_to("step-100.pt")
    (folder / "older.pt").symlink_to("step-90.pt")
    for name, text in (
        ("latest", "step-100.pt\n"),
        ("last.json", '{"path": "/a/b/step-100.pt", "loss": 0.5}'),
        ("iteration", "100"),
        ("other", "step-1000.pt"),
        ("before", "step-90.pt"),
        (".hidden", "step-100.pt"),
        ("log.txt", "x" * 4096 + "step-100.pt"),
    ):
        (folder / name).write_text(text)
    (folder / "bytes").write_bytes(b"\xff\xfestep-100.pt")
    one = newest(looked())
    assert one.beside == {"latest.pt", "latest", "last.json", "iteration"}
    assert one.paths - one.beside == {"step-100.pt"}


def test_a_link_beside_a_folder_comes_along(folder: Path, looked: Look) -> None:
    later(trainer_checkpoint(folder / "checkpoint-5"))
    sharded(folder / "step-6")
    (folder / "last-checkpoint").symlink_to("checkpoint-5")
    found = {one.name: one for one in looked().checkpoints}
    assert set(found) == {"checkpoint-5", "step-6"}
    one = newest(looked())
    assert "last-checkpoint" in one.paths
    assert {path.partition("/")[0] for path in one.paths} == {"checkpoint-5", "step-6", "last-checkpoint"}


def test_a_later_step_that_comes_later_is_newer_whatever_its_time(folder: Path) -> None:
    recogniser = Recogniser(folder)
    later(torch_file(folder / "step-100.pt"), torch_file(folder / "step-200.pt"))
    recogniser.look(0)
    os.utime(torch_file(folder / "step-300.pt"), (1, 1))  # the clock was set back
    assert newest(recogniser.look(0)).name == "step-300.pt"
    os.utime(torch_file(folder / "step-50.pt"), (1, 1))  # somebody copied an old one
    assert newest(recogniser.look(0)).name == "step-300.pt"
    os.utime(torch_file(folder / "step-310.pt"), (2, 2))
    assert newest(recogniser.look(0)).name == "step-310.pt"
    later(torch_file(folder / "step-110.pt"))  # the training went back
    assert newest(recogniser.look(0)).name == "step-110.pt"


def test_an_empty_directory_has_none(looked: Look) -> None:
    assert looked().snapshots == ()


def test_the_best_that_a_trainer_names_comes_along(folder: Path, looked: Look) -> None:
    for step in (20, 30, 50):
        trainer_checkpoint(folder / f"checkpoint-{step}", step=step, best_model_checkpoint="out\\run/checkpoint-20")
    one = newest(looked())
    assert (one.name, one.step) == ("checkpoint-50", 50)
    assert {path.partition("/")[0] for path in one.paths} == {"checkpoint-50", "checkpoint-20"}
    assert {path.partition("/")[0] for path in one.beside} == {"checkpoint-20"}


def test_a_best_that_is_gone_is_nobodys(folder: Path, looked: Look) -> None:
    trainer_checkpoint(folder / "checkpoint-30", step=30)
    trainer_checkpoint(folder / "checkpoint-50", step=50, best_model_checkpoint="out/checkpoint-20")
    assert {path.partition("/")[0] for path in newest(looked()).paths} == {"checkpoint-50"}


def test_the_best_that_lightning_names_comes_along(folder: Path, looked: Look) -> None:
    for step in (10, 30, 40):
        later(
            torch_file(
                folder / f"runs/epoch=1-step={step}.ckpt",
                callbacks={
                    "ModelCheckpoint": {"monitor": "loss", "best_model_path": "/elsewhere/epoch=1-step=30.ckpt"}
                },
                global_step=step,
                **{"pytorch-lightning_version": "2.5"},
            )
        )
    one = newest(looked())
    assert (one.step, one.paths) == (40, {"runs/epoch=1-step=40.ckpt", "runs/epoch=1-step=30.ckpt"})
