"""A training is asked for a last checkpoint by a file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ckptsync import CheckpointManager, EveryNSeconds
from ckptsync.requested import Requests


def test_each_request_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "request"
    requests = Requests(str(path))
    assert not requests.is_new(0.0)
    path.touch()
    assert not requests.is_new(0.1)  # looked at a fifth of a second ago at most
    assert requests.is_new(0.2)
    assert not requests.is_new(1.0)
    os.utime(path, ns=(1, 1))
    assert requests.is_new(2.0)
    path.unlink()
    assert not requests.is_new(3.0)
    (tmp_path / "new").touch()
    (tmp_path / "new").rename(path)
    assert requests.is_new(4.0)


def test_where_nobody_asks_nothing_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "stat", None)
    assert not Requests("").is_new(0.0)


@pytest.mark.req(6)
def test_a_manager_saves_when_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = tmp_path / "request"
    monkeypatch.setenv("CKPTSYNC_REQUEST_FILE", str(request))
    with CheckpointManager(tmp_path / "run", save=EveryNSeconds(1000)) as manager:
        manager._requests._next_s = 0.0
        assert not manager.should_save(7)
        request.touch()
        manager._requests._next_s = 0.0
        assert manager.should_save(8)
        manager._requests._next_s = 0.0
        assert not manager.should_save(9)
