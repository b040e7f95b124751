"""What the tests of the command line share: a machine without settings, and a caller."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ckptsync.cli.main import cli

Call = Callable[..., Result]
Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder with nothing of ours in the environment, and keep journals below it."""
    for name in [name for name in os.environ if name.startswith(("CKPTSYNC_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """What the program does about signals at its end must reach no other test: processes inherit what is ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def call() -> Call:
    """Call the program; it must exit with `exit_code`, and print nothing to stdout when it fails unless told so."""

    def run(*arguments: object, exit_code: int = 0, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="ckptsync", input=stdin)
        assert result.exit_code == exit_code, result.output
        assert "Traceback" not in result.output
        if exit_code:
            *notices, last = result.stderr.splitlines()
            assert last.startswith("ckptsync: ")
            assert all("Z ckptsync: " in notice for notice in notices)
        return result

    return run


@pytest.fixture
def ask(call: Call) -> Ask:
    """Call the program with --json; the objects it prints, one a line."""

    def run(*arguments: object, exit_code: int = 0) -> list[dict[str, Any]]:
        result = call(*arguments, "--json", exit_code=exit_code)
        return [json.loads(line) for line in result.stdout.splitlines()]

    return run


@pytest.fixture
def source() -> Path:
    """A small checkpoint."""
    folder = Path("source")
    (folder / "deep").mkdir(parents=True)
    (folder / "model.bin").write_bytes(bytes(range(256)) * 4096)
    (folder / "deep" / "empty").touch()
    (folder / "name").write_text("one")
    return folder


@pytest.fixture
def saved(call: Call, source: Path) -> Path:
    """A run with steps 100 (loss 0.5) and 200 (loss 0.25, alias `best-so-far`)."""
    call("save", source, "run", "--step", 100, "--metric", "loss=0.5")
    (source / "name").write_text("two")
    (source / "new").write_text("new")
    call("save", source, "run", "--step", 200, "--metric", "loss=0.25", "--alias", "best-so-far")
    return Path("run")
