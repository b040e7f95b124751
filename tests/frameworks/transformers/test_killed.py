"""Training that is killed again and again, and goes on with an empty disk each time, ends as if it never had been."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "docs/examples"
STEPS, KILLS = 60, 1 if os.environ.get("CKPTSYNC_TEST_SHORT") else 3
SCRIPTS = ("train_with_transformers.py", "train_with_accelerate.py")


def trained(script: str, url: str, folder: Path, kill_at: int | None = None) -> list[str]:
    """What it printed until its end, or until it was killed behind a step."""
    command = [sys.executable, str(EXAMPLES / script), "--run", url, "--steps", str(STEPS)]
    if script == "train_with_transformers.py":
        command += ["--folder", str(folder)]
    environ = {**os.environ, "TMPDIR": str(folder)}
    folder.mkdir(parents=True)
    lines: list[str] = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environ
    ) as process:
        for line in process.stdout or ():
            lines += [line.strip()] if re.match(r"(start|step|done) ", line) else []
            if kill_at is not None and line.startswith(f"step {kill_at} "):
                process.kill()
                break
    assert process.returncode == (0 if kill_at is None else -9)
    return lines


@pytest.fixture(scope="module", params=SCRIPTS)
def unbroken(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """A script, and the same training, never killed."""
    folder = tmp_path_factory.mktemp("unbroken")
    return request.param, trained(request.param, str(folder / "run"), folder / "disk")


def test_killed_at_random_steps_it_ends_bit_for_bit_the_same(
    url: str, tmp_path: Path, unbroken: tuple[str, list[str]]
) -> None:
    script, expected = unbroken
    dice, starts = random.Random(url), []
    losses = [line for line in expected if line.startswith("step ")]
    assert len(losses) == STEPS
    for number in range(KILLS + 1):
        kill_at = None if number == KILLS else dice.randrange(20 * number + 12, 20 * number + 19)
        lines = trained(script, url, tmp_path / f"disk-{number}", kill_at)
        starts.append(int(lines[0].split()[1]))
        printed = [line for line in lines if line.startswith("step ")]
        assert printed == losses[starts[-1] :][: len(printed)]
    assert starts[0] == 0
    assert all(
        start >= 20 * number for number, start in enumerate(starts[1:])
    )  # of each life at most its last save is lost
    assert lines[-1] == expected[-1]
