"""What a training loop hands in by name: which file of a snapshot each becomes, and what the index beside them says of it."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch

from ckptsync.errors import ConfigError, ManifestError
from ckptsync.snapshot.layout import check_path
from ckptsync.state import archive, randomness
from ckptsync.state.savable import a, looked_at
from ckptsync.state.staging import Staged, Stager, storages_of, tensors_of
from ckptsync.state.targets import takes
from ckptsync.transfer.memory_source import JoinedTree, MemoryFile, joined
from ckptsync.transfer.source import SourceTree

INDEX = "state.json"
RANDOM = "random"
_FORMAT: Literal[1] = 1
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
MAX_INDEX_BYTES = 64 << 20
_TAKEN_NAMES = frozenset(
    {
        "snapshot",
        "only",
        "map_location",
        "weights_only",
        "fallback",
        "step",
        "metrics",
        "meta",
        "self",
        "f",
        "config",
        "observer",
    }
)
"""Arguments that `restore`, `save` and `preflight` have of their own, so that no item can be asked for by them."""
_log = logging.getLogger("ckptsync")


class Tensor(msgspec.Struct, frozen=True, array_like=True):
    """What is told of a tensor.

    Attributes:
        dtype: as in `float32`.
        shape: its lengths.
    """

    dtype: str
    shape: tuple[int, ...]


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """What is told of an item.

    Attributes:
        kind: `state` is a file of `torch.save`, `path` a file or folder as it was on the disk.
        tensors: those of a state, by the way to them.
        devices: kinds of devices they were on, as in `cuda`; empty when it is not known.
        holds: class of the state, `dict` for any mapping and `Tensor` for any tensor; empty when it is not known.
        groups: of an optimizer's state, how many parameters each group has.
        options: of an optimizer's state, what every group sets, as in `lr`.
    """

    kind: Literal["state", "path"]
    tensors: dict[str, Tensor] = {}
    devices: tuple[str, ...] = ()
    holds: str = ""
    groups: tuple[int, ...] = ()
    options: tuple[str, ...] = ()


class Index(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot of a training loop holds; the file `state.json` in it.

    Attributes:
        format: 1.
        torch: the version that wrote it.
        items: by name.
        world: how many processes the job had, by `torch.distributed`.
    """

    format: Literal[1]
    torch: str
    items: dict[str, Item]
    world: int = 1


_decoder = msgspec.json.Decoder(Index)


def file_of(name: str) -> str:
    """Return the path of a state's file in a snapshot."""
    return f"{name}.pt"


def decoded(content: memoryview, snapshot: str) -> Index:
    """Read an index.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return _decoder.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{INDEX} of snapshot {snapshot} cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Taken:
    """What a loop handed in, copied.

    Attributes:
        staged: the states by name.
        trees: what is on the disk, each below its own name.
        index: what is told of them.
    """

    staged: Staged
    trees: tuple[SourceTree, ...]
    index: Index


def take(items: Mapping[str, Any], stager: Stager, scan: Any, make_room: Callable[[], None] = lambda: None) -> Taken:
    """Copy what shall be saved; what is in memory may change as soon as this returns.

    Args:
        items: by name: with a `state_dict`, or a path, or anything that `torch.save` takes, also with such things in dictionaries,
            lists and tuples.
        stager: has the memory for copies.
        scan: looks at a path.
        make_room: called once names and paths are found good, before memory is taken.

    Raises:
        ConfigError: a name or an item cannot be saved.
    """
    for name in items:
        if name in _TAKEN_NAMES:
            raise ConfigError(f"nothing can be saved under the name {name!r}: restore has an argument of that name")
    paths = {name: Path(item) for name, item in items.items() if isinstance(item, os.PathLike)}
    states = {
        checked_name(name): looked_at(name, item, stager.known) for name, item in items.items() if name not in paths
    }
    trees = tuple(scan(path).below(checked_name(name)) for name, path in paths.items())
    make_room()
    staged = stager.take(states | {RANDOM: randomness.captured()})
    told = {name: told_of(state, states.get(name)) for name, state in staged.state.items()}
    _warn(items, stager)
    return Taken(staged, trees, _index(told | {name: Item(kind="path") for name in paths}))


def in_place(name: str, state: Any) -> Taken:
    """Return a state as it is, not copied; whoever owns it leaves it alone while it is saved.

    Raises:
        ConfigError: the name cannot be used.
    """
    staged = Staged({checked_name(name): state}, storages_of(state))
    return Taken(staged, (), _index({name: told_of(state, state)}))


def processes() -> int:
    """Return how many processes this job has, by `torch.distributed`; 1 where it is not used."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def _index(items: dict[str, Item]) -> Index:
    """What is told of a job."""
    return Index(format=_FORMAT, torch=str(torch.__version__), items=items, world=processes())


