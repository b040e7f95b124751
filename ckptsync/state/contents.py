"""States in the files of a snapshot, whoever saved it: which file is meant, and what is in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ckptsync.errors import ConfigError
from ckptsync.run import Run
from ckptsync.snapshot.manifest import Manifest
from ckptsync.state import archive, safetensors
from ckptsync.state.items import RANDOM, file_of
from ckptsync.verbs.fetch import fetch

_PICKLES = (".pt", ".pth", ".ckpt", ".bin")
_NAMED = 8
"""So many files are named in an error."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a state stands.

    Attributes:
        path: of the file.
        keys: the way to it in the file, empty where it is all of it.
    """

    path: str
    keys: tuple[str, ...]

    @property
    def name(self) -> str:
        """For errors."""
        return ".".join((self.path, *self.keys)) if self.keys else self.path


@dataclass(frozen=True, slots=True)
class Content:
    """A file that was fetched and is verified.

    Attributes:
        place: what is wanted of it.
        data: all of it.
    """

    place: Place
    data: memoryview

    def read(self, *, map_location: Any = None, weights_only: bool = True) -> Any:
        """Return the state.

        Args:
            map_location: as in `torch.load`; of a safetensors file a device.
            weights_only: as in `torch.load`; False lets a pickle run whatever code it names.

        Raises:
            ConfigError: it holds more than `weights_only` allows, or not what is wanted.
            IntegrityError: it cannot be read.
        """
        if self.place.path.endswith(safetensors.SUFFIX):
            if not isinstance(map_location, str | torch.device | None):
                raise ConfigError(f"map_location is {map_location!r}; a safetensors file takes a device alone")
            archive.check_device(map_location)
            found: Any = safetensors.load(self.data, name=self.place.path, device=map_location or "cpu")
        else:
            found = archive.load(self.data, name=self.place.path, map_location=map_location, weights_only=weights_only)
        for key in self.place.keys:
            if not isinstance(found, Mapping) or key not in found:
                there = _list(sorted(map(str, found))) if isinstance(found, Mapping) else "no names at all"
                raise ConfigError(f"{self.place.path} has no {key!r} where {self.place.name} is wanted; it has {there}")
            found = found[key]
        return found


def fetched(run: Run, manifest: Manifest, item: str | None, suffixes: tuple[str, ...] = ()) -> Content:
    """Find a state and fetch the file it stands in.

    Args:
        run: where from; hold a lease on the snapshot meanwhile.
        manifest: of the snapshot.
        item: an item's name, or a file's path, or either with keys behind it, as in `state.model`; None takes the only one.
        suffixes: what files may end in; none means any that hold states.

    Raises:
        ConfigError: it is not there, or there are several to choose from.
        IntegrityError: it is damaged.
    """
    place = _place(manifest, item, suffixes or (*_PICKLES, safetensors.SUFFIX))
    return Content(place, fetch(run, manifest, [place.path])[place.path])


def _place(manifest: Manifest, item: str | None, suffixes: tuple[str, ...]) -> Place:
    """Find out which file is meant."""
    paths = [file.path for file in manifest.files if file.path.endswith(suffixes) and file.path != file_of(RANDOM)]
    if item is None:
        if len(paths) == 1:
            return Place(paths[0], ())
        if not paths:
            raise ConfigError(f"snapshot {manifest.snapshot} has no file that ends in {' or '.join(suffixes)}")
        raise ConfigError(f"snapshot {manifest.snapshot} has {_list(paths)}; say which item, as in {_item(paths[0])}")
    for path in sorted(paths, key=len, reverse=True):
        for name in (path, _item(path)):
            if item == name:
                return Place(path, ())
            if item.startswith(f"{name}."):
                return Place(path, tuple(item.removeprefix(f"{name}.").split(".")))
    raise ConfigError(f"snapshot {manifest.snapshot} has no item {item!r}; it has {_list(paths) or 'none'}")


def _item(path: str) -> str:
    """Name of the item that a file holds."""
    return path.rpartition(".")[0]


def _list(names: list[str]) -> str:
    """For people."""
    return ", ".join([*names[:_NAMED], *(["…"] if len(names) > _NAMED else [])])
