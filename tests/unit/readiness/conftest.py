"""Directories with checkpoints in them, and looks at them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ckptsync.readiness.recognise import Looked, look

Look = Callable[..., Looked]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory that is looked at."""
    made = tmp_path / "watched"
    made.mkdir()
    return made


@pytest.fixture
def looked(folder: Path) -> Look:
    """Look at it once."""

    def call(rule: str = "auto", **options: float) -> Looked:
        return look(folder, rule=rule, now_s=options.pop("now_s", 2e9), **options)

    return call


@pytest.fixture
def names(looked: Look) -> Callable[..., list[str]]:
    """Names of what is whole there."""
    return lambda rule="auto": [one.name for one in looked(rule).checkpoints]
