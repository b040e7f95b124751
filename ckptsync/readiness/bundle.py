"""The index of a TensorFlow checkpoint: a sorted table of where each tensor lies in the shards.

Source: tensorflow/core/lib/io/format.cc, block.cc; tensorflow/core/protobuf/tensor_bundle.proto
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ckptsync.readiness.contents import Opened

_MAGIC = bytes.fromhex("57fb808b247547db")
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5
_MAX_INDEX_BYTES = 256 << 20
_MAX_VARINT_BYTES = 10
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SHARDS, _SHARD_ID, _OFFSET, _SIZE = 1, 3, 4, 5
_MAX_SHARDS = 100_000


@dataclass(frozen=True, slots=True)
class Index:
    """What an index tells.

    Attributes:
        why: it is not whole, in words that follow its name; empty when it is.
        ends: offset behind the last tensor of each shard; empty where blocks are compressed.
    """

    why: str = ""
    ends: tuple[int, ...] = ()


def read(opened: Opened) -> Index:
    """Read an index; for `Contents.of`."""
    if opened.size < _FOOTER_BYTES or opened.size > _MAX_INDEX_BYTES:
        return Index("is cut short")
    data = opened.read(0, opened.size)
    footer = data[-_FOOTER_BYTES:]
    if not footer.endswith(_MAGIC):
        return Index("is cut short or still being written")
    try:
        _, at = _varint(footer, 0)
        _, at = _varint(footer, at)
        begin, at = _varint(footer, at)
        size, _ = _varint(footer, at)
        if begin + size + _TRAILER_BYTES + _FOOTER_BYTES != len(data):
            return Index("does not have the size that its end tells")
        return _ends(data, begin, size)
    except (IndexError, ValueError):
        return Index("is damaged")


def _ends(data: bytes, begin: int, size: int) -> Index:
    """Where the shards end, by the entries of all blocks that the last one names."""
    ends: list[int] = []
    for _, handle in _entries(data, begin, size):
        block, at = _varint(handle, 0)
        length, _ = _varint(handle, at)
        if block + length + _TRAILER_BYTES > begin:
            return Index("is damaged")
        if data[block + length]:
            return Index()  # compressed
        for name, value in _entries(data, block, length):
            fields = dict(_fields(value))
            if not name:
                ends += [0] * min(fields.get(_SHARDS, 0), _MAX_SHARDS)
                continue
            shard = fields.get(_SHARD_ID, 0)
            ends[shard] = max(ends[shard], fields.get(_OFFSET, 0) + fields.get(_SIZE, 0))
    return Index(ends=tuple(ends))


def _entries(data: bytes, begin: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a block."""
    block = data[begin : begin + size]
    end = len(block) - 4 - 4 * int.from_bytes(block[-4:], "little")
    at, key = 0, b""
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        length, at = _varint(block, at)
        if at + own + length > end:
            raise ValueError
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + length]
        at += own + length


def _fields(message: bytes) -> Iterator[tuple[int, int]]:
    """Numbers of a message of Protocol Buffers by field; what is no number is passed over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
        elif kind == _BYTES:
            length, at = _varint(message, at)
            at += length
        elif kind in {_FIXED32, _FIXED64}:
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of variable length, and where it ends."""
    value = 0
    for place in range(_MAX_VARINT_BYTES):
        byte = data[at + place]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:  # noqa: PLR2004  the highest bit says that it goes on
            return value, at + place + 1
    raise ValueError
