"""Copies of a training state in host memory: taken while the training loop waits, into buffers that are used again and again.

Tensors are copied by the storage they are views of, as `torch.save` writes them: what shares memory is copied once and shares
memory in the copy. With CUDA the buffers are pinned, so that the copy runs at the speed of the bus.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from ckptsync.errors import ConfigError
from ckptsync.state.savable import BY_ENTRY, PLAIN, Known, first_line, is_plain, refusal


@dataclass(slots=True)
class Staged:
    """A copy of a state.

    Attributes:
        state: the copy.
        buffers: the memory its tensors lie in, for `Stager.give_back`.
    """

    state: Any
    buffers: list[torch.Tensor] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """How much memory its tensors take."""
        return sum(buffer.nbytes for buffer in self.buffers)


class Stager:
    """Takes copies. Not safe for many threads, but for `give_back`."""

    def __init__(self) -> None:
        """Have no memory yet."""
        self._pinned = torch.cuda.is_available()
        self._idle: dict[int, list[torch.Tensor]] = {}
        self.known: Known = set()
        """What `savable.looked_at` found in what was copied before."""

    def take(self, state: Any) -> Staged:
        """Copy a state; what it is made of may change as soon as this returns.

        Args:
            state: dictionaries, lists and tuples of tensors and of whatever `copy.deepcopy` can copy.

        Raises:
            ConfigError: a tensor of it cannot be saved by one process alone, or something cannot be copied.
        """
        taking = _Taking(self._buffer)
        staged = Staged(taking.copied(state), taking.buffers)
        if self._pinned:
            torch.cuda.synchronize()
        return staged

    def give_back(self, staged: Staged) -> None:
        """Let the next copy use the memory of this one, which nobody looks at any more."""
        idle: dict[int, list[torch.Tensor]] = {}
        for buffer in staged.buffers:
            idle.setdefault(buffer.nbytes, []).append(buffer)
        self._idle = idle  # memory of shapes that are gone is not kept

    def _buffer(self, nbytes: int) -> torch.Tensor:
        """Memory of so many bytes."""
        if idle := self._idle.get(nbytes):
            return idle.pop()
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._pinned)


class _Taking:
    """One copy being taken."""

    def __init__(self, buffer: Any) -> None:
        self.buffer = buffer
        self.buffers: list[torch.Tensor] = []
        self.storages: dict[tuple[torch.device, int, int], torch.UntypedStorage] = {}
        self.seen: dict[
            int, tuple[Any, Any]
        ] = {}  # what was copied, kept alive so that its id is its own, and the copy

    def copied(self, value: Any) -> Any:
        """Copy a value and all it holds; what is there twice is the same thing in the copy."""
        if type(value) in PLAIN:
            return value
        if id(value) in self.seen:
            return self.seen[id(value)][1]
        made: Any
        if type(value) is list:
            made = value.copy()
            self.seen[id(value)] = value, made
            if not is_plain(value):
                made[:] = [self.copied(inner) for inner in value]
        elif isinstance(value, torch.Tensor):
            made = self._tensor(value)
        elif type(value) in BY_ENTRY:
            made = copy.copy(value)
            self.seen[id(value)] = value, made
            if not is_plain(value):
                for key, inner in value.items():
                    made[key] = self.copied(inner)
        elif isinstance(value, tuple):
            inner = [self.copied(one) for one in value]
            made = type(value)(*inner) if hasattr(value, "_fields") else tuple(inner)
        else:
            made = _deep_copy(value)
        self.seen[id(value)] = value, made
        return made

    def _tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor into host memory."""
        if reason := refusal(tensor):
            raise ConfigError(f"a tensor of the state cannot be saved: {reason}")
        plain = tensor.detach()
        if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
            made = plain.cpu().clone()
        else:
            made = torch.empty(0, dtype=tensor.dtype)
            made.set_(self._storage(plain), plain.storage_offset(), plain.size(), plain.stride())
        if isinstance(tensor, torch.nn.Parameter):
            return torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
        return made.requires_grad_(tensor.requires_grad and tensor.is_leaf) if made.is_floating_point() else made

    def _storage(self, tensor: torch.Tensor) -> torch.UntypedStorage:
        """Copy the memory a tensor is a view of, once."""
        source = tensor.untyped_storage()
        key = tensor.device, source.data_ptr(), source.nbytes()
        if not source.nbytes():
            return torch.empty(0, dtype=torch.uint8).untyped_storage()
        if key not in self.storages:
            flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(source)
            buffer = self.buffer(source.nbytes())
            buffer.copy_(flat, non_blocking=True)
            self.buffers.append(buffer)
            self.storages[key] = buffer.untyped_storage()
        return self.storages[key]


def _deep_copy(value: Any) -> Any:
    """Copy something that is neither tensor nor plain, by whatever code of its own it has."""
    try:
        return copy.deepcopy(value)
    except Exception as error:
        reason = first_line(error) or type(error).__name__
        raise ConfigError(f"a {type(value).__name__} of the state cannot be copied: {reason}") from error


def tensors_of(state: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return the tensors of a state by the way to them, as in `layer.weight`; those in lists by their number."""
    found: dict[str, torch.Tensor] = {}
    _find_tensors(state, prefix, found)
    return found


def _find_tensors(state: Any, prefix: str, found: dict[str, torch.Tensor]) -> None:
    """Add the tensors of a state to those that were found."""
    if isinstance(state, torch.Tensor):
        found[prefix] = state
    elif isinstance(state, Mapping | list | tuple) and not is_plain(state):
        for key, value in state.items() if isinstance(state, Mapping) else enumerate(state):
            if type(value) not in PLAIN and not (type(value) is list and is_plain(value)):
                _find_tensors(value, f"{prefix}.{key}" if prefix else str(key), found)


def storages_of(state: Any) -> list[torch.Tensor]:
    """Return the memory on the host that the tensors of a state lie in, each once, as tensors of bytes."""
    found: dict[int, torch.Tensor] = {}
    for tensor in tensors_of(state).values():
        if tensor.layout is torch.strided and tensor.device.type == "cpu" and not hasattr(tensor, "device_mesh"):
            storage = tensor.detach().untyped_storage()
            found[storage.data_ptr()] = torch.empty(0, dtype=torch.uint8).set_(storage)
    return list(found.values())
