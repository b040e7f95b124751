"""Whether an optimizer can go on with a state, of every kind that torch has."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import optim

from ckptsync.state.items import told_of
from ckptsync.state.optimizers import misfit

KINDS: list[tuple[type[Any], dict[str, Any]]] = [
    (optim.Adadelta, {}),
    (optim.Adagrad, {}),
    (optim.Adam, {}),
    (optim.Adam, {"amsgrad": True}),
    (optim.AdamW, {}),
    (optim.Adamax, {}),
    (optim.ASGD, {}),
    (optim.NAdam, {}),
    (optim.RAdam, {}),
    (optim.RMSprop, {}),
    (optim.RMSprop, {"momentum": 0.9, "centered": True}),
    (optim.Rprop, {}),
    (optim.SGD, {}),
    (optim.SGD, {"momentum": 0.9}),
    (optim.Adafactor, {}),
    (optim.LBFGS, {}),
]


def stepped(kind: type[Any], options: dict[str, Any]) -> optim.Optimizer:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    optimizer = kind(module.parameters(), **options)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = module(torch.ones(1, 3)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return optimizer  # type: ignore[no-any-return]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_its_own_state_fits_and_one_of_before_the_first_step(kind: type[Any], options: dict[str, Any]) -> None:
    optimizer = stepped(kind, options)
    for state in (optimizer.state_dict(), kind(optimizer.param_groups[0]["params"], **options).state_dict()):
        before = optimizer.state_dict()
        assert not misfit(optimizer, told_of(state, None))
        assert optimizer.state_dict() == before or optimizer.state_dict().keys() == before.keys()


@pytest.mark.parametrize(
    ("there", "here"),
    [pair for pair in pairwise(KINDS[:14]) if pair[0][0] is not pair[1][0] and pair[1][0] is not optim.AdamW],
)
def test_another_kinds_state_does_not(there: tuple[type[Any], Any], here: tuple[type[Any], Any]) -> None:
    reason = misfit(stepped(*here), told_of(stepped(*there).state_dict(), None))
    assert here[0].__name__ in reason
    assert "\n" not in reason


def test_options_that_torch_fills_in_need_not_be_there() -> None:
    optimizer = stepped(optim.Adam, {})
    state = optimizer.state_dict()
    for later in ("fused", "foreach", "capturable"):
        del state["param_groups"][0][later]
    assert not misfit(optimizer, told_of(state, None))
    del state["param_groups"][0]["betas"]
    assert misfit(optimizer, told_of(state, None)) == "its groups have no betas there, which Adam takes"


def test_those_of_other_people_are_asked_for_their_groups_alone() -> None:
    class Mine(optim.Adam):
        """Keeps other things."""

    state = stepped(optim.SGD, {"momentum": 0.5}).state_dict()
    assert not misfit(stepped(Mine, {}), told_of(state, None))
    state["param_groups"].append(state["param_groups"][0])
    assert "2 groups of parameters there, and 1 group" in misfit(stepped(Mine, {}), told_of(state, None))
