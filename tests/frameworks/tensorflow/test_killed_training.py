"""TensorFlow and Keras jobs that are killed again and again, and each time go on in an empty directory, end as if they never had been."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

EXAMPLES = Path(__file__).parents[3] / "docs/examples"
KILLS = 3


@dataclass(frozen=True)
class Job:
    """A training script.

    Attributes:
        script: of the examples.
        arguments: how long it trains.
        least, most: so many steps it is behind its start when it is killed.
        gained: so many steps are durable by then, at least.
    """

    script: str
    arguments: tuple[str, ...]
    least: int
    most: int
    gained: int


LOOP = Job("train_with_tensorflow.py", ("--steps", "100"), least=21, most=29, gained=10)
FIT = Job("train_with_keras.py", ("--epochs", "25"), least=2, most=6, gained=2)


def trained(job: Job, url: str, folder: Path, kill_after: int | None = None) -> list[str]:
    """What it printed of each step until its end, or until it was killed so many steps behind its start."""
    command = [sys.executable, str(EXAMPLES / job.script), "--run", url, "--dir", str(folder), *job.arguments]
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as process:
        for line in process.stdout or ():
            if line.startswith(("step ", "done ")):
                lines.append(line.strip())
            if kill_after is not None and len(lines) > kill_after:
                process.kill()
                break
    assert process.returncode == (0 if kill_after is None else -9)
    return lines


@cache
def unbroken(job: Job) -> list[str]:
    """The same training, never killed."""
    with TemporaryDirectory() as folder:
        return trained(job, f"{folder}/run", Path(folder, "checkpoints"))


@pytest.mark.req(4)
@pytest.mark.parametrize("job", [LOOP, FIT], ids=["loop", "fit"])
def test_killed_at_random_steps_it_ends_bit_for_bit_the_same(job: Job, url: str, tmp_path: Path) -> None:
    dice, start = random.Random(url), 0
    for number in range(KILLS + 1):
        kill_after = None if number == KILLS else dice.randint(job.least, job.most)
        lines = trained(job, url, tmp_path / f"machine-{number}", kill_after)
        begun = int(lines[0].split()[1])
        assert begun >= start
        assert lines == unbroken(job)[begun : begun + len(lines)]
        start = begun + job.gained
    assert lines[-1] == unbroken(job)[-1]
    assert lines[-1].startswith("done ")
