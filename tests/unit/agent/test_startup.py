"""What stands in the directory before the command starts."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.checkpoints import trainer_checkpoint

from ckptsync.agent.startup import Begun, bring_newest
from ckptsync.errors import ConfigError
from ckptsync.options import Config
from ckptsync.run import Run, open_run
from ckptsync.verbs.save import save


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with open_run(str(tmp_path / "bucket"), Config(state_dir=str(tmp_path / "state"))) as found:
        yield found


def write(path: Path, value: int, **state: int) -> None:
    path.parent.mkdir(exist_ok=True)
    torch.save({**state, "weights": torch.full((4,), value)}, path)


def begun(run: Run, directory: Path) -> Begun:
    return bring_newest(run, directory, rule="auto", quiet_s=None)


def committed(run: Run, folder: Path, step: int) -> None:
    write(folder / f"step-{step}.pt", step)
    save(run, folder, step=step)


def test_without_a_snapshot_it_starts_from_zero(run: Run, tmp_path: Path) -> None:
    assert begun(run, tmp_path / "a" / "b") == Begun()
    assert (tmp_path / "a" / "b").is_dir()
    write(tmp_path / "full" / "step-3.pt", 3)
    assert begun(run, tmp_path / "full") == Begun()
    assert (tmp_path / "full" / "step-3.pt").exists()


def test_an_empty_disk_gets_the_newest(run: Run, tmp_path: Path) -> None:
    committed(run, tmp_path / "one", 1)
    committed(run, tmp_path / "two", 2)
    found = begun(run, tmp_path / "here")
    assert found.restored is not None
    assert found.restored.step == 2
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["step-2.pt"]


def test_what_the_bucket_has_not_got_yet_stays(run: Run, tmp_path: Path) -> None:
    committed(run, tmp_path / "one", 1)
    here = tmp_path / "here"
    write(here / "step-2.pt", 2)
    write(here / "step-1.pt", 1)
    assert begun(run, here) == Begun(kept="step-2.pt", step=1)
    assert sorted(path.name for path in here.iterdir()) == ["step-1.pt", "step-2.pt"]


@pytest.mark.parametrize("inside", [None, "metrics.json", "sub/config.yaml"])
def test_a_folder_in_which_nothing_of_a_checkpoint_is_yet_is_out_of_the_way(
    run: Run, tmp_path: Path, inside: str | None
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for step in (1, 2, 3):
        write(here / f"step-{step}/model.pt", step)
        (here / f"step-{step}/metrics.json").write_text("{}")
    save(run, here, step=3)
    for name in ("step-4", "logs-5"):
        path = here / name / (inside or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}") if inside else path.mkdir()
    aside = begun(run, here).aside
    assert aside is not None
    assert [path.name for path in aside.iterdir()] == ["step-4"]
    assert sorted(path.name for path in here.iterdir()) == ["logs-5", "step-1", "step-2", "step-3"]
    assert begun(run, here).aside is None


@pytest.mark.parametrize("rule", ["auto", "marker"])
def test_a_folder_that_may_be_a_checkpoint_stays(run: Run, tmp_path: Path, rule: str) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for step in (1, 2):
        write(here / f"step-{step}/model.pt", step)
    (here / "step-1/.ckptsync-ready").touch()
    save(run, here, step=1)
    (here / "step-3").mkdir()
    (here / "step-3/weights.bin").write_bytes(b"0")
    assert bring_newest(run, here, rule=rule, quiet_s=None).aside is None
    assert (here / "step-2/model.pt").exists()


def test_what_older_ones_have_lost_since_is_missed_in_half_of_a_new_one(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for step in (1, 2, 3, 4, 5):
        for name in ("model.pt", "optimizer.pt"):
            write(here / f"step-{step}/{name}", step)
        save(run, here, step=step)
        if step < 5:
            (here / f"step-{step}/optimizer.pt").unlink()  # as a training may, to keep the disk small
    write(here / "step-6/model.pt", 6)
    found = begun(run, here)
    assert (found.kept, found.step) == ("step-5", 5)
    assert found.aside is not None
    assert [path.name for path in found.aside.iterdir()] == ["step-6"]
    for name in ("model.pt", "optimizer.pt"):
        write(here / f"step-6/{name}", 6)
    found = begun(run, here)
    assert (found.kept, found.aside) == ("step-6", None)


def test_what_is_saved_every_other_time_is_not_missed(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for step in (1, 2, 3, 4, 5):
        for name in ("model.pt", "ema.pt")[: 1 + step % 2]:
            write(here / f"step-{step}/{name}", step)
        save(run, here, step=step)
    write(here / "step-6/model.pt", 6)
    found = begun(run, here)
    assert (found.kept, found.aside) == ("step-6", None)


def test_the_newest_that_stands_there_is_not_fetched(run: Run, tmp_path: Path) -> None:
    committed(run, tmp_path / "one", 1)
    here = tmp_path / "here"
    assert begun(run, here).restored is not None
    write(here / "step-0.pt", 0)
    assert begun(run, here) == Begun(kept="step-1.pt", step=1)
    assert sorted(path.name for path in here.iterdir()) == ["step-0.pt", "step-1.pt"]


@pytest.mark.parametrize("damage", ["half", "older", "other"])
def test_what_is_behind_or_broken_is_replaced_and_kept_aside(run: Run, tmp_path: Path, damage: str) -> None:
    committed(run, tmp_path / "one", 5)
    here = tmp_path / "here"
    write(here / ("step-4.pt" if damage == "older" else "step-6.pt" if damage == "half" else "step-5.pt"), 9)
    if damage == "half":
        os.truncate(here / "step-6.pt", 100)
    found = begun(run, here)
    assert found.restored is not None
    assert found.restored.step == 5
    assert [path.name for path in here.iterdir()] == ["step-5.pt"]
    assert len(found.restored.kept) == 1


def test_without_a_step_the_files_times_decide(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "one" / "model.pt", 1)
    save(run, tmp_path / "one", step=1)
    here = tmp_path / "here"
    write(here / "model.pt", 2)
    assert begun(run, here) == Begun(kept="model.pt", step=1)
    os.utime(here / "model.pt", (1, 1))
    assert begun(run, here).restored is not None


def test_what_another_machine_has_overtaken_is_replaced_though_its_step_is_later(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    committed(run, here, 40)
    committed(run, tmp_path / "elsewhere", 10)
    found = begun(run, here)
    assert found.restored is not None
    assert found.restored.step == 10
    assert [path.name for path in here.iterdir()] == ["step-10.pt"]
    write(here / "step-40.pt", 40)
    os.utime(here / "step-40.pt", (1, 1))
    assert begun(run, here) == Begun(kept="step-10.pt", step=10, aside=tmp_path / "here.unfinished-1")
    assert [path.name for path in here.iterdir()] == ["step-10.pt"]


@pytest.mark.parametrize("is_first", [False, True])
def test_what_is_half_written_is_put_aside(run: Run, tmp_path: Path, is_first: bool) -> None:  # noqa: FBT001  parametrized
    here = tmp_path / "here"
    here.mkdir()
    if not is_first:
        committed(run, here, 1)
    torn = trainer_checkpoint(here / "checkpoint-30", step=30)
    (torn / "trainer_state.json").unlink()
    write(here / "runs" / "step-3.pt", 3)
    os.truncate(here / "runs" / "step-3.pt", 100)
    (here / "runs" / "events").write_text("log")
    found = begun(run, here)
    assert (found.kept, found.aside) == (None if is_first else "step-1.pt", tmp_path / "here.unfinished-1")
    left = {str(path.relative_to(here)) for path in here.rglob("*")}
    assert left == {"runs", "runs/events"} | (set() if is_first else {"step-1.pt"})
    assert (tmp_path / "here.unfinished-1" / "checkpoint-30" / "model.safetensors").exists()
    assert (tmp_path / "here.unfinished-1" / "runs" / "step-3.pt").exists()
    assert begun(run, here).aside is None


@pytest.mark.parametrize("is_first", [False, True])
def test_half_of_a_pair_is_put_aside(run: Run, tmp_path: Path, is_first: bool) -> None:  # noqa: FBT001  parametrized
    here = tmp_path / "here"
    for name in ("model_1.pt", "optimizer_1.pt"):
        write(here / name, 1)
    if not is_first:
        save(run, here, step=1)
    write(here / "optimizer_2.pt", 2)
    assert begun(run, here).aside == tmp_path / "here.unfinished-1"
    assert sorted(path.name for path in here.iterdir()) == ["model_1.pt", "optimizer_1.pt"]


def test_what_was_written_since_stays_though_something_else_waits(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    committed(run, here, 1)
    for name in ("step-2.pt", "step-3.pt", "encoder.pt"):
        write(here / name, 2)
    assert begun(run, here) == Begun(kept=str(here), step=1)
    assert len(list(here.iterdir())) == 4


def test_what_an_epoch_before_wrote_stays_though_its_step_is_later(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    write(here / "epoch_1_iter_100.pt", 1)
    save(run, here, step=100)
    write(here / "epoch_0_iter_900.pt", 1)
    os.utime(here / "epoch_0_iter_900.pt", (1, 1))
    assert begun(run, here) == Begun(kept="epoch_1_iter_100.pt", step=100)
    assert (here / "epoch_0_iter_900.pt").exists()


def test_a_link_that_leads_to_itself_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError):
        begun(run, tmp_path / "loop")


def test_a_snapshot_of_which_a_part_is_torn_on_the_disk_is_restored_whole(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    for name in ("generator.pt", "discriminator.pt"):
        write(here / name, 1, step=100)
    save(run, here, step=100)
    write(here / "generator.pt", 2, step=200)
    os.truncate(here / "discriminator.pt", 100)
    found = begun(run, here)
    assert found.restored is not None
    assert torch.load(here / "generator.pt")["step"] == torch.load(here / "discriminator.pt")["step"] == 100
    os.truncate(here / "discriminator.pt", 100)  # now of the very snapshot
    assert begun(run, here).restored is not None
    assert torch.load(here / "discriminator.pt")["step"] == 100
    assert begun(run, here).kept is not None


def test_a_newer_one_is_gone_on_with_though_the_snapshot_is_damaged(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    for name in ("last.pt", "best.pt"):
        write(here / name, 1, step=100)
    save(run, here, step=100)
    write(here / "last.pt", 2, step=200)
    os.truncate(here / "best.pt", 100)
    (stored,) = (path for path in (tmp_path / "bucket" / "data").rglob("*best.pt*") if path.is_file())
    stored.chmod(0o600)
    stored.write_bytes(bytes(stored.stat().st_size))
    assert begun(run, here).kept == "last.pt"
    assert {path.name for path in here.iterdir()} == {"last.pt"}


def test_what_is_torn_beside_a_newer_one_is_fetched(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    for name in ("last.pt", "best [1].pt"):
        write(here / name, 1, step=100)
    save(run, here, step=100)
    write(here / "last.pt", 2, step=200)
    os.truncate(here / "best [1].pt", 100)
    found = begun(run, here)
    assert (found.kept, found.aside) == ("last.pt", tmp_path / "here.unfinished-1")
    assert torch.load(here / "best [1].pt")["step"] == 100
    assert torch.load(here / "last.pt")["step"] == 200
    assert {path.name for path in here.iterdir()} == {"last.pt", "best [1].pt"}


def test_it_is_put_aside_within_a_directory_that_has_no_beside(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    committed(run, here, 1)
    write(here / "step-3.pt", 3)
    os.truncate(here / "step-3.pt", 100)
    monkeypatch.setattr("ckptsync.agent.aside.must_stay", lambda _: True)
    assert begun(run, here).aside == here / ".unfinished-1"
    assert begun(run, here) == Begun(kept="step-1.pt", step=1)


def test_what_is_restored_into_a_directory_that_must_stay_is_the_newest_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    write(here / "step-90.pt", 90)
    trainer_checkpoint(here / "checkpoint-99", step=99)
    (here / "checkpoint-99" / "trainer_state.json").unlink()
    (here / "log").write_text("log")
    committed(run, tmp_path / "elsewhere", 80)
    monkeypatch.setattr("ckptsync.transfer.target.must_stay", lambda _: True)
    monkeypatch.setattr("ckptsync.agent.aside.must_stay", lambda _: True)
    monkeypatch.setattr("ckptsync.agent.startup.must_stay", lambda _: True)
    assert begun(run, here).aside == here / ".unfinished-1"
    assert {path.name for path in here.iterdir()} == {"step-80.pt", "log", ".unfinished-1"}
    aside = {path.name for path in (here / ".unfinished-1").iterdir()}
    assert aside == {"step-90.pt.unfinished", "checkpoint-99"}
    assert (here / ".unfinished-1" / "checkpoint-99" / "model.safetensors.unfinished").exists()


def test_what_may_be_whole_stays(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    for step in (100, 200):  # of a script without a Trainer
        trainer_checkpoint(here / f"checkpoint-{step}")
        for name in ("trainer_state.json", "training_args.bin"):
            (here / f"checkpoint-{step}" / name).unlink()
    (here / "vocab.pt").write_bytes(pickle.dumps({"a": 1}))
    with zipfile.ZipFile(here / "stats.pth", "w") as file:
        file.writestr("mean.npy", b"of numpy")
    (here / "export").mkdir()
    for name in ("pytorch_model.bin", "config.json"):
        (here / "export" / name).write_text("{}")
    before = set(here.rglob("*"))
    assert begun(run, here) == Begun()
    assert set(here.rglob("*")) == before


def test_parts_that_may_be_whole_stay(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    for name in ("model.pt", "optimizer.pt"):
        write(here / name, 1)
    (here / "epoch-1").mkdir()
    write(here / "epoch-1" / "model.pt", 1)
    assert begun(run, here) == Begun()


def test_a_directory_of_more_than_checkpoints_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "job" / "src").mkdir(parents=True)
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path / "job" / "src")
    for refused in (Path(), Path(".."), tmp_path, Path("/"), Path.home()):
        with pytest.raises(ConfigError, match="holds more than checkpoints"):
            begun(run, refused)
    with pytest.raises(ConfigError, match="is no directory"):
        begun(run, tmp_path / "file")


def test_the_best_that_a_newer_one_names_is_fetched_where_it_is_gone(run: Run, tmp_path: Path) -> None:
    here = tmp_path / "here"
    for step in (10, 20):
        trainer_checkpoint(here / f"checkpoint-{step}", step=step, best_model_checkpoint="out/checkpoint-10")
    save(run, here, step=20)
    shutil.rmtree(here / "checkpoint-10")
    write(here / "checkpoint-20" / "of_now.pt", 1)
    trainer_checkpoint(here / "checkpoint-30", step=30, best_model_checkpoint="out/checkpoint-10")
    assert begun(run, here).kept == "checkpoint-30"
    assert (here / "checkpoint-10" / "model.safetensors").exists()
