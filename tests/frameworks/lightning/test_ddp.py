"""Plain DDP: rank zero saves, every rank goes on with its own random numbers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ckptsync.run import open_run

JOB = Path(__file__).with_name("ddp_job.py")


def trained(run: str, steps: int, told: Path) -> list[list[str]]:
    """What each rank drew, step by step, and the digest of what it has at the end."""
    told.mkdir()
    subprocess.run([sys.executable, str(JOB), run, str(steps), str(told)], check=True, timeout=300, cwd=told)
    return [(told / f"rank-{rank}").read_text().splitlines() for rank in range(2)]


def test_two_ranks_go_on_as_if_they_had_never_stopped(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = Path(__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", f"{tests}:{tests.parent}")
    whole = trained(str(tmp_path / "whole"), 20, tmp_path / "0")
    first = trained(url, 8, tmp_path / "1")
    rest = trained(url, 20, tmp_path / "2")
    assert whole[0][:-1] != whole[1][:-1]
    for rank in range(2):
        assert first[rank][:-1] + rest[rank] == whole[rank]
    with open_run(url) as run:
        listed = [one.id for one in run.catalog.listed()]
    assert [one.step for one in listed] == [20, 15, 10]
    assert {one.epoch for one in listed} == {2}  # one writer for each training, and none besides
