"""Uploads behind a framework's back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckptsync.cadence import AtMostOverhead
from ckptsync.errors import ConfigError
from ckptsync.events import log_observer
from ckptsync.policy import LatestN
from ckptsync.uploads import Uploads


@pytest.mark.parametrize("keep", [3, LatestN, AtMostOverhead(1)])
def test_what_does_not_say_what_stays_is_refused_at_once(tmp_path: Path, keep: Any) -> None:
    with pytest.raises(ConfigError, match=r"^keep is "):
        Uploads(tmp_path / "run", keep=keep, busy="wait", config=None, observer=log_observer)
    assert not (tmp_path / "run").exists()
