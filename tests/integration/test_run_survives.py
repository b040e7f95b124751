"""A training that knows nothing of ckptsync ends as if nothing had happened, however its machines end."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from support.instances import Instances

TRAINER = Path(__file__).parents[1] / "support" / "plain_trainer.py"
EVENTS = 3 if os.environ.get("CKPTSYNC_TEST_SHORT") else 20
SEED = 6
STEPS = EVENTS * 80


@pytest.mark.slow
@pytest.mark.req(4, 6)
def test_a_bare_torch_loop_survives_its_machines(url: str, tmp_path: Path) -> None:
    options = ("--steps", str(STEPS), "--pause", "0.02")
    (tmp_path / "whole").mkdir()
    command = [sys.executable, str(TRAINER), str(tmp_path / "whole"), str(tmp_path / "whole" / "result"), *options]
    subprocess.run(command, check=True)
    machines = Instances(
        url,
        tmp_path,
        [sys.executable, str(TRAINER), "{dir}", str(tmp_path / "result"), "--log", "{log}", *options],
        options=("--ask", "signal:USR1"),
    )
    told = machines.survive(EVENTS, random.Random(SEED))
    print(*told, sep="\n")  # noqa: T201  the course of it, shown when it fails
    assert len(set(machines.starts)) > EVENTS // 3, "it hardly got on"
    assert (tmp_path / "result").read_bytes() == (tmp_path / "whole" / "result").read_bytes()
