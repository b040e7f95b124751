"""What the optimizers of `torch.optim` keep, and whether a state that was saved is one that an optimizer here can go on with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import optim

from ckptsync.state.items import Item

_NUMBER = re.compile(r"[0-9]{1,9}")
_DEPTH = 3
"""Names as in `state.0.exp_avg`."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """What an optimizer keeps of a parameter, as tensors.

    Attributes:
        like: of the parameter's shape, always.
        may: of the parameter's shape, with some options.
        numbers: of no shape.
    """

    like: frozenset[str]
    may: frozenset[str] = frozenset()
    numbers: frozenset[str] = frozenset({"step"})


_ADAM = _Kept(frozenset({"exp_avg", "exp_avg_sq"}), frozenset({"max_exp_avg_sq"}))
_KEPT: dict[type, _Kept] = {
    optim.Adadelta: _Kept(frozenset({"square_avg", "acc_delta"})),
    optim.Adagrad: _Kept(frozenset({"sum"})),
    optim.Adam: _ADAM,
    optim.AdamW: _ADAM,
    optim.Adamax: _Kept(frozenset({"exp_avg", "exp_inf"})),
    optim.ASGD: _Kept(frozenset({"ax"}), numbers=frozenset({"step", "eta", "mu"})),
    optim.NAdam: _Kept(frozenset({"exp_avg", "exp_avg_sq"}), numbers=frozenset({"step", "mu_product"})),
    optim.RAdam: _Kept(frozenset({"exp_avg", "exp_avg_sq"})),
    optim.RMSprop: _Kept(frozenset({"square_avg"}), frozenset({"momentum_buffer", "grad_avg"})),
    optim.Rprop: _Kept(frozenset({"prev", "step_size"})),
    optim.SGD: _Kept(frozenset(), frozenset({"momentum_buffer"}), frozenset()),
}
"""As torch 2.13 has it. Others are not looked into: Adafactor, LBFGS and those of other people."""


def misfit(optimizer: optim.Optimizer, saved: Item) -> str:
    """Tell why what was saved does not fit an optimizer; empty when it does, or nothing is known.

    Args:
        optimizer: that is to take it.
        saved: what is told of it.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(parameter.is_meta for parameter in parameters):
        return "its parameters have no memory here (they are on the device 'meta')"
    numbered = _numbered(saved)
    if saved.groups and _is_loaded_by_torch(optimizer):
        reasons = chain(_of_groups(optimizer, saved), _of_class(optimizer, saved, parameters, numbered))
        return next(reasons, "")
    if not numbered or max(numbered) < len(parameters):
        return ""
    return f"it has state of parameter {max(numbered)} there, and {len(parameters)} parameters here"


def _is_loaded_by_torch(optimizer: optim.Optimizer) -> bool:
    """Whether it takes states as torch's do, and nobody changes them on the way."""
    hooks = optimizer._optimizer_load_state_dict_pre_hooks  # noqa: SLF001  there is no other way to see them
    return not hooks and type(optimizer).load_state_dict is optim.Optimizer.load_state_dict


def _of_groups(optimizer: optim.Optimizer, saved: Item) -> Iterator[str]:
    """What does not fit of the groups' number and sizes."""
    here = tuple(len(group["params"]) for group in optimizer.param_groups)
    if len(here) != len(saved.groups):
        yield f"it has {_count(saved.groups)} there, and {_count(here)} here"
    for number, (theirs, ours) in enumerate(zip(saved.groups, here, strict=False)):
        if theirs != ours:
            yield f"its group {number} has {theirs} parameters there, and {ours} here"


def _of_class(
    optimizer: optim.Optimizer,
    saved: Item,
    parameters: list[torch.Tensor],
    numbered: dict[int, dict[str, tuple[int, ...]]],
) -> Iterator[str]:
    """What does not fit of what its class keeps, where that is known."""
    kept = _KEPT.get(type(optimizer))
    if kept is None:
        return
    name = type(optimizer).__name__
    for number, tensors in sorted(numbered.items()):
        if foreign := sorted(tensors.keys() - kept.like - kept.may - kept.numbers):
            yield f"it has {foreign[0]} there, which {name} does not keep"
        if absent := sorted(kept.like - tensors.keys()):
            yield f"it has no {absent[0]} there, which {name} keeps"
        if number < len(parameters) and not torch.nn.parameter.is_lazy(parameters[number]):
            ours = tuple(parameters[number].shape)
            wrong = [key for key in sorted(tensors.keys() - kept.numbers) if tensors[key] != ours]
            for key in wrong:
                yield f"its {key} of parameter {number} is {list(tensors[key])} there, and the parameter is {list(ours)} here"
    if missing := sorted(optimizer.defaults.keys() - _options(optimizer, saved)):
        yield f"its groups have no {missing[0]} there, which {name} takes"


def _numbered(saved: Item) -> dict[int, dict[str, tuple[int, ...]]]:
    """The shapes of the tensors that are kept of each parameter, by its number. What `torch.optim` saves is named `state.NUMBER.…`."""
    found: dict[int, dict[str, tuple[int, ...]]] = {}
    for path, tensor in saved.tensors.items():
        way = path.split(".", _DEPTH - 1)
        if len(way) == _DEPTH and way[0] == "state" and _NUMBER.fullmatch(way[1]):
            found.setdefault(int(way[1]), {})[way[2]] = tensor.shape
    return found


def _options(optimizer: optim.Optimizer, saved: Item) -> set[str]:
    """What each group has once it was loaded: what was saved, and what torch fills in that came later than that."""
    shadow: Any = object.__new__(type(optimizer))
    shadow.__dict__.update(optimizer.__dict__)
    group: dict[str, Any] = {**dict.fromkeys(saved.options), "params": []}
    shadow.__setstate__({"state": {}, "param_groups": [group]})
    return set(group)


def _count(groups: tuple[int, ...]) -> str:
    """For people."""
    return "1 group of parameters" if len(groups) == 1 else f"{len(groups)} groups of parameters"
