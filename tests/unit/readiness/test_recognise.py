"""Looks at directories with much in them, and with what nobody wants there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from support.checkpoints import (
    deepspeed_tag,
    keras_backup,
    later,
    orbax_step,
    safetensors_file,
    sharded,
    tensorflow_checkpoint,
    torch_file,
    trainer_checkpoint,
)

from ckptsync.errors import ConfigError, DiskError
from ckptsync.readiness import contents as contents_module
from ckptsync.readiness.contents import Opened
from ckptsync.readiness.recognise import RULES, Looked, Recogniser, look

Look = Callable[..., Looked]


def test_an_unknown_rule_names_those_that_there_are(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match="auto, marker, huggingface, deepspeed, orbax, dcp, tensorflow, keras"
    ) as error:
        look(folder, rule="never", now_s=0)
    assert all(rule in str(error.value) for rule in RULES)
    with pytest.raises(ConfigError, match="quiet_s"):
        look(folder, rule="quiet", now_s=0)
    with pytest.raises(ConfigError, match="quiet_s"):
        look(folder, quiet_s=3, now_s=0)


def test_there_must_be_a_directory(folder: Path) -> None:
    (folder / "file").touch()
    for path in (folder / "none", folder / "file"):
        with pytest.raises(ConfigError, match="is no directory"):
            look(path, now_s=0)


def test_checkpoints_of_many_frameworks_are_each_found(folder: Path, looked: Look) -> None:
    torch_file(folder / "torch/model_3.pt")
    torch_file(
        folder / "lightning_logs/version_0/checkpoints/epoch=0-step=4.ckpt",
        **{"pytorch-lightning_version": "2", "global_step": 4},
    )
    trainer_checkpoint(folder / "run1/checkpoint-5")
    trainer_checkpoint(folder / "run1/checkpoint-6", step=6)
    sharded(folder / "dcp/step-7")
    deepspeed_tag(folder / "ds", "global_step8")
    orbax_step(folder / "jax/9")
    tensorflow_checkpoint(folder / "tf", 10)
    keras_backup(folder / "keras")
    safetensors_file(folder / "weights/step_12.safetensors")
    (folder / "notes.txt").write_text("nothing of the kind")
    (folder / "run1/events.out.tfevents.1").write_bytes(b"x")
    found = looked()
    assert {(one.rule, one.name, one.step) for one in found.checkpoints} == {
        ("torch", "torch/model_3.pt", 3),
        ("lightning", "lightning_logs/version_0/checkpoints/epoch=0-step=4.ckpt", 4),
        ("huggingface", "run1/checkpoint-5", 5),
        ("huggingface", "run1/checkpoint-6", 6),
        ("dcp", "dcp/step-7", 7),
        ("deepspeed", "ds/global_step8", 8),
        ("orbax", "jax/9", 9),
        ("tensorflow", "tf/ckpt-10", 10),
        ("keras", "keras", None),
        ("safetensors", "weights/step_12.safetensors", 12),
    }
    assert found.waiting == ()
    assert {file.path for file in found.tree.files} >= {"notes.txt", "run1/events.out.tfevents.1"}


def test_the_oldest_comes_first_by_time_then_by_step(folder: Path, looked: Look) -> None:
    files = [torch_file(folder / f"model_{step}.pt") for step in (30, 4, 100)]
    later(*files)
    assert [one.step for one in looked().checkpoints] == [30, 4, 100]
    for file in files:  # as on file systems that keep no times
        os.utime(file, (1, 1))
    assert [one.step for one in looked().checkpoints] == [4, 30, 100]


def test_folders_are_looked_into_to_a_bounded_depth(folder: Path, looked: Look) -> None:
    torch_file(folder / "1/2/3/4/5/6/7/8/a.pt")
    torch_file(folder / "1/2/3/4/5/6/7/8/9/b.pt")
    assert [one.name[-4:] for one in looked().checkpoints] == ["a.pt"]


def test_the_directory_may_be_a_checkpoint_itself(tmp_path: Path) -> None:
    sharded(tmp_path / "step-100")
    (ready,) = look(tmp_path / "step-100", now_s=0).checkpoints
    assert (ready.name, ready.step) == ("", None)
    assert ".metadata" in ready.paths


def test_links_come_along_and_are_not_followed(folder: Path, looked: Look) -> None:
    trainer_checkpoint(folder / "checkpoint-5")
    (folder / "checkpoint-5/again").symlink_to("model.safetensors")
    (folder / "checkpoint-5/up").symlink_to("..")
    (folder / "last").symlink_to(folder / "checkpoint-5")
    (folder / "loop").symlink_to("loop")
    found = looked()
    (ready,) = found.checkpoints
    assert {"checkpoint-5/again", "checkpoint-5/up"} <= ready.paths
    assert {link.path: link.target for link in found.tree.links}["last"] == "checkpoint-5"


# -- hostile -------------------------------------------------------------------------------------------------------------


def test_what_cannot_be_saved_spoils_its_checkpoint_and_no_other(folder: Path, looked: Look) -> None:
    torch_file(folder / "a.pt")
    for place in (
        trainer_checkpoint(folder / "checkpoint-5"),
        sharded(folder / "step-6"),
        orbax_step(folder / "7"),
        deepspeed_tag(folder / "ds") / "global_step10",
    ):
        os.mkfifo(place / "pipe")
    os.mkfifo(folder / "b.pt")
    (folder / "c.pt").symlink_to("/etc/passwd")
    found = looked()
    assert [one.name for one in found.checkpoints] == ["a.pt"]
    files = {sentence[:4]: sentence for sentence in found.waiting if sentence.startswith(("b.pt", "c.pt"))}
    pipes = set(found.waiting) - set(files.values())
    assert len(pipes) == 4
    assert all("pipe is neither a file" in sentence for sentence in pipes)
    assert "is neither a file" in files["b.pt"]
    assert "is a link that leads out of " in files["c.pt"]


@pytest.mark.usefixtures("plain_rights")
def test_what_cannot_be_read_is_told(folder: Path, looked: Look) -> None:
    torch_file(folder / "a.pt")
    trainer_checkpoint(folder / "checkpoint-5")
    (folder / "checkpoint-5/inner").mkdir(mode=0)
    (folder / "closed").mkdir(mode=0)
    (folder / "a.pt").chmod(0)
    found = looked()
    assert found.checkpoints == ()
    assert set(found.waiting) == {
        "a.pt cannot be read: Permission denied",
        "checkpoint-5 is not whole: checkpoint-5/inner cannot be read: Permission denied",
    }
    (folder / "a.pt").chmod(0o400)
    assert [one.name for one in looked().checkpoints] == ["a.pt"]
    folder.chmod(0)
    try:
        with pytest.raises(DiskError, match="Permission denied"):
            looked()
    finally:
        folder.chmod(0o700)


def test_folders_may_lie_deeper_than_anyone_looks(folder: Path, looked: Look) -> None:
    torch_file(folder / "a.pt")
    deep = folder
    for _ in range(80):
        deep /= "d"
    deep.mkdir(parents=True)
    (deep / "b.pt").write_bytes(b"x")
    assert [one.name for one in looked().checkpoints] == ["a.pt"]


def test_names_that_are_no_text_are_left_out(folder: Path, looked: Look) -> None:
    torch_file(folder / "a.pt")
    try:
        (folder / os.fsdecode(b"\xff.pt")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system has no such names")
    assert [one.name for one in looked().checkpoints] == ["a.pt"]


def test_huge_files_are_not_read(folder: Path, looked: Look) -> None:
    for name in ("a.pt", "b.safetensors", "c.json", "latest", "checkpoint", "d.ckptsync-ready", ".metadata"):
        with (folder / name).open("wb") as file:
            file.truncate(1 << 40)
    begin_s = time.process_time()
    assert looked().checkpoints == ()
    assert time.process_time() - begin_s < 5


def test_what_changes_between_the_looks_at_it_is_waited_for(
    folder: Path, looked: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = torch_file(folder / "a.pt")
    plain = Opened.read

    def written_meanwhile(self: Opened, offset: int, count: int) -> bytes:
        with file.open("ab") as more:
            more.write(b"x")
        return plain(self, offset, count)

    monkeypatch.setattr(contents_module.Opened, "read", written_meanwhile)
    found = looked()
    assert (found.checkpoints, found.waiting) == ((), ("a.pt is being written to",))


def test_many_sentences_are_shortened(folder: Path, looked: Look) -> None:
    for number in range(150):
        (folder / f"{number}.pt").touch()
    assert len(looked().waiting) == 101
    assert looked().waiting[-1] == "50 more are not whole"


# -- again and again ------------------------------------------------------------------------------------------------------


def test_files_are_read_once_until_they_change(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    plain = Opened.read
    monkeypatch.setattr(contents_module.Opened, "read", lambda self, *where: (reads.append(1), plain(self, *where))[1])
    torch_file(folder / "a/model_1.pt")
    torch_file(folder / "b/model_2.pt")
    recogniser = Recogniser(folder)
    first = recogniser.look(0)
    assert reads
    reads.clear()
    assert recogniser.look(1).checkpoints == first.checkpoints
    (folder / "b/log.txt").write_text("x" * 5000)
    assert recogniser.look(2).checkpoints == first.checkpoints
    assert not reads
    torch_file(folder / "b/model_2.pt", step=5)
    assert [one.step for one in recogniser.look(3).checkpoints] == [1, 5]
    assert reads
    (folder / "a/model_1.pt").unlink()
    assert [one.step for one in recogniser.look(4).checkpoints] == [5]
    assert [file.path for file in recogniser.look(5).tree.files] == ["b/log.txt", "b/model_2.pt"]


def test_a_folder_that_comes_and_goes_is_seen(folder: Path) -> None:
    recogniser = Recogniser(folder)
    assert recogniser.look(0).tree.directories == ()
    trainer_checkpoint(folder / "checkpoint-5")
    assert len(recogniser.look(0).checkpoints) == 1
    (folder / "checkpoint-5").chmod(0o700)
    assert [one.mode for one in recogniser.look(0).tree.directories] == [0o700]
    (folder / "checkpoint-5").rename(folder / "checkpoint-6")
    assert [one.name for one in recogniser.look(0).checkpoints] == ["checkpoint-6"]


def test_ten_thousand_files_cost_little(folder: Path) -> None:
    """Bound three times what it takes on a machine at work; a look that reads or parses anything again takes far more."""
    torch.save({"step": 1}, folder / "model_1.pt")
    for number in range(100):
        (folder / f"logs-{number}").mkdir()
        for other in range(100):
            (folder / f"logs-{number}" / f"{other}.log").touch()
    recogniser = Recogniser(folder)
    recogniser.look(0)
    best_s = float("inf")
    for _ in range(5):
        begin_s = time.process_time()
        found = recogniser.look(1)
        best_s = min(best_s, time.process_time() - begin_s)
    assert len(found.tree.files) == 10_001
    assert len(found.checkpoints) == 1
    assert best_s < 0.18


def test_when_the_training_has_ended_well_nothing_is_waited_for(folder: Path) -> None:
    torch_file(folder / "step-1" / "a.pt")
    recogniser = Recogniser(folder, rule="quiet", quiet_s=1e6)
    assert recogniser.look(0.0).snapshots == ()
    recogniser.training_is_over()
    assert [one.name for one in recogniser.look(0.0).snapshots] == ["step-1"]


def test_a_time_that_is_still_to_come_tells_nothing(folder: Path) -> None:
    now_s = 1_750_000_000
    for step, at_s in ((100, now_s + 300_000), (200, now_s - 200), (300, now_s - 100)):
        file = torch_file(folder / f"step-{step}.pt")
        os.utime(file, (at_s, at_s))
    assert [one.step for one in Recogniser(folder).look(now_s).snapshots] == [100, 200, 300]
    os.utime(folder / "step-300.pt", (now_s + 300_000, now_s + 300_000))
    assert [one.step for one in Recogniser(folder).look(now_s).snapshots] == [100, 200, 300]
    assert [one.step for one in Recogniser(folder).look(now_s + 400_000).snapshots] == [200, 100, 300]
