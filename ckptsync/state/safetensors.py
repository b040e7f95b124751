"""Tensors as a safetensors file and back, without a second copy of them: by the documented format, in their own memory.

Source: https://github.com/huggingface/safetensors, README, "Format": 8 bytes, the length of a header; the header, JSON; the tensors'
bytes, little-endian, in the order that the header gives them, without gaps.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
import torch
from msgspec import Meta

from ckptsync.errors import ConfigError, IntegrityError

SUFFIX = ".safetensors"
_METADATA = "__metadata__"
_LENGTH_BYTES = 8
_ALIGNED_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000
"""As the library has it; what is longer is refused before it is looked into."""
_MAX_DIMENSIONS = 64
_MAX_NUMBER = (1 << 63) - 1
_Natural = Annotated[int, Meta(ge=0, le=_MAX_NUMBER)]
_NAMES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
_TYPES: dict[str, torch.dtype] = {
    name: getattr(torch, ours) for name, ours in _NAMES.items() if hasattr(torch, ours)
}  # a torch of 2024 has not all
_WORDS = {dtype: name for name, dtype in _TYPES.items()}


class _Told(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the header says of a tensor."""

    dtype: str
    shape: Annotated[tuple[_Natural, ...], Meta(max_length=_MAX_DIMENSIONS)]
    data_offsets: tuple[_Natural, _Natural]


_header_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_told_decoder = msgspec.json.Decoder(_Told)
_metadata_decoder = msgspec.json.Decoder(dict[str, str])


def pieces(
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Iterator[memoryview]:
    """Yield the file in pieces. A tensor that lies in host memory as it is written is not copied, and must be left alone.

    Tensors that share memory are written one by one, each whole.

    Args:
        tensors: by name, of any shape, dense.
        metadata: free text by name.
        dtype: what those of floating-point numbers become, one at a time; None leaves them.

    Raises:
        ConfigError: something is no tensor, or none that the format can hold; raised before the first piece.
    """
    types = {name: _checked(name, tensor, dtype) for name, tensor in tensors.items()}
    order = sorted(
        tensors, key=lambda name: (-types[name].itemsize, name)
    )  # so that each lies at a multiple of its own size
    header: dict[str, Any] = {}
    if metadata:
        if not all(isinstance(text, str) for pair in metadata.items() for text in pair):
            raise ConfigError("metadata of a safetensors file must be text by name")
        header[_METADATA] = dict(sorted(metadata.items()))
    end = 0
    for name in order:
        begin, end = end, end + tensors[name].numel() * types[name].itemsize
        header[name] = {"dtype": _WORDS[types[name]], "shape": list(tensors[name].shape), "data_offsets": [begin, end]}
    encoded = msgspec.json.encode(header)
    encoded += b" " * (-len(encoded) % _ALIGNED_BYTES)
    yield memoryview(len(encoded).to_bytes(_LENGTH_BYTES, "little") + encoded)
    for name in order:
        if tensors[name].numel():
            yield _bytes_of(tensors[name].detach().to(device="cpu", dtype=types[name]))


def _checked(name: object, tensor: object, dtype: torch.dtype | None) -> torch.dtype:
    """Return the type in which a tensor is written.

    Raises:
        ConfigError: it cannot be.
    """
    if not isinstance(name, str) or name == _METADATA:
        raise ConfigError(f"no tensor of a safetensors file can be named {name!r}")
    if not isinstance(tensor, torch.Tensor):
        raise ConfigError(f"{name} is {type(tensor).__name__}; a safetensors file holds tensors alone")
    if hasattr(tensor, "device_mesh") or tensor.is_meta or tensor.is_quantized or tensor.layout is not torch.strided:
        raise ConfigError(f"{name} is no dense tensor with data of its own; a safetensors file holds no other")
    wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
    if wanted not in _WORDS:
        raise ConfigError(f"{name} is {str(wanted).removeprefix('torch.')}, which no safetensors file holds")
    return wanted


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """View the memory of a tensor on the host; the view keeps it."""
    tensor = tensor.resolve_conj().resolve_neg().contiguous()
    memory: Any = (ctypes.c_ubyte * tensor.nbytes).from_address(tensor.data_ptr())
    memory.owner = tensor
    return memoryview(memory).cast("B")


def load(content: memoryview, *, name: str, device: Any = "cpu") -> dict[str, torch.Tensor]:
    """Return the tensors of a file. On the host they are views of `content`, which must have been verified before, and is writable.

    Args:
        content: the file.
        name: of it, for errors.
        device: where they go, as in `torch.Tensor.to`.

    Raises:
        IntegrityError: it is no such file; nothing a header says is believed that its length does not bear out.
    """
    try:
        told, begin = _told(content)
        tensors = {key: _tensor(content, begin, one) for key, one in told.items()}
    except (msgspec.DecodeError, ValueError, TypeError, OverflowError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise IntegrityError(f"{name} cannot be read: it is no safetensors file ({reason})") from error
    return {key: tensor.to(device) for key, tensor in tensors.items()}


def _told(content: memoryview) -> tuple[dict[str, _Told], int]:
    """Read the header: the tensors, and where their bytes begin.

    Raises:
        ValueError: the header is too long, or its tensors do not fill the rest of the file.
    """
    begin = _LENGTH_BYTES + int.from_bytes(content[:_LENGTH_BYTES], "little")
    if len(content) < _LENGTH_BYTES or begin > min(len(content), _MAX_HEADER_BYTES):
        raise ValueError("its header is longer than it may be")
    raw = _header_decoder.decode(content[_LENGTH_BYTES:begin])
    if (metadata := raw.pop(_METADATA, None)) is not None:
        _metadata_decoder.decode(metadata)
    told = {name: _told_decoder.decode(one) for name, one in raw.items()}
    end = 0
    for name, one in sorted(told.items(), key=lambda item: item[1].data_offsets):
        if one.dtype not in _TYPES:
            raise ValueError(f"{name} is {one.dtype}, which this torch has not")
        if one.data_offsets != (end, end + math.prod(one.shape) * _TYPES[one.dtype].itemsize):
            raise ValueError(f"{name} does not lie where it should")
        end = one.data_offsets[1]
    if begin + end != len(content):
        raise ValueError(f"its tensors have {end} bytes, and {len(content) - begin} are there")
    return told, begin


def _tensor(content: memoryview, begin: int, told: _Told) -> torch.Tensor:
    """View one tensor; copy it where it does not lie at a multiple of its own size."""
    dtype = _TYPES[told.dtype]
    first, last = (begin + offset for offset in told.data_offsets)
    if first == last:
        return torch.empty(told.shape, dtype=dtype)
    memory: Any = content[first:last]
    if first % dtype.itemsize:
        memory = bytearray(memory)
    return torch.frombuffer(memory, dtype=dtype).reshape(told.shape)
