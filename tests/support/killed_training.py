"""Training scripts that are killed again and again, and each time go on in an empty directory."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

EXAMPLES = Path(__file__).parents[2] / "docs/examples"
KILLS = 1 if os.environ.get("CKPTSYNC_TEST_SHORT") else 3


@dataclass(frozen=True)
class Job:
    """A script that prints a line `step …` for each step, and at last `done …`.

    Attributes:
        script: of the examples.
        arguments: how long it trains.
        least: so many steps it is behind its start when it is killed,
        most: or so many, or any number between.
        gained: so many steps are durable by then, at least.
    """

    script: str
    arguments: tuple[str, ...]
    least: int
    most: int
    gained: int


def trained(job: Job, url: str, folder: Path, kill_after: int | None = None) -> list[str]:
    """What it printed of each step until its end, or until it was killed so many steps behind its start."""
    command = [sys.executable, str(EXAMPLES / job.script), "--run", url, "--dir", str(folder), *job.arguments]
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"}
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


def check_it_ends_the_same(job: Job, url: str, machines: Path) -> None:
    """Kill it at random steps, and compare each step that it trained, and the end, with those of a training never killed.

    Args:
        job: the script.
        url: of the run.
        machines: a folder, for the directory of each start.
    """
    dice, start = random.Random(url), 0
    for number in range(KILLS + 1):
        kill_after = None if number == KILLS else dice.randint(job.least, job.most)
        lines = trained(job, url, machines / f"machine-{number}", kill_after)
        begun = int(lines[0].split()[1])
        assert begun >= start
        assert lines == unbroken(job)[begun : begun + len(lines)]
        start = begun + job.gained
    assert lines[-1] == unbroken(job)[-1]
    assert lines[-1].startswith("done ")
