"""The file `.metadata` of torch.distributed.checkpoint, read without running what a stranger may have written into it."""

from __future__ import annotations

import io
import pickle
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import Metadata

from ckptsync.errors import ConfigError, IntegrityError, NoSnapshotError
from ckptsync.run import Run
from ckptsync.snapshot.manifest import Manifest
from ckptsync.verbs.fetch import fetch

METADATA = ".metadata"


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
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, TypeError) as error:
        raise IntegrityError(f"{METADATA} of {manifest.snapshot} cannot be read: {error}") from error
    if not isinstance(metadata, Metadata):
        raise IntegrityError(f"{METADATA} of {manifest.snapshot} is no metadata but {type(metadata).__name__}")
    return metadata


class _Unpickler(pickle.Unpickler):
    """Reads metadata, and nothing that could run code: a snapshot may have been written by a stranger."""

    _modules = ("torch.distributed.checkpoint.metadata",)
    _names = frozenset(
        {
            ("torch", "Size"),
            ("torch", "device"),
            ("torch._utils", "_get_dtype"),
            ("torch.serialization", "_get_layout"),
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch.distributed.checkpoint.filesystem", "_StoragePrefix"),
            ("collections", "OrderedDict"),
            ("builtins", "set"),
            ("builtins", "frozenset"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        """Return a class that metadata is made of."""
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.layout)
        if not (dtype or (module, name) in self._names or (module in self._modules and "." not in name)):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no metadata needs")
        return super().find_class(module, name)
