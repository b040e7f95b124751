"""What has not changed for a while, for who asks for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.checkpoints import torch_file

from ckptsync.readiness.recognise import Looked

pytestmark = pytest.mark.req(12)
Look = Callable[..., Looked]


def quiet(looked: Look, after_s: float) -> Looked:
    """Look some time from now, for what was quiet for 30 s."""
    return looked("quiet", quiet_s=30.0, now_s=time.time() + after_s)


def test_it_counts_only_when_asked_for(folder: Path, looked: Look) -> None:
    (folder / "step-1").mkdir()
    (folder / "step-1/a.raw").write_bytes(b"x")
    assert looked().checkpoints == ()
    found = quiet(looked, 29)
    assert found.checkpoints == ()
    assert found.waiting == ("step-1 changed a moment ago; it is whole when it stays so for 1 s more",)
    (ready,) = quiet(looked, 31).checkpoints
    assert (ready.name, ready.step, ready.rule, ready.paths) == ("step-1", 1, "quiet", {"step-1/a.raw"})


def test_a_writer_that_goes_on_is_never_whole(folder: Path, looked: Look) -> None:
    (folder / "step-1").mkdir()
    with (folder / "step-1/a.raw").open("ab", buffering=0) as file:
        for second in range(100):
            file.write(b"x")
            os.utime(file.fileno(), (time.time(), second))  # times that are set do not hide it
            assert quiet(looked, 0.5).checkpoints == ()


def test_folders_and_files_of_steps_are_checkpoints_each(folder: Path, looked: Look) -> None:
    for name in (
        "run/step-1/a",
        "run/step-1/sub/b",
        "run/step-2/a",
        "run/log.txt",
        "plain/x/y",
        "model_3.raw",
        "notes.txt",
        ".hidden/a",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    found = quiet(looked, 60)
    assert {(one.name, one.step, len(one.paths)) for one in found.checkpoints} == {
        ("run/step-1", 1, 2),
        ("run/step-2", 2, 1),
        ("plain", None, 1),
        ("model_3.raw", 3, 1),
    }


def test_files_that_tell_nothing_are_one_checkpoint(folder: Path, looked: Look) -> None:
    for name in ("model.raw", "optim.raw", ".hidden", "a.tmp"):
        (folder / name).write_bytes(b"x")
    (ready,) = quiet(looked, 60).checkpoints
    assert (ready.name, ready.step, ready.paths) == ("", None, {"model.raw", "optim.raw"})


def test_quiet_is_not_enough_for_what_is_torn(folder: Path, looked: Look) -> None:
    whole = torch_file(folder / "step-1/a.pt")
    (folder / "step-2").mkdir()
    (folder / "step-2/a.pt").write_bytes(whole.read_bytes()[:-1])
    (folder / "step-3").mkdir()
    (folder / "step-3/a.raw.tmp").write_bytes(b"x")
    found = quiet(looked, 60)
    assert [one.step for one in found.checkpoints] == [1]
    assert len(found.waiting) == 2
