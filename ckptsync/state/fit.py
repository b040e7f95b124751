"""Whether what was saved fits what is here, by names, shapes, types and versions alone: known before anything large is fetched."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import torch

from ckptsync.snapshot.manifest import Manifest
from ckptsync.state import optimizers
from ckptsync.state.items import RANDOM, Index, Item, processes
from ckptsync.state.savable import a
from ckptsync.state.staging import tensors_of
from ckptsync.state.targets import Target, loads

_EXTRA = "_extra_state"
"""What torch calls a state of a module's own, which may be of another size each time."""
Verdict = Literal["loads", "needs resharding", "will fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preflight:
    """What will come of loading a snapshot.

    Attributes:
        snapshot: its id.
        verdict: whether it loads, needs resharding, or will fail.
        reason: why it does not load as it is; empty when it does.
        differences: what differs without standing in the way, a sentence by kind: `versions`, `devices`, `dtypes`, `processes`.
    """

    snapshot: str
    verdict: Verdict
    reason: str
    differences: Mapping[str, str]

    def __str__(self) -> str:
        """One sentence."""
        if self.verdict == "loads":
            return f"snapshot {self.snapshot} loads"
        if self.verdict == "needs resharding":
            return f"snapshot {self.snapshot} needs resharding: {self.reason}"
        return f"loading snapshot {self.snapshot} will fail because {self.reason}"


Tensors = Mapping[str, torch.Tensor]
"""Of a module, by the way to them."""


def modules_of(targets: Iterable[Target]) -> dict[str, Tensors]:
    """Return the tensors of the modules among what takes a state, by name. A sharded module gathers them for it."""
    return {
        target.name: tensors_of(target.taker.state_dict(keep_vars=True))
        for target in targets
        if isinstance(target.taker, torch.nn.Module)
    }


def told_at(index: Index, target: Target) -> Item:
    """Return what is told of a target's state: of one that is in an item, its tensors and devices alone."""
    item = index.items[target.item]
    if not target.way:
        return item
    prefix = ".".join(map(str, target.way)) + "."
    tensors = {path.removeprefix(prefix): one for path, one in item.tensors.items() if path.startswith(prefix)}
    return Item(kind="state", tensors=tensors, devices=item.devices)


def misfit(taker: Any, saved: Item, tensors: Tensors | None) -> str:
    """Tell why what was saved does not fit what is to take it; empty when it does, or nothing is known.

    Args:
        taker: what is to take it.
        saved: what is told of it.
        tensors: of a module.
    """
    if isinstance(taker, torch.nn.Module | torch.optim.Optimizer) and saved.holds not in {"", "dict"}:
        return f"it is {a(saved.holds)} there, and {a(type(taker).__name__)} takes a dictionary"
    if isinstance(taker, torch.optim.Optimizer):
        return optimizers.misfit(taker, saved)
    if tensors is not None:
        return _module_misfit(tensors, saved)
    return "" if loads(taker) or not saved.holds else _plain_misfit(taker, saved)


def random_misfit(index: Index) -> str:
    """Tell why the generators of random numbers cannot be set to what was saved, as far as the index knows; empty when they can."""
    saved = index.items[RANDOM].tensors.get("torch") if RANDOM in index.items else None
    here = tuple(torch.get_rng_state().shape)
    if saved is None or (saved.dtype, saved.shape) == ("uint8", here):
        return ""
    return f"torch's is {saved.dtype} {list(saved.shape)} there and uint8 {list(here)} here"


def _plain_misfit(taker: Any, saved: Item) -> str:
    """Compare the kind of what is there with that of a dictionary, list, tuple or tensor."""
    if isinstance(taker, torch.Tensor):
        there = saved.tensors[""].shape if saved.holds == "Tensor" and "" in saved.tensors else None
        if there != tuple(taker.shape):
            return f"it is {a(saved.holds) if there is None else _shape(there)} there, and a tensor {_shape(tuple(taker.shape))} here"
        return "it is on the device 'meta' here, where nothing can be loaded" if taker.is_meta else ""
    here = "dict" if isinstance(taker, MutableMapping) else "list"
    if saved.holds == here or (here == "list" and saved.holds == "tuple"):
        return ""
    hint = "" if saved.holds in {"dict", "list", "tuple", "Tensor"} else "; ckptsync.integrations.torch.load reads it"
    ours = "tuple" if isinstance(taker, tuple) else here
    return f"it is {a(saved.holds)} there, and a {ours} here{hint}"


def _module_misfit(tensors: Tensors, saved: Item) -> str:
    """Compare a module's tensors with those that were saved."""
    if bare := [path for path, tensor in tensors.items() if tensor.is_meta and not torch.nn.parameter.is_lazy(tensor)]:
        return f"{bare[0]} is on the device 'meta' here, where nothing can be loaded; give it memory first, with to_empty(device=…)"
    tensors = {path: tensor for path, tensor in tensors.items() if _EXTRA not in path.split(".")}
    there = {path: tensor.shape for path, tensor in saved.tensors.items() if _EXTRA not in path.split(".")}
    later = {path for path, tensor in tensors.items() if torch.nn.parameter.is_lazy(tensor)}  # takes any shape
    here = {path: tuple(tensor.shape) for path, tensor in tensors.items() if path not in later}
    wrong = [path for path in sorted((here.keys() | there.keys()) - later) if here.get(path) != there.get(path)]
    if not wrong:
        return ""
    more = f", and {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
    return f"{wrong[0]} is {_shape(there.get(wrong[0]))} there and {_shape(here.get(wrong[0]))} here{more}"


def differences(
    index: Index, manifest: Manifest, modules: Mapping[str, Tensors], told: Mapping[str, Item]
) -> dict[str, str]:
    """Tell what differs without standing in the way, by kind.

    Args:
        index: what the snapshot holds.
        manifest: of the snapshot.
        modules: the tensors of those that are to be restored, by name.
        told: what is told of them, by name.
    """
    found = {
        "versions": _versions(index, manifest),
        "devices": _devices(told, modules),
        "dtypes": "; ".join(_dtypes(told, modules)),
        "processes": _processes(index),
    }
    return {kind: f"snapshot {manifest.snapshot} {text}" for kind, text in found.items() if text}


def _versions(index: Index, manifest: Manifest) -> str:
    """Compare major and minor versions; others promise to be alike."""
    here = {
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "ckptsync": metadata.version("ckptsync"),
    }
    there = {**manifest.provenance.versions, "torch": index.torch}
    changed = [name for name in here if name in there and _minor(there[name]) != _minor(here[name])]
    if not changed:
        return ""
    told = (" and ".join(f"{name} {versions[name]}" for name in changed) for versions in (there, here))
    return "was saved with {}, and is loaded with {}".format(*told)


def _minor(version: str) -> list[str]:
    """Major and minor number."""
    return version.split(".")[:2]


def _devices(told: Mapping[str, Item], modules: Mapping[str, Tensors]) -> str:
    """Compare the kinds of devices of modules."""
    there = {device for name in modules for device in told[name].devices}
    here = {tensor.device.type for tensors in modules.values() for tensor in tensors.values()}
    if not there or not here or there == here:
        return ""
    return f"was saved from {' and '.join(sorted(there))}, and is loaded to {' and '.join(sorted(here))}"


def _dtypes(told: Mapping[str, Item], modules: Mapping[str, Tensors]) -> Iterator[str]:
    """Compare the types of modules' tensors, which `load_state_dict` converts."""
    for name, here in modules.items():
        there = told[name].tensors
        for path, tensor in here.items():
            ours = str(tensor.dtype).removeprefix("torch.")
            if path in there and there[path].dtype != ours:
                yield f"has {there[path].dtype} where item {name!r} has {ours} (first at {path}); it is converted"
                break


def _processes(index: Index) -> str:
    """Compare the numbers of processes."""
    if index.world == (here := processes()):
        return ""
    return f"was saved by a job of {index.world} processes, and is loaded by one of {here}"


def _shape(shape: tuple[int, ...] | None) -> str:
    """For people."""
    return "absent" if shape is None else f"{list(shape)}"
