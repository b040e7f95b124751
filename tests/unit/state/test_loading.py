"""A restore changes a loop whole or not at all, and says why not."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import ckptsync
from ckptsync.errors import CkptsyncError, ConfigError
from ckptsync.integrations.torch import preflight
from ckptsync.manager import CheckpointManager

Make = Callable[..., CheckpointManager]


def net() -> torch.nn.Module:
    return torch.nn.Linear(4, 2)


def trained(
    module: torch.nn.Module, kind: Callable[..., torch.optim.Optimizer], **options: Any
) -> torch.optim.Optimizer:
    optimizer = kind(module.parameters(), **options)
    module(torch.ones(1, 4)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.fixture
def saved(make: Make) -> None:
    ours = net()
    with make() as manager:
        manager.save(1, model=ours, optimizer=trained(ours, torch.optim.Adam), progress={"n": 1}, seen=[1, 2])


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (
            lambda m: torch.optim.Adam([{"params": [m.weight]}, {"params": [m.bias]}]),
            "it has 1 group of parameters there, and 2 groups of parameters here",
        ),
        (lambda m: torch.optim.SGD(m.parameters(), lr=0.1), "it has exp_avg there, which SGD does not keep"),
        (
            lambda m: torch.optim.Adam(reversed(list(m.parameters()))),
            "its exp_avg of parameter 0 is [2, 4] there, and the parameter is [2] here",
        ),
        (lambda _: {"a": 1, "lr": net()}, "'optimizer.lr' does not fit"),
        (lambda _: ["a"], "it is a dict there, and a list here"),
    ],
)
def test_what_does_not_fit_changes_nothing_and_is_known_before(
    make: Make, tmp_path: Path, given: Callable[[Any], Any], reason: str
) -> None:
    theirs = net()
    optimizer, before = given(theirs), theirs.weight.detach().clone()
    told = str(preflight(str(tmp_path / "run"), model=theirs, optimizer=optimizer))
    assert reason in told
    with make() as manager, pytest.raises(ConfigError) as caught:
        manager.restore(model=theirs, optimizer=optimizer)
    assert str(caught.value) == told
    assert torch.equal(theirs.weight, before)


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ({"seen": {"a": 1}}, "item 'seen' does not fit: it is a list there, and a dict here"),
        ({"progress": [1]}, "item 'progress' does not fit: it is a dict there, and a list here"),
    ],
)
def test_a_dictionary_takes_no_list(make: Make, items: dict[str, Any], reason: str) -> None:
    before = {name: item.copy() for name, item in items.items()}
    with make() as manager, pytest.raises(ConfigError, match=reason):
        manager.restore(**items)
    assert items == before


def rewritten(tmp_path: Path, file: str, state: Any) -> None:
    """Commit the newest snapshot again as a later step, with another file in it."""
    run, place = str(tmp_path / "run"), tmp_path / "out"
    ckptsync.restore(run, place)
    torch.save(state, place / file)
    ckptsync.save(place, run, step=2)


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize(
    ("file", "state", "reason"),
    [
        (
            "random.pt",
            {"python": [3, [1], None], "torch": torch.get_rng_state()},
            "random numbers cannot be taken back",
        ),
        ("random.pt", {"torch": torch.get_rng_state()}, "random numbers cannot be taken back"),
        ("random.pt", [1], "random numbers cannot be taken back"),
        (
            "optimizer.pt",
            {"state": {}, "param_groups": [{"params": [0]}]},
            "its group 0 has 1 parameters there, and 2 here",
        ),
        ("optimizer.pt", 5, "it is an int there, and an Adam takes a dictionary"),
        ("progress.pt", 5, "it is an int there, and a dict here"),
    ],
)
def test_what_is_only_known_once_it_was_read_changes_nothing_either(
    make: Make, tmp_path: Path, file: str, state: Any, reason: str
) -> None:
    rewritten(tmp_path, file, state)
    theirs, progress, numbers = net(), {"n": 0}, random.getstate()
    before = theirs.weight.detach().clone()
    with make() as manager, pytest.raises(ConfigError, match=reason) as caught:
        manager.restore(model=theirs, optimizer=torch.optim.Adam(theirs.parameters()), progress=progress)
    assert "\n" not in str(caught.value)
    assert torch.equal(theirs.weight, before)
    assert (progress, random.getstate()) == ({"n": 0}, numbers)


class Failing:
    """Something whose state cannot be taken back."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {"n": 1}
        self.fails = False

    def state_dict(self) -> dict[str, Any]:
        return self.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        fails, self.fails = self.fails, False
        self.state = {**state, "half": True} if fails else dict(state)
        if fails:
            raise KeyError("n")


