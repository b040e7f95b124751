"""The demonstration of the README says what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "docs" / "examples" / "demo.py"


@pytest.mark.slow
def test_a_killed_training_ends_with_the_weights_of_an_unbroken_one() -> None:
    shown = subprocess.run([sys.executable, DEMO], capture_output=True, text=True, timeout=300, check=False)
    assert shown.returncode == 0, shown.stderr
    assert re.search(r"resumed from snapshot 0000000\d-0000000000\d0-", shown.stdout)
    assert "the same, bit for bit" in shown.stdout
