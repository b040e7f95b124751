"""Parts that are not stored as they are: what a manifest says of them, and the limits a reader holds them to.

See docs/design/format.md, Packed files, which this file implements.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from sys import byteorder
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

BLOCK_BYTES = 1 << 20
"""So much of a part is shuffled as one, and is one frame."""
END_DIGITS = 16
MAX_PACKED_PART_BYTES = 1 << 30

Shuffle = Literal[1, 2, 4, 8]
_Ends = Annotated[str, Meta(pattern=r"^[0-9a-f]+\Z")]


class Encoding(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the object of a packed file is to be read.

    Attributes:
        name: of the encoding.
        shuffle: size in bytes of the elements whose first bytes stand together, then their second bytes, and so on, within each
            block; 1 leaves the bytes in their order.
        ends: where each part ends in the object, in order, 16 hex digits each. One text, since a list of numbers could cost a
            reader far more memory than it costs a stranger to write.
    """

    name: Literal["zstd"]
    shuffle: Shuffle
    ends: _Ends

    @property
    def size(self) -> int:
        """Bytes of the object."""
        return int(self.ends[-END_DIGITS:], 16)

    def span(self, number: int) -> tuple[int, int]:
        """Return offset and size in bytes of part `number` (1-based) in the object."""
        at = (number - 1) * END_DIGITS
        offset = int(self.ends[at - END_DIGITS : at], 16) if at else 0
        return offset, int(self.ends[at : at + END_DIGITS], 16) - offset

    def fits(self, size: int, part_bytes: int) -> bool:
        """Tell whether these can be the parts of a file of `size` bytes: as many, none empty, none larger than it may be."""
        if len(self.ends) % END_DIGITS or part_bytes > MAX_PACKED_PART_BYTES:
            return False
        ends = array("Q", bytes.fromhex(self.ends))
        if byteorder == "little":
            ends.byteswap()
        if len(ends) != -(-size // part_bytes):
            return False
        most, last = packed_bound(part_bytes), packed_bound(size - (len(ends) - 1) * part_bytes)
        begin = 0
        for end in ends:
            if not 0 < end - begin <= most:
                return False
            begin = end
        return self.span(len(ends))[1] <= last


def encoding_of(shuffle: Shuffle, sizes: Iterable[int]) -> Encoding:
    """Describe an object that consists of packed parts.

    Args:
        shuffle: how all of them were shuffled.
        sizes: bytes of each in the object, in order.
    """
    end, ends = 0, []
    for size in sizes:
        end += size
        ends.append(f"{end:0{END_DIGITS}x}")
    return Encoding(name="zstd", shuffle=shuffle, ends="".join(ends))


def packed_bound(size: int) -> int:
    """Return the most bytes a packed part of `size` bytes may have in the object: more than zstd ever makes of it, and of filling."""
    return size + (size >> 7) + 1024
