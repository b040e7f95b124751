"""A snapshot back into what a training loop has: looked at first, so that a loop is changed whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ckptsync.errors import ConfigError
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot.manifest import Manifest
from ckptsync.state import archive, randomness
from ckptsync.state.fit import Preflight, Tensors, differences, misfit, modules_of
from ckptsync.state.items import INDEX, RANDOM, Index, decoded, file_of
from ckptsync.verbs.fetch import fetch

_DCP = ".metadata"
"""What `torch.distributed.checkpoint` calls its index."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched of a snapshot, verified and not yet looked into.

    Attributes:
        index: what the snapshot holds.
        contents: of the items that were asked for, by name.
    """

    index: Index
    contents: Mapping[str, memoryview]


def fetched(run: Run, manifest: Manifest, items: Mapping[str, Any], only: Collection[str] | None) -> Fetched:
    """Fetch what is to be restored, unless it can be told before that it will not fit.

    Args:
        run: where from.
        manifest: of the snapshot.
        items: what is to be restored, by name; paths are looked up and not fetched (`paths_of`).
        only: names of these; None for all, and for the generators of random numbers.

    Raises:
        ConfigError: an item is not in the snapshot, or its tensors are others.
        IntegrityError: the snapshot is damaged.
    """
    index, found = _looked_at(run, manifest, _wanted(items, only))
    if index is None:
        raise ConfigError(str(found))
    for message in found.differences.values():
        run.observer(Event(kind=Kind.NOTICE, path=manifest.snapshot, message=message))
    names = [name for name, item in _wanted(items, only).items() if not isinstance(item, os.PathLike)]
    if only is None and RANDOM in index.items:
        names.append(RANDOM)
    contents = fetch(run, manifest, [file_of(name) for name in names])
    return Fetched(index, {name: contents[file_of(name)] for name in names})


def preflight(run: Run, manifest: Manifest, items: Mapping[str, Any], only: Collection[str] | None = None) -> Preflight:
    """Tell what will come of restoring a snapshot, from its manifest and its index; a few kilobytes are fetched, nothing is changed.

    Args:
        run: where from.
        manifest: of the snapshot.
        items: what is to be restored, by name.
        only: names of these; None for all.

    Raises:
        IntegrityError: the index is damaged.
    """
    return _looked_at(run, manifest, _wanted(items, only))[1]


def paths_of(items: Mapping[str, Any], only: Collection[str] | None) -> dict[str, Path]:
    """Return those items that are paths, of those that are to be restored."""
    return {name: Path(item) for name, item in _wanted(items, only).items() if isinstance(item, os.PathLike)}


def states_in(found: Fetched, *, map_location: Any = None, weights_only: bool = True) -> dict[str, Any]:
    """Read what was fetched.

    Args:
        found: what was fetched.
        map_location: as in `torch.load`.
        weights_only: as in `torch.load`.

    Raises:
        ConfigError: a state holds more than `weights_only` allows.
        IntegrityError: a state cannot be read.
    """
    return {
        name: archive.load(
            content,
            name=f"item {name!r}",
            map_location=None if name == RANDOM else map_location,
            weights_only=weights_only or name == RANDOM,
        )
        for name, content in found.contents.items()
    }


def put(states: Mapping[str, Any], items: Mapping[str, Any]) -> None:
    """Let items take their states, and the generators of random numbers theirs.

    Args:
        states: as read.
        items: what takes them, by name: with a `load_state_dict`, or a dictionary or list, which then has the content that was saved.
    """
    for name, state in states.items():
        if name != RANDOM:
            _put(items[name], state)
    if RANDOM in states:
        randomness.applied(states[RANDOM])


def put_back(found: Fetched, items: Mapping[str, Any], *, map_location: Any = None, weights_only: bool = True) -> None:
    """Read what was fetched, and once all of it is read, change the items: `states_in`, then `put`."""
    put(states_in(found, map_location=map_location, weights_only=weights_only), items)


def all_states(run: Run, manifest: Manifest) -> dict[str, Any]:
    """Fetch and read every item of a snapshot that is a state, into host memory; random numbers and paths are left out.

    Raises:
        ConfigError: it was not saved by a CheckpointManager, or a state holds more than tensors and plain values.
        IntegrityError: the snapshot is damaged.
    """
    index, found = _looked_at(run, manifest, {})
    if index is None:
        raise ConfigError(str(found))
    names = [name for name, item in index.items.items() if item.kind == "state" and name != RANDOM]
    contents = fetch(run, manifest, [file_of(name) for name in names])
    return states_in(Fetched(index, {name: contents[file_of(name)] for name in names}), map_location="cpu")


def _wanted(items: Mapping[str, Any], only: Collection[str] | None) -> dict[str, Any]:
    """The items that are to be restored."""
    return {name: item for name, item in items.items() if only is None or name in only}


def _looked_at(run: Run, manifest: Manifest, items: Mapping[str, Any]) -> tuple[Index | None, Preflight]:
    """Find out what will come of restoring items."""
    told = partial(Preflight, snapshot=manifest.snapshot)
    if any(entry.path == _DCP for entry in manifest.entries):
        ranks = len(manifest.ranks) - 1  # who adds the metadata counts as one more
        reason = (
            f"torch.distributed.checkpoint saved it from {ranks} ranks, and reshards them when it loads: "
            "dcp.load(state, storage_reader=RunReader(run))"
        )
        return None, told(verdict="needs resharding", reason=reason, differences={})
    try:
        index = _index(run, manifest)
        modules = modules_of(items)
        for name, item in items.items():
            _check_fits(name, item, index, modules.get(name))
    except ConfigError as error:
        return None, told(verdict="will fail", reason=str(error), differences={})
    return index, told(verdict="loads", reason="", differences=differences(index, manifest, modules))


def _index(run: Run, manifest: Manifest) -> Index:
    """What a snapshot holds."""
    if all(entry.path != INDEX for entry in manifest.entries):
        raise ConfigError(
            f"it was not saved by a CheckpointManager (it has no {INDEX}); restore it as files, with `ckptsync restore`"
        )
    return decoded(fetch(run, manifest, [INDEX])[INDEX], manifest.snapshot)


def _check_fits(name: str, item: Any, index: Index, tensors: Tensors | None) -> None:
    """Find out, before anything large is fetched, whether an item can take what was saved under its name.

    Args:
        name: of the item.
        item: what is to take it.
        index: what the snapshot holds.
        tensors: of a module.

    Raises:
        ConfigError: it cannot.
    """
    saved = index.items.get(name)
    if saved is None:
        there = ", ".join(sorted(index.items.keys() - {RANDOM})) or "nothing"
        raise ConfigError(f"it has no item {name!r}; it has {there} (choose with only=[…])")
    if isinstance(item, os.PathLike):
        if saved.kind != "path":
            raise ConfigError(f"its item {name!r} was no path; give what is to take its state")
        return
    if saved.kind == "path":
        raise ConfigError(f"its item {name!r} is a path; give the pathlib.Path to bring it back to")
    if not callable(getattr(item, "load_state_dict", None)) and not isinstance(item, MutableMapping | list):
        raise ConfigError(f"item {name!r} cannot take a state: it has no load_state_dict, and is no dictionary or list")
    if reason := misfit(item, saved, tensors):
        raise ConfigError(f"item {name!r} does not fit: {reason}")


def _put(item: Any, state: Any) -> None:
    """Let an item take a state."""
    if callable(getattr(item, "load_state_dict", None)):
        item.load_state_dict(state)
    elif isinstance(item, MutableMapping):
        item.clear()
        item.update(state)
    else:
        item[:] = state
