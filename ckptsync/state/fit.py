"""Whether what was saved fits what is here, by names, shapes, types and versions alone: known before anything large is fetched."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal

import torch

from ckptsync.snapshot.manifest import Manifest
from ckptsync.state.items import Index, Item, processes
from ckptsync.state.staging import tensors_of

_NUMBER = re.compile(r"[0-9]{1,9}")
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


def modules_of(items: Mapping[str, Any]) -> dict[str, Tensors]:
    """Return the tensors of the modules among items, by name. Asked for once, since a sharded module gathers them."""
    return {
        name: tensors_of(item.state_dict(keep_vars=True))
        for name, item in items.items()
        if isinstance(item, torch.nn.Module)
    }


def misfit(item: Any, saved: Item, tensors: Tensors | None) -> str:
    """Tell why what was saved does not fit a module or an optimizer; empty when it does, or nothing is known.

    Args:
        item: what is to take it.
        saved: what is told of it.
        tensors: of a module.
    """
    if tensors is not None:
        return _module_misfit(tensors, saved)
    if isinstance(item, torch.optim.Optimizer):
        return _optimizer_misfit(item, saved)
    return ""


def _module_misfit(tensors: Tensors, saved: Item) -> str:
    """Compare a module's tensors with those that were saved."""
    there = {path: tensor.shape for path, tensor in saved.tensors.items()}
    later = {path for path, tensor in tensors.items() if torch.nn.parameter.is_lazy(tensor)}  # takes any shape
    here = {path: tuple(tensor.shape) for path, tensor in tensors.items() if path not in later}
    wrong = [path for path in sorted((here.keys() | there.keys()) - later) if here.get(path) != there.get(path)]
    if not wrong:
        return ""
    more = f", and {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
    return f"{wrong[0]} is {_shape(there.get(wrong[0]))} there and {_shape(here.get(wrong[0]))} here{more}"


def _optimizer_misfit(optimizer: torch.optim.Optimizer, saved: Item) -> str:
    """Find state of parameters that are not here. What `torch.optim` saves is named `state.NUMBER.…`."""
    ways = (path.split(".") for path in saved.tensors)
    numbers = {int(way[1]) for way in ways if len(way) > 1 and way[0] == "state" and _NUMBER.fullmatch(way[1])}
    here = sum(len(group["params"]) for group in optimizer.param_groups)
    if not numbers or max(numbers) < here:
        return ""
    return f"it has state of parameter {max(numbers)} there, and {here} parameters here"


def differences(index: Index, manifest: Manifest, modules: Mapping[str, Tensors]) -> dict[str, str]:
    """Tell what differs without standing in the way, by kind.

    Args:
        index: what the snapshot holds.
        manifest: of the snapshot.
        modules: the tensors of those that are to be restored, by name.
    """
    found = {
        "versions": _versions(index, manifest),
        "devices": _devices(index, modules),
        "dtypes": "; ".join(_dtypes(index, modules)),
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


def _devices(index: Index, modules: Mapping[str, Tensors]) -> str:
    """Compare the kinds of devices of modules."""
    there = {device for name in modules for device in index.items[name].devices}
    here = {tensor.device.type for tensors in modules.values() for tensor in tensors.values()}
    if not there or not here or there == here:
        return ""
    return f"was saved from {' and '.join(sorted(there))}, and is loaded to {' and '.join(sorted(here))}"


def _dtypes(index: Index, modules: Mapping[str, Tensors]) -> Iterator[str]:
    """Compare the types of modules' tensors, which `load_state_dict` converts."""
    for name, here in modules.items():
        there = index.items[name].tensors
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
