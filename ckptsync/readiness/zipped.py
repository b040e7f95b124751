"""Whether a zip file is whole, without reading what it holds.

Source: .ZIP File Format Specification (APPNOTE.TXT) 6.3.10, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16, 4.5.3
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ckptsync.readiness.contents import Opened

BEGINNING = b"PK\x03\x04"
_END, _END64, _LOCATOR, _CENTRAL = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"
_END_FORMAT = struct.Struct("<4s4H2LH")
_END64_FORMAT = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_FORMAT = struct.Struct("<4sLQL")
_CENTRAL_FORMAT = struct.Struct("<4s6H3L5H2L")
_LOCAL_BYTES = 30
_MAX_COMMENT_BYTES = 0xFFFF
_MAX_DIRECTORY_BYTES = 256 << 20
_LARGE, _LARGE_FIELD = 0xFFFFFFFF, 1
_HEADERS_COMPARED = 4096
"""Where there are more, as many that lie evenly among them are compared."""


class BrokenError(Exception):
    """A file is not whole; says why, in words that follow the file's name."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a zip file.

    Attributes:
        name: as it stands there.
        begin: offset of its header.
        size: bytes that it takes in the zip file, behind its header.
        full_size: bytes of its content.
        method: of compression; 0 for none.
        crc: CRC-32 of its content, as the zip file tells it.
    """

    name: bytes
    begin: int
    size: int
    full_size: int
    method: int
    crc: int


def members(opened: Opened) -> tuple[Member, ...]:
    """Return what a zip file holds, in the order in which it lies there, having compared its directory with it.

    Raises:
        BrokenError: it is cut short, is still being written, or makes no sense.
    """
    begin, size, count = _directory(opened)
    found = _listed(opened.read(begin, size), count)
    found.sort(key=lambda member: member.begin)
    end = 0
    for member in found:
        if member.begin < end:
            raise BrokenError("has members that overlap")
        end = member.begin + _LOCAL_BYTES + len(member.name) + member.size
    if end > begin or (found and found[0].begin != 0):
        raise BrokenError("does not have the size that its directory tells")
    for member in found[:: max(1, -(-len(found) // _HEADERS_COMPARED))]:
        header = opened.read(member.begin, _LOCAL_BYTES + len(member.name))
        if header[:4] != BEGINNING or header[_LOCAL_BYTES:] != member.name:
            raise BrokenError("does not hold what its directory tells")
    return tuple(found)


def stored(opened: Opened, member: Member, max_bytes: int) -> bytes | None:
    """Return the beginning of a member's content; None when it is compressed."""
    if member.method:
        return None
    header = opened.read(member.begin, _LOCAL_BYTES)
    name_bytes, extra_bytes = struct.unpack_from("<2H", header, 26)
    return opened.read(member.begin + _LOCAL_BYTES + name_bytes + extra_bytes, min(member.size, max_bytes))


def _directory(opened: Opened) -> tuple[int, int, int]:
    """Where the central directory begins, how many bytes it has, and how many entries."""
    tail_begin = max(0, opened.size - _END_FORMAT.size - _MAX_COMMENT_BYTES)
    tail = opened.read(tail_begin, opened.size - tail_begin)
    at = tail.rfind(_END)
    if at < 0 or at + _END_FORMAT.size > len(tail):
        raise BrokenError("has no end yet")
    _, disk, first_disk, _, count, size, begin, comment = _END_FORMAT.unpack_from(tail, at)
    if at + _END_FORMAT.size + comment != len(tail) or disk != first_disk:
        raise BrokenError("goes on behind its end")
    end = tail_begin + at
    locator = opened.read(max(0, end - _LOCATOR_FORMAT.size), _LOCATOR_FORMAT.size)
    if locator[:4] == _LOCATOR and len(locator) == _LOCATOR_FORMAT.size:
        end = _LOCATOR_FORMAT.unpack(locator)[2]
        record = opened.read(min(end, opened.size), _END64_FORMAT.size)
        if record[:4] != _END64 or len(record) != _END64_FORMAT.size:
            raise BrokenError("has a damaged end")
        *_, count, size, begin = _END64_FORMAT.unpack(record)
    if begin + size != end or size > _MAX_DIRECTORY_BYTES or count * _CENTRAL_FORMAT.size > size:
        raise BrokenError("does not have the size that its end tells")
    return begin, size, count


def _listed(directory: bytes, count: int) -> list[Member]:
    """The entries of a central directory."""
    found: list[Member] = []
    at = 0
    while len(found) < count:
        if at + _CENTRAL_FORMAT.size > len(directory):
            break
        head = _CENTRAL_FORMAT.unpack_from(directory, at)
        signature, method, crc, size, full_size, name_bytes, extra_bytes, comment_bytes = (
            head[0],
            *(head[index] for index in (4, 7, 8, 9, 10, 11, 12)),
        )
        name_at = at + _CENTRAL_FORMAT.size
        extra_at = name_at + name_bytes
        if signature != _CENTRAL or extra_at + extra_bytes + comment_bytes > len(directory):
            break
        extra = directory[extra_at : extra_at + extra_bytes]
        full_size, size, begin = _enlarged(extra, full_size, size, head[16])
        found.append(Member(directory[name_at:extra_at], begin, size, full_size, method, crc))
        at = extra_at + extra_bytes + comment_bytes
    if len(found) != count or at != len(directory):
        raise BrokenError("has a damaged directory")
    return found


def _enlarged(extra: bytes, *fields: int) -> tuple[int, int, int]:
    """Sizes and offset, from the field for large ones where they do not fit."""
    large = _field(extra)
    found: list[int] = []
    for value in fields:
        if value == _LARGE and len(large) >= 8:  # noqa: PLR2004  a 64-bit number
            value, large = int.from_bytes(large[:8], "little"), large[8:]  # noqa: PLW2901  the rest of it
        found.append(value)
    full_size, size, begin = found
    return full_size, size, begin


def _field(extra: bytes) -> bytes:
    """The extra field for large sizes."""
    at = 0
    while at + 4 <= len(extra):
        number, size = struct.unpack_from("<2H", extra, at)
        if number == _LARGE_FIELD:
            return extra[at + 4 : at + 4 + size]
        at += 4 + size
    return b""
