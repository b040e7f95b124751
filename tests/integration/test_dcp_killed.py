"""A sharded training whose ranks are killed together, again and again, ends as if they never had been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs/examples/train_with_dcp.py"
STEPS, KILLS, RANKS = 60, 3, 2


def trained(url: str, kill_at: int | None = None) -> list[str]:
    """What the first rank printed until its end, or until all were killed behind a step."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(RANKS), "--standalone"]
    command = [*launcher, str(SCRIPT), url, "--steps", str(STEPS)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    lines: list[str] = []
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environ, start_new_session=True
        ) as process,
    ):
        for line in process.stdout or ():
            lines.append(line.strip())
            if kill_at is not None and line.startswith(f"step {kill_at} "):
                os.killpg(process.pid, signal.SIGKILL)
                break
        process.wait()
        errors.seek(0)
        said = errors.read()
    if (
        kill_at is None
    ):  # gloo's own threads abort a process now and then, also one that is done: that is as good as killed
        assert lines[-1].startswith("done ") or "SIGABRT" in said, said
    else:
        assert process.returncode != 0
    return lines


def ended(url: str) -> list[list[str]]:
    """What it printed at each start, until it has come to its end."""
    starts = [trained(url)]
    while not starts[-1][-1].startswith("done "):
        assert len(starts) < 4, "it aborts at each start"
        starts.append(trained(url))
    return starts


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The same training, never killed."""
    while not (lines := trained(str(tmp_path_factory.mktemp("unbroken") / "run")))[-1].startswith("done "):
        pass
    return lines


@pytest.mark.req(4)
def test_killed_at_random_steps_it_ends_bit_for_bit_the_same(url: str, unbroken: list[str]) -> None:
    dice, starts = random.Random(f"{url} dcp"), []
    losses = [line for line in unbroken if line.startswith("step ")]
    assert len(losses) == STEPS
    kills = [dice.randrange(20 * number + 12, 20 * number + 19) for number in range(KILLS)]
    for lines in (*(trained(url, kill_at) for kill_at in kills), *ended(url)):
        starts.append(int(lines[0].split()[1]))
        printed = [line for line in lines if line.startswith("step ")]
        assert printed == losses[starts[-1] :][: len(printed)]
    assert starts[0] == 0
    assert all(start % 10 == 1 for start in starts[1:])  # a save in flight may be lost, what was durable not
    assert lines[-1] == unbroken[-1]
