"""A snapshot back into what a training loop has: looked at first, so that a loop is changed whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ckptsync.errors import ConfigError
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot.manifest import Manifest
from ckptsync.state import archive, randomness, targets
from ckptsync.state.fit import Preflight, differences, misfit, modules_of, random_misfit, told_at
from ckptsync.state.items import INDEX, RANDOM, Index, decoded, file_of, told_of
from ckptsync.state.savable import a
from ckptsync.state.targets import ABSENT, Target, takes, targets_of
from ckptsync.verbs.fetch import fetch

_DCP = ".metadata"
"""What `torch.distributed.checkpoint` calls its index."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """What was fetched of a snapshot, verified and not yet looked into.

    Attributes:
        index: what the snapshot holds.
        contents: of the items that were asked for, by name.
        items: what is to take them, by name; empty when they are only read.
        snapshot: its id.
    """

    index: Index
    contents: Mapping[str, memoryview]
    items: Mapping[str, Any] = field(default_factory=dict)
    snapshot: str = ""


def fetched(run: Run, manifest: Manifest, items: Mapping[str, Any], only: Collection[str] | None) -> Fetched:
    """Fetch what is to be restored, unless it can be told before that it will not fit.

    Args:
        run: where from.
        manifest: of the snapshot.
        items: what is to be restored, by name; paths are looked up and not fetched (`paths_of`).
        only: names of these; None for all, and for the generators of random numbers.

    Raises:
        ConfigError: `only` names what was not given, an item is not in the snapshot, or its tensors are others.
        IntegrityError: the snapshot is damaged.
    """
    index, found = _looked_at(run, manifest, items, only)
    if index is None:
        raise ConfigError(str(found))
    for message in found.differences.values():
        run.observer(Event(kind=Kind.NOTICE, path=manifest.snapshot, message=message))
    taking = _states_among(wanted(items, only))
    names = list(taking)
    if only is None and RANDOM in index.items:
        names.append(RANDOM)
    contents = fetch(run, manifest, [file_of(name) for name in names])
    return Fetched(index, {name: contents[file_of(name)] for name in names}, taking, manifest.snapshot)


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
    return _looked_at(run, manifest, items, only)[1]


def paths_of(items: Mapping[str, Any], only: Collection[str] | None) -> dict[str, Path]:
    """Return those items that are paths, of those that are to be restored."""
    return {name: Path(item) for name, item in wanted(items, only).items() if isinstance(item, os.PathLike)}


def states_in(found: Fetched, *, map_location: Any = None, weights_only: bool = True) -> dict[str, Any]:
    """Read what was fetched, and make sure that each item can take it.

    Args:
        found: what was fetched.
        map_location: as in `torch.load`.
        weights_only: as in `torch.load`.

    Raises:
        ConfigError: a state holds more than `weights_only` allows, or is not what its item takes.
        IntegrityError: a state cannot be read.
    """
    if found.items and str(map_location).partition(":")[0] == "meta":
        raise ConfigError("map_location is 'meta', where nothing has data to take back")
    states = {
        name: archive.load(
            content,
            name=f"item {name!r}",
            map_location=None if name == RANDOM else map_location,
            weights_only=weights_only or name == RANDOM,
        )
        for name, content in found.contents.items()
    }
    try:
        _check_states(states, found.items)
    except ConfigError as error:
        raise ConfigError(f"loading snapshot {found.snapshot} will fail because {error}") from error
    return states


def put(states: Mapping[str, Any], items: Mapping[str, Any]) -> None:
    """Let items take their states, and the generators of random numbers theirs: in the order of `targets.put`.

    Args:
        states: as read.
        items: what takes them, by name: with a `load_state_dict`; or a dictionary or list, which then has the content that was saved,
            with what in it has a `load_state_dict` kept; or a tensor of the shape that was saved.

    Raises:
        ConfigError: a `load_state_dict` failed; nothing is changed.
        CkptsyncError: a `load_state_dict` failed, and what is named is changed.
    """
    targets.put(states, targets_of({name: items[name] for name in states if name != RANDOM}))
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
    index, found = _looked_at(run, manifest, {}, ())
    if index is None:
        raise ConfigError(str(found))
    names = [name for name, item in index.items.items() if item.kind == "state" and name != RANDOM]
    contents = fetch(run, manifest, [file_of(name) for name in names])
    return states_in(Fetched(index, {name: contents[file_of(name)] for name in names}), map_location="cpu")


def wanted(items: Mapping[str, Any], only: Collection[str] | None) -> dict[str, Any]:
    """Return the items that are to be restored, by name.

    Raises:
        ConfigError: `only` names what is not among them, or is text.
    """
    if isinstance(only, str):
        raise ConfigError(f"only is the text {only!r}; give a list of names, as in only=[{only!r}]")
    if only is not None and (strange := sorted(str(name) for name in only if name not in items)):
        raise ConfigError(
            f"only names {strange[0]!r}, which was not given; given are {', '.join(sorted(items)) or 'none'}"
        )
    return {name: item for name, item in items.items() if only is None or name in only}


def _states_among(items: Mapping[str, Any]) -> dict[str, Any]:
    """Those items that are no paths."""
    return {name: item for name, item in items.items() if not isinstance(item, os.PathLike)}


def _looked_at(
    run: Run, manifest: Manifest, items: Mapping[str, Any], only: Collection[str] | None
) -> tuple[Index | None, Preflight]:
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
        chosen = wanted(items, only)
        index = _index(run, manifest)
        for name, item in chosen.items():
            _check_kind(name, item, index)
        takers = targets_of(_states_among(chosen))
        modules = modules_of(takers)
        saved = {taker.name: told_at(index, taker) for taker in takers}
        for taker in takers:
            _check_fits(taker, misfit(taker.taker, saved[taker.name], modules.get(taker.name)))
        if only is None:
            _check_random(random_misfit(index))
    except ConfigError as error:
        return None, told(verdict="will fail", reason=str(error), differences={})
    return index, told(verdict="loads", reason="", differences=differences(index, manifest, modules, saved))


def _index(run: Run, manifest: Manifest) -> Index:
    """What a snapshot holds."""
    if all(entry.path != INDEX for entry in manifest.entries):
        raise ConfigError(
            f"it was not saved by a CheckpointManager (it has no {INDEX}); restore it as files, with `ckptsync restore`"
        )
    return decoded(fetch(run, manifest, [INDEX])[INDEX], manifest.snapshot)


def _check_kind(name: str, item: Any, index: Index) -> None:
    """Find out, before anything large is fetched, whether something was saved under an item's name that an item of its kind can take.

    Args:
        name: of the item.
        item: what is to take it.
        index: what the snapshot holds.

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
    if not takes(item):
        raise ConfigError(
            f"item {name!r} cannot take a state: {a(type(item).__name__)} has no load_state_dict, and is no dictionary, list or tensor"
        )


def _check_fits(taker: Target, reason: str) -> None:
    """Refuse what does not fit, for a reason.

    Raises:
        ConfigError: there is one.
    """
    if reason:
        raise ConfigError(f"item {taker.name!r} does not fit: {reason}")


def _check_states(states: Mapping[str, Any], items: Mapping[str, Any]) -> None:
    """Find out whether items can take their states, now that these are read. What was known before may have been less, or wrong.

    Raises:
        ConfigError: one cannot.
    """
    if not items and RANDOM not in states:
        return
    takers = targets_of(items)
    modules = modules_of(takers)
    for taker in takers:
        state = taker.state_in(states)
        if state is ABSENT:
            _check_fits(taker, "it is absent there")
        _check_fits(taker, misfit(taker.taker, told_of(state, None), modules.get(taker.name)))
    if RANDOM in states:
        _check_random(randomness.misfit(states[RANDOM]))


def _check_random(reason: str) -> None:
    """Refuse random numbers that cannot be taken back, for a reason.

    Raises:
        ConfigError: there is one.
    """
    if reason:
        raise ConfigError(
            f"its random numbers cannot be taken back ({reason}); choose what to restore without them with only=[…]"
        )
