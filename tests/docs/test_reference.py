"""The generated reference says what the command line says."""

from __future__ import annotations

import runpy
from pathlib import Path


def test_the_command_line_reference_is_up_to_date() -> None:
    generator = runpy.run_path(str(Path(__file__).with_name("generate_cli.py")))
    assert generator["PAGE"].read_text() == generator["page"](), "run `make reference`"