def test_what_fails_while_it_takes_its_state_leaves_everything_as_it_was(make: Make) -> None:
    ours, first, last = net(), Failing(), Failing()
    optimizer = trained(ours, torch.optim.Adam)
    with make() as manager:
        manager.save(1, first=first, model=ours, optimizer=optimizer, progress={"n": 1}, last=last)
    theirs, progress = net(), {"n": 0}
    adam, before = torch.optim.Adam(theirs.parameters(), lr=0.5), theirs.weight.detach().clone()
    first.state, last.state, last.fails = {"n": 5}, {"n": 6}, True
    with (
        make() as manager,
        pytest.raises(ConfigError, match=r"'last' could not take its state: KeyError: 'n'; nothing was"),
    ):
        manager.restore(first=first, model=theirs, optimizer=adam, progress=progress, last=last)
    assert torch.equal(theirs.weight, before)
    assert (first.state, last.state, progress, adam.state_dict()["state"]) == ({"n": 5}, {"n": 6}, {"n": 0}, {})


class Refusing(torch.nn.Linear):
    """A module that takes its tensors, and then fails."""

    def load_state_dict(self, *args: Any, **options: Any) -> Any:
        super().load_state_dict(*args, **options)
        raise RuntimeError("no\nmore")


def test_what_cannot_be_put_back_is_named(make: Make) -> None:
    with make() as manager:
        manager.save(1, a=net(), model=net(), optimizer=Failing())
    other = Failing()
    other.state = {"n": 7}
    with make() as manager, pytest.raises(CkptsyncError, match=r"RuntimeError: no; changed are a, model$") as caught:
        manager.restore(a=net(), model=Refusing(4, 2), optimizer=other)
    assert not isinstance(caught.value, ConfigError)
    assert other.state == {"n": 7}


def test_what_has_a_state_is_found_in_dictionaries_and_lists(make: Make) -> None:
    nets = {"g": net(), "deep": [net(), 5]}
    optimizers = [torch.optim.SGD(nets["g"].parameters(), lr=0.5)]  # type: ignore[attr-defined]
    with make() as manager:
        manager.save(1, nets=nets, optimizers=optimizers, pair=(Failing(), Failing()))
    theirs: dict[str, Any] = {"g": net(), "deep": [net(), 0], "old": 1}
    generator, rest = theirs["g"], theirs["deep"][0]
    sgd = torch.optim.SGD(generator.parameters(), lr=0.1)
    others, pair = [sgd], (Failing(), Failing())
    pair[1].state = {"n": 9}
    with make() as manager:
        assert manager.restore(nets=theirs, optimizers=others, pair=pair) == 2
    assert theirs == {"g": generator, "deep": [rest, 5]}
    assert torch.equal(generator.weight, nets["g"].weight)  # type: ignore[attr-defined]
    assert torch.equal(rest.weight, nets["deep"][0].weight)  # type: ignore[index]
    assert others == [sgd]
    assert sgd.param_groups[0]["lr"] == 0.5
    assert pair[1].state == {"n": 1}
    with (
        make() as manager,
        pytest.raises(ConfigError, match=r"'nets\.more' does not fit: bias is absent there and \[2\]"),
    ):
        manager.restore(nets={"more": net()})


def test_a_tensor_takes_its_numbers(make: Make) -> None:
    with make() as manager:
        manager.save(1, ema=torch.full((3,), 2.0), n=5)
    theirs, shorter = torch.zeros(3, requires_grad=True), torch.zeros(2)
    with make() as manager:
        manager.restore(ema=theirs)
        assert theirs.tolist() == [2.0] * 3
        for items, reason in (
            ({"ema": shorter}, r"it is \[3\] there, and a tensor \[2\] here"),
            ({"n": 5}, "item 'n' cannot take a state: an int"),
            ({"n": {}}, r"an int there, and a dict here; ckptsync\.integrations\.torch\.load reads it"),
        ):
            with pytest.raises(ConfigError, match=reason):
                manager.restore(**items)


@pytest.mark.usefixtures("saved")
def test_only_names_what_was_given(make: Make, tmp_path: Path) -> None:
    theirs = net()
    before = theirs.weight.detach().clone()
    with make() as manager:
        for only, reason in (
            (["modle"], r"only names 'modle', which was not given; given are model, progress"),
            ("model", r"only is the text 'model'; give a list of names, as in only=\['model'\]"),
        ):
            with pytest.raises(ConfigError, match=reason):
                manager.restore(only=only, model=theirs, progress={})
    assert torch.equal(theirs.weight, before)
    assert preflight(str(tmp_path / "run"), model=theirs).verdict == "loads"


@pytest.mark.usefixtures("saved")
def test_nothing_is_read_to_where_it_has_no_data(make: Make) -> None:
    theirs = net()
    before = theirs.weight.detach().clone()
    with make() as manager, pytest.raises(ConfigError, match="map_location is 'meta'"):
        manager.restore(model=theirs, map_location="meta")
    assert torch.equal(theirs.weight, before)


@pytest.mark.usefixtures("saved")
def test_a_module_of_another_dtype_keeps_it(make: Make) -> None:
    theirs = net().half()
    with make() as manager:
        manager.restore(model=theirs)
    assert theirs.weight.dtype == torch.float16
    assert theirs.weight.abs().sum() > 0
