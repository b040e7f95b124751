"""The file that one rank of torch.distributed.checkpoint sends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.storage import WriteResult

from ckptsync.transfer.memory_source import MemoryFile


class ShardFile:
    """The shards of one rank, one behind the other, as `FileSystemWriter` writes them."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.pieces: list[memoryview] = []
        self.results: list[WriteResult] = []
        self.size = 0
        self._kept: list[torch.Tensor] = []

    def add(self, index: Any, pieces: Sequence[memoryview], *, keep: torch.Tensor | None = None) -> None:
        """Append one shard; `keep` is what its pieces are views of."""
        length = sum(piece.nbytes for piece in pieces)
        self.results.append(
            WriteResult(index=index, size_in_bytes=length, storage_data=_StorageInfo(self.path, self.size, length))
        )
        self.pieces += pieces
        self.size += length
        if keep is not None:
            self._kept.append(keep)

    def made(self, now_ns: int) -> MemoryFile:
        """The file."""
        return MemoryFile.of(self.path, self.pieces, made_ns=now_ns)
