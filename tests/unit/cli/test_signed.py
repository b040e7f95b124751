"""Signing through the command line: options, exit codes, and what people read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.keys import key_pair

Call = Callable[..., Any]


@pytest.fixture
def required(source: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 1 signed, step 2 not; from now on the signature is asked for."""
    private, public = key_pair(tmp_path, "k")
    call("save", source, "run", "--step", 1, "--set", f"signing.key={private}")
    (source / "name").write_text("evil")
    call("save", source, "run", "--step", 2)
    monkeypatch.setenv("CKPTSYNC_SIGNING_REQUIRE", str(public))


@pytest.mark.usefixtures("required")
def test_a_restore_says_what_it_does_not_trust(call: Call) -> None:
    done = call("restore", "run", "back")
    assert Path("back/name").read_text() == "one"
    assert "is not signed" in done.stderr
    assert "lost 1 step" in done.stdout


@pytest.mark.usefixtures("required")
@pytest.mark.parametrize(
    "verb",
    [
        ("restore", "run", "back", "--snapshot", 2),
        ("restore", "run", "back", "--no-fallback"),
        ("verify", "run"),
        ("verify", "run", "2"),
        ("show", "run", "2"),
        ("diff", "run", "1", "2"),
    ],
)
def test_asked_for_by_name_it_is_exit_code_4(call: Call, verb: tuple[object, ...]) -> None:
    assert "is not signed" in call(*verb, exit_code=4).stderr
    assert not Path("back").exists()


@pytest.mark.usefixtures("required")
def test_ls_shows_it_quarantined(ask: Call) -> None:
    newest, oldest = ask("ls", "run")
    assert (newest["state"], oldest["state"]) == ("quarantined", "committed")
    assert "is not signed" in newest["problem"]


@pytest.mark.usefixtures("required")
def test_saving_what_nobody_could_restore_is_exit_code_2(call: Call, source: Path) -> None:
    assert "signing.key" in call("save", source, "run", "--step", 3, exit_code=2).stderr
    assert call("restore", "other", "back", exit_code=6)
    assert "does not exist" in call("ls", "run", "--set", "signing.key=nowhere.pem", exit_code=2).stderr