def told_of(state: Any, source: Any) -> Item:
    """Return what is told of a state, and of what it is a copy of."""
    devices = {tensor.device.type for tensor in tensors_of(source).values()}
    groups = _groups(state)
    return Item(
        kind="state",
        tensors=_told(state),
        devices=tuple(sorted(devices)),
        holds=_kind(state),
        groups=tuple(len(group["params"]) for group in groups),
        options=tuple(sorted(set.intersection(*(set(group) - {"params"} for group in groups)))) if groups else (),
    )


def _kind(state: Any) -> str:
    """What a state is."""
    if isinstance(state, torch.Tensor):
        return "Tensor"
    if isinstance(state, list):
        return "list"
    return "dict" if isinstance(state, Mapping) else type(state).__name__


def _groups(state: Any) -> list[Mapping[str, Any]]:
    """The groups of parameters, of what `torch.optim` makes; none of anything else."""
    if not isinstance(state, Mapping) or state.keys() != {"state", "param_groups"}:
        return []
    groups = state["param_groups"]
    looks_so = isinstance(groups, list) and all(
        isinstance(group, Mapping) and isinstance(group.get("params"), list) and set(map(type, group)) == {str}
        for group in groups
    )
    return groups if looks_so else []


def _warn(items: Mapping[str, Any], stager: Stager) -> None:
    """Say once which items restore cannot give back, since they cannot be changed."""
    for name, item in items.items():
        if not isinstance(item, os.PathLike) and not takes(item) and (name, Item) not in stager.known:
            stager.known.add((name, Item))
            _log.warning(
                "item %r is %s, into which restore cannot put anything back; save it in a dictionary",
                name,
                a(type(item).__name__),
            )


def tree_of(taken: Taken, *, now_ns: int) -> JoinedTree:
    """Return the tree that becomes the snapshot; its files are views of what was copied.

    Raises:
        ConfigError: a state cannot be pickled.
    """
    files = [
        MemoryFile.of(file_of(name), archive.pieces_of(state, taken.staged.buffers), made_ns=now_ns)
        for name, state in taken.staged.state.items()
    ]
    index = memoryview(msgspec.json.encode(taken.index, order="sorted"))
    return joined([*files, MemoryFile.of(INDEX, [index], made_ns=now_ns)], taken.trees, now_ns=now_ns)


def checked_name(name: str) -> str:
    """Return a name that an item may have.

    Raises:
        ConfigError: it may not.
    """
    try:
        check_path(name)
    except ManifestError as error:
        raise ConfigError(f"nothing can be saved under the name {name!r}: {error}") from error
    if not _NAME.fullmatch(name) or name == RANDOM:
        raise ConfigError(f"nothing can be saved under the name {name!r}; use a Python name other than {RANDOM!r}")
    return name


def _told(state: Any) -> dict[str, Tensor]:
    """What is told of a state's tensors."""
    return {
        name: Tensor(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in tensors_of(state).items()
    }
