"""A manager in a job whose data comes from worker processes, forked or spawned while saves are under way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ckptsync.manager import CheckpointManager

SCRIPT = Path(__file__).with_name("loader_job.py")
EPOCHS, LENGTH = 6, 24  # as in the script


def started(*arguments: object) -> subprocess.Popen[str]:
    """Start the job, in a session of its own."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    environ = os.environ | {"PYTHONWARNINGS": "ignore"}  # of forking a process with threads, which is the point
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ, start_new_session=True)


@pytest.mark.req(4)
@pytest.mark.parametrize(("method", "epochs"), [("fork", EPOCHS), ("spawn", 2)])
def test_workers_come_and_go_while_saves_are_under_way(url: str, tmp_path: Path, method: str, epochs: int) -> None:
    local = ["--local", tmp_path / "disk"] if method == "fork" else []
    with started(url, method, *local) as job:
        printed = job.communicate(timeout=240)[0].splitlines()
    assert job.returncode == 0
    done = printed[-1].split()
    assert done[:2] == ["done", str(epochs * LENGTH)]
    with CheckpointManager(url) as manager:
        found: dict[str, object] = {}
        assert manager.restore(total=found) == epochs * LENGTH
        assert found["total"].sum().item() == float(done[2])  # type: ignore[attr-defined]


@pytest.mark.req(4)
def test_a_worker_that_outlives_its_killed_parent_does_not_keep_the_disk(tmp_path: Path) -> None:
    arguments = (tmp_path / "bucket", "fork", "--local", tmp_path / "disk", "--linger")
    with started(*arguments) as job:
        assert job.stdout is not None
        while job.stdout.readline() != f"step {LENGTH - 2}\n":
            assert job.poll() is None
        until_s = time.monotonic() + 60
        while not [*(tmp_path / "disk").rglob("manifests/*.json")] and time.monotonic() < until_s:
            time.sleep(0.01)  # the first save is still under way
        job.kill()
        job.wait()
        try:
            os.killpg(job.pid, 0)  # a worker is alive
            with CheckpointManager(tmp_path / "bucket", local=tmp_path / "disk") as manager:
                found: dict[str, object] = {}
                start = manager.restore(total=found)
                assert manager._tier is not None
                assert manager._tier.has_begun  # else it went without the disk
                assert 0 < start < LENGTH
        finally:
            os.killpg(job.pid, signal.SIGKILL)
