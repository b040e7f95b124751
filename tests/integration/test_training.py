"""A training job that is killed again and again ends as if it never had been."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
STEPS, KILLS = 60, 3


@pytest.fixture(scope="session", params=["train_with_manager.py", "train_with_torch_save.py"])
def script(request: pytest.FixtureRequest) -> Path:
    """A training job."""
    return EXAMPLES / str(request.param)


def trained(script: Path, url: str, kill_at: int | None = None) -> list[str]:
    """What it printed until its end, or until it was killed behind a step."""
    command = [sys.executable, str(script), "--run", url, "--steps", str(STEPS)]
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
