"""A Trainer that knows nothing of ckptsync ends as if nothing had happened, however its machines end."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from support.instances import Instances

TRAINER = Path(__file__).parents[2] / "support" / "plain_transformers.py"
EVENTS = 3 if os.environ.get("CKPTSYNC_TEST_SHORT") else 20
SEED = 6
STEPS = EVENTS * 100


@pytest.mark.req(4, 6)
@pytest.mark.parametrize("url", ["s3"], indirect=True)
def test_the_trainer_survives_its_machines(url: str, tmp_path: Path) -> None:
    steps = ("--steps", str(STEPS))
    command = [sys.executable, str(TRAINER), str(tmp_path / "whole"), str(tmp_path / "whole-result"), *steps]
    subprocess.run(command, check=True)
    command = [sys.executable, str(TRAINER), "{dir}", str(tmp_path / "result"), "--log", "{log}", *steps]
    machines = Instances(url, tmp_path, command, life_s=4.0)
    told = machines.survive(EVENTS, random.Random(SEED))
    print(*told, sep="\n")  # noqa: T201  the course of it, shown when it fails
    assert len(set(machines.starts)) > EVENTS // 3, "it hardly got on"
    assert weights(tmp_path / "result") == weights(tmp_path / "whole-result")


def weights(path: Path) -> list[bytes]:
    """Of a result, bit for bit."""
    import torch  # noqa: PLC0415

    return [tensor.numpy().tobytes() for tensor in torch.load(path, weights_only=True)]
