"""Completion scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

ENTRY = "from ckptsync.cli.main import main; main()"

Call = Callable[..., Result]
Ask = Callable[..., list[dict[str, Any]]]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_names_the_program(shell: str, call: Call, ask: Ask) -> None:
    said = call("completion", shell).stdout
    assert "_CKPTSYNC_COMPLETE" in said
    assert ask("completion", shell) == [{"shell": shell, "script": said.removesuffix("\n")}]


def complete(words: str, index: int) -> list[str]:
    environ = {**os.environ, "_CKPTSYNC_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(index)}
    done = subprocess.run([sys.executable, "-c", ENTRY], check=True, capture_output=True, text=True, env=environ)
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_verbs_and_options_are_completed() -> None:
    assert complete("ckptsync re", 1) == ["restore", "report"]
    assert complete("ckptsync gc run --keep", 3) == ["--keep-last", "--keep-every", "--keep-best", "--keep-within"]


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_takes_the_script(tmp_path: Path, call: Call) -> None:
    script = tmp_path / "completion.bash"
    script.write_text(call("completion", "bash").stdout)
    done = subprocess.run(
        ["bash", "--norc", "-c", f"source {script} && complete -p ckptsync"], check=True, capture_output=True, text=True
    )
    assert "ckptsync" in done.stdout
