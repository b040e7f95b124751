"""A training job that is killed again and again ends as if it never had been."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

from ckptsync.run import open_run

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
MANAGED = EXAMPLES / "train_with_manager.py"
STEPS, KILLS = 60, 3


@pytest.fixture(scope="session", params=[MANAGED, EXAMPLES / "train_with_torch_save.py"], ids=lambda path: path.stem)
def script(request: pytest.FixtureRequest) -> Path:
    """A training job."""
    return Path(request.param)


def trained(script: Path, url: str, kill_at: int | None = None, local: Path | None = None) -> list[str]:
    """What it printed until its end, or until it was killed behind a step."""
    command = [sys.executable, str(script), "--run", url, "--steps", str(STEPS)]
    command += ["--local", str(local)] if local else []
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            lines.append(line.strip())
            if kill_at is not None and line.startswith(f"step {kill_at} "):
                process.kill()
                break
    assert process.returncode == (0 if kill_at is None else -9)
    return lines


@pytest.fixture(scope="session")
def unbroken(script: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same training, never killed."""
    return trained(script, str(tmp_path_factory.mktemp("unbroken") / "run"))


@pytest.fixture(scope="session")
def managed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The training with a CheckpointManager, never killed."""
    return trained(MANAGED, str(tmp_path_factory.mktemp("unbroken") / "run"))


@pytest.mark.req(4)
def test_killed_at_random_steps_it_ends_bit_for_bit_the_same(script: Path, url: str, unbroken: list[str]) -> None:
    dice, starts = random.Random(url), []
    for round_number in range(KILLS + 1):
        begin = 20 * round_number
        lines = trained(script, url, None if round_number == KILLS else dice.randrange(begin + 12, begin + 19))
        starts.append(int(lines[0].split()[1]))
        expected = [line for line in unbroken if line.startswith("step ")][starts[-1] :]
        printed = [line for line in lines if line.startswith("step ")]
        assert printed == expected[: len(printed)]
    assert starts[0] == 0
    assert all(start % 10 == 1 for start in starts[1:])  # a save in flight may be lost, what was durable not
    assert lines[-1] == unbroken[-1]


@pytest.mark.req(4, 23)
def test_with_a_local_tier_on_the_same_disk_and_on_an_empty_one(url: str, managed: list[str], tmp_path: Path) -> None:
    dice, starts = random.Random(f"{url} local"), []
    for round_number, disk in enumerate(("first", "first", "empty", "first")):
        begin = 20 * round_number
        kill_at = None if round_number == KILLS else dice.randrange(begin + 11, begin + 19)
        lines = trained(MANAGED, url, kill_at, tmp_path / disk)
        starts.append(int(lines[0].split()[1]))
        expected = [line for line in managed if line.startswith("step ")][starts[-1] :]
        printed = [line for line in lines if line.startswith("step ")]
        assert printed == expected[: len(printed)]
    assert starts[0] == 0
    assert all(start % 10 == 1 for start in starts[1:])
    assert lines[-1] == managed[-1]
    (local,) = (tmp_path / "first").iterdir()
    with open_run(local / "run") as here, open_run(url) as there:
        newest = here.catalog.latest(), there.catalog.latest()
        assert len(list(here.catalog.listed())) == 1  # what is durable makes room
    assert newest[0] is not None
    assert newest[1] is not None
    assert newest[0].commit_id == newest[1].commit_id
    assert newest[0].id.step == STEPS - 1


def test_a_restart_on_the_same_disk_needs_nothing_of_the_bucket_but_its_newest_manifest(
    tmp_path: Path, managed: list[str]
) -> None:
    url, disk = str(tmp_path / "bucket"), tmp_path / "disk"
    trained(MANAGED, url, 35, disk)
    for path in (tmp_path / "bucket/data").rglob("*.pt"):
        path.unlink()
    lines = trained(MANAGED, url, None, disk)
    assert int(lines[0].split()[1]) in {21, 31}
    assert lines[-1] == managed[-1]
