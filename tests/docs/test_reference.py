"""The generated reference says what the code says."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


@pytest.mark.parametrize("name", ["generate_api.py", "generate_cli.py", "generate_configuration.py"])
def test_a_generated_page_is_up_to_date(name: str) -> None:
    generator = runpy.run_path(str(Path(__file__).with_name(name)))
    assert generator["PAGE"].read_text() == generator["page"](), "run `make reference`"
