"""Copies of a state in host memory."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from typing import Any

import pytest
import torch

from ckptsync.errors import ConfigError
from ckptsync.state.staging import Stager, tensors_of

Pair = namedtuple("Pair", "left right")  # noqa: PYI024  as people's code has it


def test_a_copy_is_equal_and_apart() -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    state = {"w": weight, "list": [weight.t(), (1, "a", None)], "pair": Pair(weight[0], {"n": 3}), "set": {1, 2}}
    copied = Stager().take(state).state
    weight.zero_()
    whole = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(copied["w"], whole)
    assert torch.equal(copied["list"][0], whole.t())
    assert torch.equal(copied["pair"].left, whole[0])
    assert (copied["list"][1], copied["pair"].right, copied["set"]) == ((1, "a", None), {"n": 3}, {1, 2})
    assert type(copied["pair"]) is Pair


def test_what_shares_memory_shares_it_in_the_copy_and_is_copied_once() -> None:
    base = torch.zeros(1000)
    staged = Stager().take({"a": base, "b": base[10:20], "c": base.view(10, 100)})
    assert staged.bytes == base.nbytes
    staged.state["a"][10] = 7
    assert staged.state["b"][0] == staged.state["c"][0, 10] == 7


def test_what_is_there_twice_is_one_thing() -> None:
    inner = {"n": [1]}
    state: dict[str, Any] = {"a": inner, "b": inner}
    state["self"] = state
    copied = Stager().take(state).state
    assert copied["a"] is copied["b"] is not inner
    assert copied["self"] is copied


def test_memory_is_used_again_and_that_of_other_shapes_let_go() -> None:
    stager = Stager()
    first = stager.take({"w": torch.ones(100)})
    where = first.buffers[0].data_ptr()
    stager.give_back(first)
    second = stager.take({"w": torch.full((100,), 2.0)})
    assert second.buffers[0].data_ptr() == where
    third = stager.take({"w": torch.full((100,), 3.0)})
    assert torch.equal(second.state["w"], torch.full((100,), 2.0))
    stager.give_back(second)
    stager.give_back(third)
    assert stager.take({"w": torch.ones(100)}).buffers[0].data_ptr() == third.buffers[0].data_ptr()


def test_a_module_and_an_optimizer() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.rand(5, 3)).sum().backward()
    optimizer.step()
    copied = Stager().take({"model": model.state_dict(), "optimizer": optimizer.state_dict()}).state
    assert type(copied["model"]) is OrderedDict
    assert copied["model"]._metadata == model.state_dict()._metadata
    other = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    other.load_state_dict(copied["model"])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(other.parameters(), model.parameters(), strict=True))
    assert copied["optimizer"]["state"][0]["step"] == 1


@pytest.mark.parametrize(
    "tensor",
    [
        torch.eye(3).to_sparse(),
        torch.complex(torch.ones(2), torch.ones(2)).conj(),
        torch.empty(0),
        torch.tensor(3),
        torch.ones(2, dtype=torch.bfloat16),
    ],
    ids=["sparse", "conjugated", "empty", "scalar", "bfloat16"],
)
def test_tensors_of_other_kinds(tensor: torch.Tensor) -> None:
    copied = Stager().take(tensor).state
    assert copied.dtype == tensor.dtype
    assert copied.shape == tensor.shape
    assert torch.equal(
        copied.to_dense() if tensor.is_sparse else copied, tensor.to_dense() if tensor.is_sparse else tensor
    )


def test_parameters_stay_parameters() -> None:
    copied = Stager().take([torch.nn.Parameter(torch.ones(2)), torch.ones(2, requires_grad=True)]).state
    assert isinstance(copied[0], torch.nn.Parameter)
    assert copied[0].requires_grad
    assert copied[1].requires_grad


def test_a_tensor_without_data_is_refused() -> None:
    with pytest.raises(ConfigError, match="meta"):
        Stager().take(torch.empty(2, device="meta"))


def test_tensors_are_named_by_the_way_to_them() -> None:
    state = {"a": {"w": torch.ones(1)}, "l": [torch.ones(2), {"x": torch.ones(3)}], 4: torch.ones(4), "n": 5}
    assert {name: len(tensor) for name, tensor in tensors_of(state).items()} == {"a.w": 1, "l.0": 2, "l.1.x": 3, "4": 4}
