"""Files of a snapshot one behind the other, for who writes them where nothing can be put right later: each part good before it is given.

Parts are fetched side by side and ahead of the reader, in memory that follows our own options. A part that is larger than a buffer is
given in pieces, of which all but the last come before its digest is known: should it prove bad, an error ends the stream.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial

from ckptsync.errors import ConflictError, IntegrityError, NotFoundError
from ckptsync.options import Transfer
from ckptsync.snapshot.digest import part_span
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import Tag
from ckptsync.transfer.budget import Buffers
from ckptsync.transfer.reader import Reader, check_readable
from ckptsync.transfer.workers import in_order

Write = Callable[[memoryview], object]
"""Given bytes of the file that was begun last, in order; they are gone when it returns."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One part on its way.

    Attributes:
        entry: its file.
        number: 1-based; 0 stands for the file's beginning.
        tag: version of the object.
        room: lends its memory.
        content: where it goes; None when it is too large to be held whole, and nothing is fetched ahead.
    """

    entry: FileEntry
    number: int
    tag: Tag | None
    room: ExitStack
    content: memoryview | None = None


def stream_files(
    entries: Sequence[FileEntry],
    reader: Reader,
    transfer: Transfer,
    *,
    begin: Callable[[FileEntry], object],
    write: Write,
) -> None:
    """Hand out files in their order.

    Args:
        entries: checked entries of one manifest.
        reader: what to fetch with.
        transfer: how much may be in flight.
        begin: told of each file before its content.
        write: given its content.

    Raises:
        IntegrityError: a file is missing, or a part was bad twice, or once where it is larger than a buffer.
        StoreError: the bucket failed for good.
    """
    check_readable(entries)
    longest = max((min(entry.part_bytes, entry.size) for entry in entries), default=1)
    with Buffers(transfer.parts_in_flight, min(longest, transfer.part_bytes)) as buffers:
        parts = _parts(entries, reader, buffers, transfer.part_bytes)
        with closing(in_order(partial(_fetched, reader), parts, transfer.parts_in_flight)) as fetched:
            for part in fetched:
                with part.room:
                    if not part.number:
                        begin(part.entry)
                    elif part.content is None:
                        _pass_on(part, reader, write)
                    else:
                        write(part.content)


def _parts(entries: Sequence[FileEntry], reader: Reader, buffers: Buffers, longest: int) -> Iterator[_Part]:
    """All parts, each with memory; there is some as long as the reader has no more than its own parts ahead."""
    for entry in entries:
        tag = reader.expected(entry)
        yield _Part(entry, 0, tag, ExitStack())
        for number in range(1, len(entry.parts) + 1):
            size, room = part_span(number, entry.size, entry.part_bytes)[1], ExitStack()
            content = room.enter_context(buffers.take(size)) if size <= longest else None
            yield _Part(entry, number, tag, room, content)


def _fetched(reader: Reader, part: _Part) -> _Part:
    """Fill a part's memory; runs in a thread."""
    if part.content is None:
        return part
    entry, number, content = part.entry, part.number, part.content
    with _damage(entry):
        if entry.packing is None:
            reader.fetch(entry, number, content, part.tag)
            return part
        begin = part_span(number, entry.size, entry.part_bytes)[0]

        def keep(piece: memoryview, at: int) -> None:
            content[at - begin : at - begin + len(piece)] = piece

        with reader.buffers.take(reader.window(entry, number)) as window:
            reader.fetch(entry, number, window, part.tag, keep)
    return part


def _pass_on(part: _Part, reader: Reader, write: Write) -> None:
    """Fetch a part piece by piece, and hand each on.

    Raises:
        IntegrityError: it was bad, and what was handed on cannot be taken back.
    """
    expected = part_span(part.number, part.entry.size, part.entry.part_bytes)[0]

    def keep(piece: memoryview, at: int) -> None:
        nonlocal expected
        if at != expected:
            raise IntegrityError(f"part {part.number} of {part.entry.path} was bad when it was half written; try again")
        write(piece)
        expected += len(piece)

    with _damage(part.entry), reader.buffers.take(reader.window(part.entry, part.number)) as window:
        reader.fetch(part.entry, part.number, window, part.tag, keep)


@contextmanager
def _damage(entry: FileEntry) -> Iterator[None]:
    """Say that an object that is gone, or replaced again and again, is damage."""
    try:
        yield
    except NotFoundError as error:
        raise IntegrityError(f"{entry.path} is missing from the bucket (key {entry.key!r})") from error
    except ConflictError as error:
        raise IntegrityError(f"{entry.path} was replaced in the bucket while it was read") from error
