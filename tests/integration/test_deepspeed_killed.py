"""A job with DeepSpeed's directories that is killed ends as if it never had been."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.killed_training import Job, check_it_ends_the_same

LOOP = Job(str(Path(__file__).with_name("deepspeed_job.py")), ("--steps", "120"), least=21, most=29, gained=10)


@pytest.mark.req(4)
def test_killed_at_random_steps_it_ends_bit_for_bit_the_same(url: str, tmp_path: Path) -> None:
    check_it_ends_the_same(LOOP, url, tmp_path)
