"""What takes a state back: the items of a restore, and whatever in them has a `load_state_dict`; in an order, and undone when one fails."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch

from ckptsync.errors import CkptsyncError, ConfigError
from ckptsync.state.savable import PLAIN, first_line, has_state, is_plain
from ckptsync.state.staging import Stager

ABSENT = object()
"""Stands for a state that was not saved."""


@dataclass(frozen=True, slots=True)
class Target:
    """Something that takes a state.

    Attributes:
        item: name of the item it is in.
        way: the keys and numbers to it in the item; empty where it is the item.
        taker: itself.
    """

    item: str
    way: tuple[Any, ...]
    taker: Any

    @property
    def name(self) -> str:
        """For people, and for the index."""
        return ".".join((self.item, *map(str, self.way)))

    def state_in(self, states: Mapping[str, Any]) -> Any:
        """Return its state among those of items; `ABSENT` where there is none."""
        found = states[self.item]
        for key in self.way:
            try:
                found = found[key]
            except (LookupError, TypeError):
                return ABSENT
        return found


def loads(value: Any) -> bool:
    """Return whether something has a `load_state_dict` to call."""
    return not isinstance(value, type) and callable(getattr(value, "load_state_dict", None))


def targets_of(items: Mapping[str, Any]) -> list[Target]:
    """Return everything that takes a state: each item, and what has a `load_state_dict` in dictionaries, lists and tuples."""
    found = []
    for name, item in items.items():
        found.append(Target(name, (), item))
        if not loads(item):
            found += [Target(name, way, taker) for way, taker in _inner(item, (), frozenset())]
    return found


def takes(item: Any) -> bool:
    """Return whether a state can be put back into an item."""
    if loads(item) or isinstance(item, MutableMapping | list | torch.Tensor):
        return True
    return isinstance(item, tuple) and bool(item) and all(loads(one) for one in item)


def put(states: Mapping[str, Any], targets: list[Target]) -> None:
    """Let targets take their states. What may fail for a reason of its own comes first, and what was changed is put back when one does.

    Those that copy in place are modules: they come last, with plain items, and are not put back, since that would take a second
    copy of the weights. Of an item that is neither module nor optimizer a copy is held in host memory meanwhile.

    Args:
        states: of the items, as read.
        targets: of those items.

    Raises:
        ConfigError: a `load_state_dict` failed; nothing is changed.
        CkptsyncError: a `load_state_dict` failed, and what is named is changed.
    """
    done: list[tuple[Target, Callable[[], object] | None]] = []
    for target in sorted(targets, key=_risk):
        done.append((target, _way_back(target)))
        try:
            _give(target, states)
        except Exception as error:  # whatever code of its own it has
            changed = [one.name for one, back in reversed(done) if not _undone(back)]
            reason = f"{target.name!r} could not take its state: {type(error).__name__}: {first_line(error)}"
            if changed:
                raise CkptsyncError(f"{reason}; changed are {', '.join(sorted(changed))}") from error
            raise ConfigError(f"{reason}; nothing was changed") from error


def _risk(target: Target) -> int:
    """A place in the order."""
    if not loads(target.taker):
        return 3
    if isinstance(target.taker, torch.nn.Module):
        return 2
    return 1 if isinstance(target.taker, torch.optim.Optimizer) else 0


def _way_back(target: Target) -> Callable[[], object] | None:
    """What undoes a change; None when nothing can."""
    taker = target.taker
    if isinstance(taker, torch.nn.Module) or not loads(taker) or not has_state(taker):
        return None
    try:
        state = taker.state_dict()
        if not isinstance(taker, torch.optim.Optimizer):  # which takes new tensors and leaves the old ones alone
            state = Stager().take(state).state
    except Exception:  # noqa: BLE001  whatever code of its own it has
        return None
    return lambda: taker.load_state_dict(state)


def _undone(back: Callable[[], object] | None) -> bool:
    """Undo a change; whether it could be."""
    if back is None:
        return False
    try:
        back()
    except Exception:  # noqa: BLE001  whatever code of its own it has
        return False
    return True


def _give(target: Target, states: Mapping[str, Any]) -> None:
    """Let a target take its state."""
    taker, state = target.taker, target.state_in(states)
    if loads(taker):
        taker.load_state_dict(state)
    elif isinstance(taker, torch.Tensor):
        with torch.no_grad():
            taker.copy_(state)
    elif isinstance(taker, MutableMapping):
        content = _content(taker, state)
        taker.clear()
        taker.update(content)
    elif isinstance(taker, list):
        taker[:] = _content(taker, state)


def _content(here: Any, state: Any) -> Any:
    """What a dictionary, list or tuple is to hold: what was saved, with what has taken its state in the place of that."""
    if loads(here):
        return here
    if not any(_inner(here, (), frozenset())):
        return state
    if isinstance(state, Mapping):
        made = copy.copy(state)
        made.update({key: _content(here[key], inner) for key, inner in state.items() if key in here})  # type: ignore[attr-defined]
        return made
    found = [_content(here[number], inner) if number < len(here) else inner for number, inner in enumerate(state)]
    return found if isinstance(here, list) else tuple(found)


def _inner(value: Any, way: tuple[Any, ...], open_: frozenset[int]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """What has a `load_state_dict` in a container, and the way to it."""
    if not isinstance(value, Mapping | list | tuple) or id(value) in open_ or is_plain(value):
        return
    for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
        if type(inner) in PLAIN or isinstance(inner, torch.Tensor):
            continue
        if loads(inner):
            yield (*way, key), inner
        else:
            yield from _inner(inner, (*way, key), open_ | {id(value)})
