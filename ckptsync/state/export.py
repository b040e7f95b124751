"""Weights out of a snapshot, as the one file that inference takes. Whole snapshots are `ckptsync.verbs.export`'s."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ckptsync.errors import ConfigError
from ckptsync.run import Run
from ckptsync.snapshot.manifest import Manifest
from ckptsync.state import contents, safetensors
from ckptsync.transfer.appearing import appearing
from ckptsync.verbs.export import Exported, exported
from ckptsync.verbs.ladder import newest_good

DTYPES = ("float64", "float32", "float16", "bfloat16")
_Way = tuple[object, ...]
"""Keys that lead to something in a state."""


def export_weights(
    run: Run,
    out: Path,
    *,
    snapshot: str = "latest",
    item: str | None = None,
    dtype: str | None = None,
    strip_prefix: str = "",
    fallback: bool = True,
) -> Exported:
    """Write the tensors of an item into a safetensors file, which appears whole or not at all. Safe to call again.

    Everything is verified before it is read, and read with `weights_only`. The same snapshot and options give the same file. What
    is no tensor is left out; tensors that share memory are written one by one. It takes memory for the item twice.

    Args:
        run: where from.
        out: the file; what stands there is replaced.
        snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias.
        item: an item's name, a file's path, or either with keys behind it, as in `state.model`; None takes the only one.
        dtype: what floating-point numbers become, as in `bfloat16`; None leaves them as they are.
        strip_prefix: taken off each name that begins with it, as in `module.`.
        fallback: with `latest`, take the next older snapshot when one is damaged or quarantined.

    Raises:
        NoSnapshotError: there is none, or not the one asked for.
        IntegrityError: every snapshot tried was bad, or the item cannot be read.
        ConfigError: an argument cannot be used, the item is not there, is one tensor, holds none, two of one name, or more than plain values.
        DiskError: the disk is full or read-only.
        StoreError: the bucket failed for good.
    """
    begun_s = run.clock.monotonic()
    if dtype is not None and dtype not in DTYPES:
        raise ConfigError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    written = 0

    def write(reading: Run, manifest: Manifest) -> int:
        nonlocal written
        content = contents.fetched(reading, manifest, item)
        fetched_bytes = len(content.data)
        tensors = _renamed(
            _named(content.read(map_location="cpu"), content.place.name), content.place.name, strip_prefix
        )
        del content  # the tensors may be copies
        about = {"format": "pt", "ckptsync.snapshot": manifest.snapshot}  # transformers refuses a file without a format
        wanted = getattr(torch, dtype) if dtype else None
        with appearing(out) as file:
            for piece in safetensors.pieces(tensors, about, dtype=wanted):
                file.write(piece)
        written = len(tensors)
        return fetched_bytes

    reached = newest_good(run, snapshot, fallback=fallback, use=write)
    return exported(reached, out, files=1, tensors=written, seconds=run.clock.monotonic() - begun_s)


def _named(state: Any, name: str) -> dict[str, torch.Tensor]:
    """Return the tensors of a state by the way to them, as in `layer.weight`.

    Raises:
        ConfigError: it is a tensor itself, which has no name, or two would have one name.
    """
    if isinstance(state, torch.Tensor):
        raise ConfigError(f"{name} is one tensor; name the item that holds it, without the last key")
    found: dict[str, tuple[_Way, torch.Tensor]] = {}
    for way, tensor in _ways(state):
        key = ".".join(str(part) for part in way)
        if key in found:
            first, second = ("".join(f"[{part!r}]" for part in one) for one in (found[key][0], way))
            raise ConfigError(
                f"two tensors of {name} would both be named {key}: {first} and {second}; name a part of it as the item"
            )
        found[key] = way, tensor
    return {key: tensor for key, (_, tensor) in found.items()}


def _ways(state: Any, way: _Way = ()) -> Iterator[tuple[_Way, torch.Tensor]]:
    """Find the tensors of a state, and the keys that lead to each."""
    if isinstance(state, torch.Tensor):
        yield way, state
    inner = state.items() if isinstance(state, Mapping) else enumerate(state) if isinstance(state, list | tuple) else ()
    for key, value in inner:
        yield from _ways(value, (*way, key))


def _renamed(tensors: Mapping[str, torch.Tensor], name: str, prefix: str) -> dict[str, torch.Tensor]:
    """Take a prefix off the names of tensors.

    Raises:
        ConfigError: there are none, none has the prefix, or two would have one name.
    """
    if not tensors:
        raise ConfigError(f"{name} holds no tensors")
    if prefix and not any(key.startswith(prefix) for key in tensors):
        raise ConfigError(f"no tensor of {name} has the prefix {prefix!r}; the first is {min(tensors)}")
    renamed = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    if len(renamed) < len(tensors) or "" in renamed:
        raise ConfigError(f"without the prefix {prefix!r}, two tensors of {name} would have one name, or one none")
    return renamed
