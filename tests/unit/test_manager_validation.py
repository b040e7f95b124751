"""A check of the user's own on every snapshot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptsync import names
from ckptsync.errors import CkptsyncError, ConfigError
from ckptsync.events import Event
from ckptsync.manager import CheckpointManager
from ckptsync.policy import LatestN
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.verbs.quarantine import reason_of
from ckptsync.verbs.verify import verify

Make = Callable[..., CheckpointManager]


def ids(manager: CheckpointManager) -> dict[int, SnapshotId]:
    """What is committed, by step."""
    return {one.id.step: one.id for one in manager._run.catalog.listed()}


def test_it_sees_what_was_saved_in_another_thread(make: Make, tmp_path: Path) -> None:
    seen: list[tuple[Mapping[str, Any], threading.Thread]] = []
    (tmp_path / "log.txt").write_text("log")
    model = torch.nn.Linear(2, 1)
    with make(validate=lambda state: seen.append((state, threading.current_thread()))) as manager:
        manager.save(1, model=model, extra={"n": 1}, log=tmp_path / "log.txt")
    ((state, thread),) = seen
    assert thread is not threading.main_thread()
    assert set(state) == {"model", "extra"}
    assert torch.equal(state["model"]["weight"], model.weight)
    assert state["model"]["weight"].data_ptr() != model.weight.data_ptr()
    assert state["extra"] == {"n": 1}


def test_what_passes_is_called_validated(make: Make) -> None:
    with make(validate=lambda state: state["n"]["n"] != 2 or "two is no good") as manager:
        for step in (1, 2):
            manager.save(step, n={"n": step})
        manager.wait()
        assert manager.restore(snapshot="validated", n={}) == 2
        manager.save(3, n={"n": 3})
        manager.wait()
        assert manager.restore(snapshot="validated", n={}) == 4


@pytest.mark.parametrize(
    ("verdict", "reason"),
    [(False, "the check said no"), ("loss is nan", "loss is nan"), (AssertionError("not finite"), "not finite")],
)
def test_what_fails_is_passed_over(make: Make, told: list[Event], verdict: Any, reason: str) -> None:
    def check(state: Mapping[str, Any]) -> Any:
        if state["n"]["n"] == 1:
            return True
        if isinstance(verdict, AssertionError):
            raise verdict
        return verdict

    state = {"n": 0}
    with make(validate=check) as manager:
        for step in (1, 2):
            manager.save(step, n={"n": step})
        manager.wait()
        assert manager.restore(n=state) == 2
        assert state == {"n": 1}
        latest = manager.latest()
        assert latest is not None
        assert latest.id.step == 1
        assert f"failed its validation and is passed over from now on: {reason}" in told[0].message
        assert f"validation: {reason} (found by" in reason_of(manager._run, ids(manager)[2])
        assert manager.restore(snapshot=2, n=state) == 3  # by its name it can be had


def test_that_all_its_bytes_are_good_does_not_make_it_good(make: Make) -> None:
    with make(validate=lambda _: False) as manager:
        manager.save(1, n={"n": 1})
        manager.wait()
        found = verify(manager._run, "1")
        assert (found.bad, found.quarantined) == ((), True)
        assert manager._run.catalog.is_quarantined(ids(manager)[1])


def test_what_fails_takes_no_good_ones_place(make: Make) -> None:
    with make(validate=lambda state: state["n"]["n"] < 3, keep=LatestN(1)) as manager:
        for step in range(5):
            manager.save(step, n={"n": step})
            manager.wait()
        assert sorted(ids(manager)) == [2, 4]
        assert manager.restore(n={}) == 3


def test_a_check_that_breaks_down_is_no_verdict(make: Make) -> None:
    def broken(state: Mapping[str, Any]) -> None:
        raise KeyError(*state)

    with make(validate=broken) as manager:
        manager.save(1, n={"n": 1})
        with pytest.raises(CkptsyncError, match="broke down, and there is no verdict: KeyError: 'n'") as caught:
            manager.wait()
        assert isinstance(caught.value.__cause__, KeyError)
        assert manager.restore(n={}) == 2
        assert not names.all_aliases(manager._run.catalog)


def test_what_holds_more_than_plain_values_has_no_verdict(make: Make) -> None:
    with make(validate=lambda _: True) as manager:
        manager.save(1, n={"path": Path("x")})
        with pytest.raises(ConfigError, match="holds more than tensors and plain values"):
            manager.wait()
        assert list(ids(manager)) == [1]


def test_a_local_copy_of_what_failed_is_passed_over_too(make: Make, tmp_path: Path) -> None:
    options = {"local": tmp_path / "disk", "local_keep": 3}
    with make(validate=lambda state: state["n"]["n"] == 1, **options) as manager:
        for step in (1, 2):
            manager.save(step, n={"n": step})
    with make(**options) as manager:
        assert manager.restore(n={}) == 2
