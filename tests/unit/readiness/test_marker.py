"""Markers: by `ckptsync.ready`, and by `touch`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import later, torch_file, trainer_checkpoint

import ckptsync
from ckptsync.errors import ConfigError, DiskError
from ckptsync.readiness.recognise import Looked

pytestmark = pytest.mark.req(12)
Look = Callable[..., Looked]


@pytest.fixture
def checkpoint(folder: Path) -> Path:
    """A folder of which no rule knows."""
    made = folder / "step-100"
    (made / "sub").mkdir(parents=True)
    (made / "weights.raw").write_bytes(b"weights")
    (made / "sub/more.raw").write_bytes(b"more")
    return made


def test_a_marked_folder_is_whole_until_it_changes(checkpoint: Path, looked: Look) -> None:
    assert looked().checkpoints == ()
    ckptsync.ready(checkpoint, step=7, metrics={"loss": 0.5, "nan": float("nan")})
    for rule in ("auto", "marker"):
        (ready,) = looked(rule).checkpoints
        assert (ready.name, ready.rule, ready.step, ready.metrics) == ("step-100", "marker", 7, {"loss": 0.5})
        assert ready.paths == {"step-100/weights.raw", "step-100/sub/more.raw", "step-100/.ckptsync-ready"}
    before = (checkpoint / "weights.raw").stat()
    (checkpoint / "weights.raw").write_bytes(b"Weights")
    os.utime(
        checkpoint / "weights.raw", ns=(0, before.st_mtime_ns - 1)
    )  # older than the marker, and another all the same
    found = looked()
    assert (found.checkpoints, found.waiting) == (
        (),
        ("step-100 has changed since it was marked; mark it again when it is whole",),
    )
    ckptsync.ready(checkpoint)
    assert looked().checkpoints[0].step == 100
    (checkpoint / "sub/new.raw").touch()
    assert looked().checkpoints == ()


def test_a_marked_file_is_whole_until_it_changes(folder: Path, looked: Look) -> None:
    file = folder / "model_5.raw"
    file.write_bytes(b"weights")
    ckptsync.ready(str(file))
    (ready,) = looked().checkpoints
    assert (ready.name, ready.step) == ("model_5.raw", 5)
    assert ready.paths == {"model_5.raw", "model_5.raw.ckptsync-ready"}
    file.write_bytes(b"weight")
    assert looked().checkpoints == ()
    file.unlink()
    assert looked().waiting == ("model_5.raw.ckptsync-ready marks model_5.raw, which is not there",)


def test_the_directory_itself_may_be_marked(folder: Path, checkpoint: Path, looked: Look) -> None:
    ckptsync.ready(folder, step=3)
    (ready,) = looked().checkpoints
    assert (ready.name, ready.step, len(ready.paths)) == ("", 3, 3)
    assert checkpoint.exists()


@pytest.mark.parametrize("marker", ["step-100.ckptsync-ready", "step-100/.ckptsync-ready"])
def test_a_shell_can_do_it(folder: Path, checkpoint: Path, looked: Look, marker: str) -> None:
    subprocess.run(["touch", str(folder / marker)], check=True)
    (ready,) = looked().checkpoints
    assert (ready.name, ready.step) == ("step-100", 100)
    assert marker in ready.paths
    later(folder / marker)
    assert looked().checkpoints == ()  # its files are newer
    os.utime(folder / marker)
    assert len(looked().checkpoints) == 1
    (folder / marker).write_text('{"step": 12}')
    assert looked().checkpoints[0].step == 12
    assert checkpoint.exists()


@pytest.mark.parametrize("content", ["x", "[]", '{"step": "a"}', '{"step"', "[" * 10_000, '{"metrics": {"a": "b"}}'])
def test_a_marker_that_makes_no_sense_does_not_count(checkpoint: Path, looked: Look, content: str) -> None:
    (checkpoint / ".ckptsync-ready").write_text(content)
    found = looked()
    assert found.checkpoints == ()
    assert found.waiting == ("step-100/.ckptsync-ready is neither empty nor what ckptsync.ready writes",)


def test_steps_and_metrics_that_no_snapshot_has_are_left_out(checkpoint: Path, looked: Look) -> None:
    (checkpoint / ".ckptsync-ready").write_text(json.dumps({"step": -4, "metrics": {"a:b": 1, "": 2, "c": 3}}))
    (ready,) = looked().checkpoints
    assert (ready.step, ready.metrics) == (None, {"c": 3.0})


def test_what_has_a_marker_is_judged_by_it_alone(folder: Path, looked: Look) -> None:
    file, trained = torch_file(folder / "a.pt", step=4), trainer_checkpoint(folder / "checkpoint-5")
    ckptsync.ready(file)
    ckptsync.ready(trained)
    assert {(one.rule, one.step) for one in looked().checkpoints} == {("marker", 4), ("marker", 5)}
    torch_file(file, step=6)
    (trained / "config.json").write_text('{"a": 1}')
    assert looked().checkpoints == ()
    (folder / "a.pt.ckptsync-ready").unlink()
    (trained / ".ckptsync-ready").unlink()
    (trained / "checkpoint-is-incomplete.txt").touch()
    assert [one.step for one in looked().checkpoints] == [6]


def test_what_is_copied_with_its_times_is_marked_still(checkpoint: Path, folder: Path, looked: Look) -> None:
    ckptsync.ready(checkpoint)
    shutil.copytree(checkpoint, folder / "step-200")  # keeps times
    assert [one.step for one in looked().checkpoints] == [100, 200]


def test_a_folder_without_files_is_no_checkpoint(folder: Path, looked: Look) -> None:
    (folder / "empty").mkdir()
    ckptsync.ready(folder / "empty")
    assert looked().waiting == ("empty/.ckptsync-ready marks a folder without files",)


def test_there_must_be_something_to_mark(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no file or folder"):
        ckptsync.ready(folder / "none")
    (folder / "a").touch()
    with pytest.raises(ConfigError, match="step"):
        ckptsync.ready(folder / "a", step=-1)
    with pytest.raises(ConfigError, match="metric"):
        ckptsync.ready(folder / "a", metrics={"a:b": 1.0})
    assert [path.name for path in folder.iterdir()] == ["a"]


@pytest.mark.usefixtures("plain_rights")
def test_a_disk_that_is_read_only_is_told(checkpoint: Path) -> None:
    checkpoint.chmod(0o500)
    try:
        with pytest.raises(DiskError, match="ckptsync-ready"):
            ckptsync.ready(checkpoint)
    finally:
        checkpoint.chmod(0o700)
    assert not (checkpoint / ".ckptsync-ready").exists()
