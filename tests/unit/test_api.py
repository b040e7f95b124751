"""What a script may pass to the public functions, and what is refused in a sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ckptsync
from ckptsync.options import Config
from ckptsync.verbs.save import Saved


class Number:
    """As numpy's integers are."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Saved]:
    """Save a small file; other arguments by keyword."""
    (tmp_path / "model").write_text("weights")

    def call(**changed: Any) -> Saved:
        given = {"path": tmp_path / "model", "run": str(tmp_path / "run"), "step": 1}
        return ckptsync.save(**(given | {"config": Config(state_dir=str(tmp_path / "state"))} | changed))

    return call


def test_a_step_is_any_whole_number(save: Callable[..., Saved], tmp_path: Path) -> None:
    assert save(step=Number(7)).step == 7
    assert ckptsync.restore(str(tmp_path / "run"), tmp_path / "back", snapshot=Number(7)).step == 7  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"run": None}, "the run is None"),
        ({"run": "a\0b"}, "has a NUL"),
        ({"path": None}, "the path is None"),
        ({"path": ""}, "the path is empty"),
        ({"path": "a\0b"}, "has a NUL"),
        ({"alias": 5}, "5 cannot be an alias"),
        ({"step": True}, "step True is not a whole number"),
        ({"step": 1.0}, "step 1.0 is not a whole number"),
        ({"step": "1"}, "step '1' is not a whole number"),
        ({"step": None}, "step None is not a whole number"),
    ],
)
def test_what_is_no_argument_is_refused(
    save: Callable[..., Saved], tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(ckptsync.ConfigError, match=said):
        save(**changed)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("snapshot", [None, True, 1.5])
def test_so_is_what_names_no_snapshot(save: Callable[..., Saved], tmp_path: Path, snapshot: Any) -> None:
    save()
    with pytest.raises(ckptsync.ConfigError, match="is not a whole number"):
        ckptsync.restore(str(tmp_path / "run"), tmp_path / "back", snapshot=snapshot)


@pytest.mark.parametrize("ask", [ckptsync.latest, ckptsync.history])
def test_a_variable_that_was_never_set_is_no_directory(
    ask: Callable[[Any], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ckptsync.ConfigError, match="the run is None"):
        ask(None)
