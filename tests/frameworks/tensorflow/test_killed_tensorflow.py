"""TensorFlow and Keras jobs that are killed end as if they never had been."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.killed_training import Job, check_it_ends_the_same

LOOP = Job("train_with_tensorflow.py", ("--steps", "100"), least=21, most=29, gained=10)
FIT = Job("train_with_keras.py", ("--epochs", "25"), least=2, most=6, gained=2)


@pytest.mark.req(4)
@pytest.mark.parametrize("job", [LOOP, FIT], ids=["loop", "fit"])
def test_killed_at_random_steps_it_ends_bit_for_bit_the_same(job: Job, url: str, tmp_path: Path) -> None:
    check_it_ends_the_same(job, url, tmp_path)
