"""The file `.metadata` of torch.distributed.checkpoint, read without running what a stranger may have written into it."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch.distributed.checkpoint import filesystem
from torch.distributed.checkpoint import metadata as torch_metadata
from torch.distributed.checkpoint.metadata import Metadata

from ckptsync.errors import ConfigError, IntegrityError, NoSnapshotError
from ckptsync.readiness.dcp import METADATA
from ckptsync.run import Run
from ckptsync.snapshot.manifest import Manifest
from ckptsync.verbs.fetch import fetch


def metadata_of(run: Run, manifest: Manifest) -> Metadata:
    """Read what a snapshot holds.

    Raises:
        IntegrityError: it is damaged, or holds what no metadata holds.
        ConfigError: it was not saved by torch.distributed.checkpoint.
    """
    try:
        content = fetch(run, manifest, [METADATA])[METADATA]
    except NoSnapshotError as error:
        raise ConfigError(f"snapshot {manifest.snapshot} was not saved by torch.distributed.checkpoint") from error
    try:
        metadata = _Unpickler(io.BytesIO(content)).load()
    except Exception as error:  # a crafted pickle raises what it likes
        raise IntegrityError(f"{METADATA} of {manifest.snapshot} cannot be read: {error}") from error
    if not isinstance(metadata, Metadata):
        raise IntegrityError(f"{METADATA} of {manifest.snapshot} is no metadata but {type(metadata).__name__}")
    return metadata


class _Sealed(type):
    """A class that stands for another, so that a pickle which means to change that one changes nothing."""

    def __setattr__(cls, name: str, value: object) -> None:
        """Refuse."""
        raise pickle.UnpicklingError(f"it changes {cls.__name__}, which no metadata does")


def _stands_for(made: Callable[..., Any], name: str) -> Any:
    """Return a class that can be called, or made objects of, and nothing else."""
    return _Sealed(name, (), {"__slots__": (), "__new__": lambda _, *args: made(*args)})


class _Encoding:
    """Equals one member of an enumeration. The member itself could be changed for all of the process."""

    __slots__ = ("_member",)

    def __init__(self, number: int) -> None:
        self._member = torch_metadata._MEM_FORMAT_ENCODING(number)  # noqa: SLF001  what the pickle names

    def __eq__(self, other: object) -> bool:
        """As the member."""
        return other is self._member

    def __hash__(self) -> int:
        """As the member."""
        return hash(self._member)


_ENCODINGS = _stands_for(_Encoding, "_MEM_FORMAT_ENCODING")


def _encoding_named(cls: object, name: str) -> _Encoding:
    """What `getattr` is called for: the first versions of Python 3.11 write members of enumerations so."""
    if cls is not _ENCODINGS:
        raise pickle.UnpicklingError("it asks for an attribute, which no metadata needs")
    return _Encoding(torch_metadata._MEM_FORMAT_ENCODING[name].value)  # noqa: SLF001  as above


def _path(*parts: str) -> str:
    """The path a `FileSystemWriter` wrote to. Nothing reads it, and a path of another system could not be made."""
    return "/".join(str(part) for part in parts)


def _known() -> dict[tuple[str, str], Any]:
    """All that metadata is made of, by module and name; what this torch lacks is left out."""
    known: dict[tuple[str, str], Any] = {
        ("torch", "Size"): torch.Size,
        ("torch", "device"): torch.device,
        ("collections", "OrderedDict"): OrderedDict,
        ("builtins", "set"): set,
        ("builtins", "frozenset"): frozenset,
        (torch_metadata.__name__, "_MEM_FORMAT_ENCODING"): _ENCODINGS,
        ("builtins", "getattr"): _stands_for(_encoding_named, "getattr"),
    }
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"):
            known[module, name] = _stands_for(_path, name)
    values = (
        (torch_metadata, _VALUES),
        (filesystem, ("_StorageInfo", "_StoragePrefix")),
    )
    for found, names in values:
        for name in names:
            cls = vars(found).get(name)
            if isinstance(cls, type) and cls.__module__ == found.__name__:
                known[found.__name__, name] = _stands_for(partial(object.__new__, cls), name)
    if layout := vars(torch.serialization).get("_get_layout"):
        known["torch.serialization", "_get_layout"] = _stands_for(layout, "_get_layout")
    return known


_VALUES = (
    "Metadata",
    "MetadataIndex",
    "TensorStorageMetadata",
    "BytesStorageMetadata",
    "ChunkStorageMetadata",
    "TensorProperties",
    "StorageMeta",
)
_KNOWN = _known()


class _Unpickler(pickle.Unpickler):
    """Reads metadata, and nothing that could run code: a snapshot may have been written by a stranger.

    A pickle may call what it names, and set attributes of it. So it is given no function or class that code could be made
    with, and none that belongs to the process and could be changed: classes are stood for, and the rest cannot be changed.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return what metadata is made of."""
        if (known := _KNOWN.get((module, name))) is not None:
            return known
        found = vars(torch).get(name) if module == "torch" else None
        if isinstance(found, torch.dtype | torch.layout):
            return found
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no metadata needs")
