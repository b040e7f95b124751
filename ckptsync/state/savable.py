"""What a training loop hands in, looked at before any of it is copied: whether it can be saved, and whether a restore can read it."""

from __future__ import annotations

import copy
import io
import logging
import pickle
import re
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Mapping
from typing import Any

import torch

from ckptsync.errors import ConfigError

_log = logging.getLogger("ckptsync")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")

PLAIN: frozenset[type] = frozenset({int, float, str, bytes, bool, complex, type(None)})
"""Values that cannot change, and hold nothing."""
BY_ENTRY = (dict, OrderedDict, defaultdict)
"""Dictionaries that are looked into."""

Known = set[tuple[str, type]]
"""What was tried before: an item's name, and the class of something in it."""


def is_plain(container: Any) -> bool:
    """Return whether a dictionary, list or tuple holds plain values alone; found at the speed of C, since it may be millions."""
    inner = container if type(container) is list or not isinstance(container, Mapping) else container.values()
    return PLAIN.issuperset(map(type, inner))


def has_state(value: Any) -> bool:
    """Return whether something has a `state_dict` to call."""
    return not isinstance(value, type) and callable(getattr(value, "state_dict", None))


def a(kind: str) -> str:
    """Return the name of a class with its article."""
    return f"a{'n' if kind[:1] in 'aeiouAEIOU' else ''} {kind}"


def first_line(error: BaseException) -> str:
    """Return what an error says in a line, without the colours that torch writes."""
    return _ESCAPES.sub("", str(error)).strip().partition("\n")[0]


def not_plain(error: BaseException) -> str:
    """Return what stood in the way of `weights_only`: the class or function that a pickle names, or what torch says."""
    found = _FORBIDDEN.search(_ESCAPES.sub("", str(error)))
    return f"it names {found[1]}" if found else first_line(error)


def refusal(tensor: torch.Tensor) -> str:
    """Tell why a tensor cannot be saved; empty when it can."""
    if hasattr(tensor, "device_mesh") or hasattr(tensor, "full_tensor"):
        return "it is a piece of a tensor that several processes hold; save it with torch.distributed.checkpoint"
    if tensor.is_meta:
        return "it has no data (it is on the device 'meta')"
    return ""


def looked_at(name: str, item: Any, known: Known) -> Any:
    """Return the state of an item: every `state_dict` in it called, and numpy's numbers made Python's. Nothing of it is copied or changed.

    Says once, in a warning, what only `weights_only=False` will read.

    Args:
        name: of the item.
        item: with a `state_dict`, or anything that `torch.save` takes; dictionaries, lists and tuples are looked into.
        known: what need not be tried again; what is tried is added.

    Raises:
        ConfigError: it cannot be saved.
    """
    looking = _Looking(name, known)
    try:
        return looking.at(item, ())
    except RecursionError as error:
        raise ConfigError(f"item {name!r} cannot be saved: it is nested too deep") from error


class _Looking:
    """One item being looked at."""

    def __init__(self, name: str, known: Known) -> None:
        self._name = name
        self._known = known
        self._open: set[int] = set()
        self._done: dict[
            int, tuple[Any, Any]
        ] = {}  # what was looked at, kept alive so that its id is its own, and its state

    def at(self, value: Any, way: tuple[Any, ...]) -> Any:
        """Return the state of a value; the value itself where that is its state."""
        kind = type(value)
        if kind in PLAIN or (
            kind is list and is_plain(value)
        ):  # the second, since there may be a great many small ones
            return value
        if isinstance(value, torch.Tensor):
            if reason := refusal(value):
                raise ConfigError(f"{self._called(way)} cannot be saved: {reason}")
            return value
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._open:
            raise ConfigError(f"{self._called(way)} cannot be saved: it holds itself")
        self._open.add(id(value))
        found = self._at_new(value, way)
        self._open.discard(id(value))
        self._done[id(value)] = value, found
        return found

    def _at_new(self, value: Any, way: tuple[Any, ...]) -> Any:
        """The same, of a value not met before."""
        if has_state(value):
            state = value.state_dict()
            # a pickle of the thing itself would be no state of it
            return self.at(state, way) if state is not value else value
        if type(value) in BY_ENTRY:
            return self._dictionary(value, way)
        if type(value) is list or isinstance(value, tuple):
            return self._sequence(value, way)
        if (numpy := sys.modules.get("numpy")) is not None and isinstance(value, numpy.generic):
            plain = value.item()
            if type(plain) in PLAIN:
                return plain
        self._try(value, way)
        return value

    def _dictionary(self, value: Any, way: tuple[Any, ...]) -> Any:
        """A dictionary's."""
        for key in value:
            if type(key) not in PLAIN and not isinstance(key, torch.Tensor):
                self.at(key, (*way, key))
        if is_plain(value):
            return value
        found = {key: self.at(inner, (*way, key)) for key, inner in value.items()}
        if all(found[key] is inner for key, inner in value.items()):
            return value
        made = copy.copy(value)  # keeps its class, its factory and torch's `_metadata`
        made.update(found)
        return made

    def _sequence(self, value: Any, way: tuple[Any, ...]) -> Any:
        """A list's or a tuple's."""
        if is_plain(value):
            return value
        found = [self.at(inner, (*way, number)) for number, inner in enumerate(value)]
        if all(ours is inner for ours, inner in zip(found, value, strict=True)):
            return value
        if hasattr(value, "_fields"):
            return type(value)(*found)
        return found if isinstance(value, list) else tuple(found)

    def _try(self, value: Any, way: tuple[Any, ...]) -> None:
        """Find out, once for a class, whether something that is neither tensor nor plain can be pickled, and read with `weights_only`."""
        told = self._name, type(value)
        if told in self._known:
            return
        file = io.BytesIO()
        numpy = sys.modules.get("numpy")
        plain_array = numpy is not None and isinstance(value, numpy.ndarray) and value.dtype != object
        try:
            torch.save(value.ravel()[:0] if plain_array else value, file)
        except Exception as error:  # whatever code of its own it has
            reason = first_line(error) or type(error).__name__
            raise ConfigError(
                f"{self._called(way)} cannot be saved: it is {a(type(value).__name__)} ({reason})"
            ) from error
        self._known.add(told)
        file.seek(0)
        try:
            torch.load(file, weights_only=True)
        except (pickle.UnpicklingError, RuntimeError, ValueError, TypeError, AttributeError) as error:
            _log.warning(
                "%s is %s, which a restore reads with weights_only=False alone (%s); save plain values and tensors instead",
                self._called(way),
                a(type(value).__name__),
                not_plain(error),
            )

    def _called(self, way: tuple[Any, ...]) -> str:
        """What to call a value."""
        return f"{'.'.join(map(str, way))!r} of item {self._name!r}" if way else f"item {self._name!r}"
