"""What can be saved is known at once, and what a restore will not read is said at the first save."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ckptsync.errors import ConfigError
from ckptsync.manager import CheckpointManager
from ckptsync.state.savable import looked_at
from ckptsync.state.staging import Stager, tensors_of

Make = Callable[..., CheckpointManager]


class Unknown:
    """A class of the user's."""


def itself() -> list[Any]:
    found: list[Any] = [1]
    found.append(found)
    return found


def deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(100_000):
        found = [found, "x"]
    return found


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ((n for n in range(3)), "item 'it' cannot be saved: it is a generator"),
        ({"f": lambda: 1}, "'f' of item 'it' cannot be saved: it is a function"),
        ({"a": [itself()]}, "'a.0.1' of item 'it' cannot be saved: it holds itself"),
        (deep(), "item 'it' cannot be saved: it is nested too deep"),
        ({"w": torch.empty(2, device="meta")}, "'w' of item 'it' cannot be saved: it has no data"),
    ],
    ids=["generator", "function", "itself", "deep", "meta"],
)
def test_what_cannot_be_saved_is_refused_in_one_sentence_and_nothing_is_begun(
    make: Make, item: Any, reason: str
) -> None:
    with make() as manager:
        with pytest.raises(ConfigError) as caught:
            manager.save(1, model=torch.nn.Linear(2, 2), it=item)
        manager.wait()
        assert not manager.history()
    assert str(caught.value).startswith(reason)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["only", "fallback", "map_location", "weights_only", "snapshot"])
def test_names_that_a_restore_cannot_take_are_refused(make: Make, name: str) -> None:
    with make() as manager, pytest.raises(ConfigError, match="restore has an argument of that name"):
        manager.save(1, **{name: {"n": 1}})


def test_numbers_of_numpy_become_pythons_and_come_back(make: Make) -> None:
    state = {"best": np.float64(0.3), "l": [np.int64(7), np.float32(0.1)], "b": (np.bool_(True),), "t": np.str_("x")}
    theirs: dict[str, Any] = {}
    with make() as manager:
        manager.save(1, p=state)
        manager.restore(p=theirs)
    assert theirs == {"best": 0.3, "l": [7, float(np.float32(0.1))], "b": (True,), "t": "x"}
    assert {type(theirs["best"]), type(theirs["l"][0]), type(theirs["b"][0])} == {float, int, bool}
    assert isinstance(state["best"], np.float64)


def test_what_a_restore_will_not_read_is_said_once(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    with make() as manager:
        for step in (1, 2):
            manager.save(step, p={"seen": {1, 2}, "arrays": [np.arange(3), np.arange(4)], "mine": Unknown()}, n=5)
        manager.wait()
        messages = [record.getMessage() for record in caplog.records]
        assert [message.split(",")[0] for message in messages] == [
            "'arrays.0' of item 'p' is a ndarray",
            "'mine' of item 'p' is an Unknown",
            "item 'n' is an int",
        ]
        assert "which a restore reads with weights_only=False alone (it names numpy._core" in messages[0]
        with pytest.raises(ConfigError, match="holds more than tensors and plain values") as caught:
            manager.restore(p={})
        assert "\x1b" not in str(caught.value)
        assert "(it names " in str(caught.value)
        theirs: dict[str, Any] = {}
        manager.restore(p=theirs, weights_only=False)
        assert theirs["seen"] == {1, 2}


def test_sets_come_back(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    theirs: dict[str, Any] = {}
    with make() as manager:
        manager.save(1, p={"seen": {1, 2}})
        manager.restore(p=theirs)
    assert theirs == {"seen": {1, 2}}
    assert not caplog.records


def test_a_state_without_anything_odd_is_returned_itself() -> None:
    model = torch.nn.Linear(2, 2)
    state = {"model": model.state_dict(), "l": [1, (2, "a")], "p": Path}
    del state["p"]
    assert looked_at("s", state, set()) is state


def test_millions_of_numbers_take_no_longer_than_a_plain_copy_and_stay_shared() -> None:
    numbers = list(range(1_000_000))
    state = {"a": numbers, "b": [numbers, torch.ones(1)], "d": dict.fromkeys(numbers, 0.5)}
    begun = time.perf_counter()
    copied = Stager().take(looked_at("s", state, set())).state
    assert len(tensors_of(copied)) == 1
    taken = time.perf_counter() - begun
    begun = time.perf_counter()
    copy.deepcopy(state)
    plain = time.perf_counter() - begun
    assert taken < plain  # one by one it takes several times as long
    assert copied["a"] == numbers
    assert copied["a"] is copied["b"][0] is not numbers
