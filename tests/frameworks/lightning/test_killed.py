"""A Lightning training that is killed again and again ends as if it never had been."""

from __future__ import annotations

import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "docs/examples/train_with_lightning.py"
STEPS_OF_EPOCH, KILLS = 12, 3


def trained(url: str, folder: Path, kill_at: int | None = None) -> list[str]:
    """What it printed until its end, or until it was killed in a step, in an empty folder."""
    folder.mkdir(parents=True)
    lines: list[str] = []
    command = [sys.executable, str(SCRIPT), "--run", url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=folder) as process:
        for line in process.stdout or ():
            lines.append(line.strip())
            if kill_at is not None and line.startswith(f"step {kill_at} "):
                process.kill()
                break
    assert process.returncode == (0 if kill_at is None else -9)
    assert not list(folder.iterdir())
    return lines


def step_of(line: str) -> int:
    return int(line.split()[1])


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same training, never killed."""
    folder = tmp_path_factory.mktemp("unbroken")
    return trained(str(folder / "run"), folder / "empty")


def test_killed_at_random_steps_it_ends_bit_for_bit_the_same(url: str, unbroken: list[str], tmp_path: Path) -> None:
    dice, starts = random.Random(url), []
    for number in range(KILLS + 1):
        kill_at = None if number == KILLS else 14 * number + dice.randrange(9, 14)
        lines = trained(url, tmp_path / f"machine-{number}", kill_at)
        starts.append(step_of(lines[0]))
        expected = unbroken[starts[-1] :]
        assert lines == expected[: len(lines)]
    assert starts[0] == 0
    assert all(later > earlier for earlier, later in pairwise(starts))
    assert any(start % STEPS_OF_EPOCH for start in starts)  # amid an epoch
    assert lines[-1] == unbroken[-1]
