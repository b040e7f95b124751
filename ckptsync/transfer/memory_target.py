"""Files out of a bucket into memory: each part read straight to its place, and good before anybody sees the file."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

from ckptsync.errors import ConflictError, IntegrityError, NotFoundError
from ckptsync.options import Transfer
from ckptsync.snapshot.digest import part_span
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import Tag
from ckptsync.transfer.budget import new_memory
from ckptsync.transfer.reader import Reader, check_readable
from ckptsync.transfer.workers import Task, run_tasks


def download_into_memory(
    entries: Sequence[FileEntry],
    reader: Reader,
    transfer: Transfer,
    *,
    parts: Mapping[str, Collection[int]] | None = None,
) -> Mapping[str, memoryview]:
    """Fetch files, whole or some parts of them.

    Args:
        entries: checked entries of one manifest.
        reader: what to fetch with; its buffers are for packed files only.
        transfer: how many threads there may be.
        parts: numbers of the parts that are wanted, by path; None fetches all.

    Returns:
        The content of each by path, writable, in memory of its own; zeros, which take no memory, where it was not fetched.

    Raises:
        IntegrityError: a file is missing, or a part was bad twice.
        StoreError: the bucket failed for good.
    """
    check_readable(entries)
    found = {entry.path: _memory(entry) for entry in entries}
    wanted = {entry.path: range(1, len(entry.parts) + 1) if parts is None else parts[entry.path] for entry in entries}
    tasks = (partial(_file, entry, wanted[entry.path], reader, found[entry.path]) for entry in entries)
    run_tasks(tasks, *transfer.threads)
    return found


def _memory(entry: FileEntry) -> memoryview:
    """Memory for a file, of which only what is read into it is touched."""
    try:
        return memoryview(new_memory(max(entry.size, 1)))[: entry.size]
    except (OSError, OverflowError, ValueError) as error:
        raise IntegrityError(f"{entry.path} is said to have {entry.size} bytes, which no memory here holds") from error


def _file(entry: FileEntry, numbers: Collection[int], reader: Reader, content: memoryview) -> Iterable[Task]:
    """Settle the version of a file; hand back what reads its parts."""
    tag = reader.expected(entry)
    return [partial(_part, entry, number, reader, content, tag) for number in numbers]


def _part(entry: FileEntry, number: int, reader: Reader, content: memoryview, tag: Tag | None) -> None:
    """Read one part to where it belongs; a packed one by way of a buffer."""
    offset, size = part_span(number, entry.size, entry.part_bytes)
    try:
        if entry.packing is None:
            reader.fetch(entry, number, content[offset : offset + size], tag)
            return

        def keep(piece: memoryview, at: int) -> None:
            content[at : at + len(piece)] = piece

        with reader.buffers.take(reader.window(entry, number)) as window:
            reader.fetch(entry, number, window, tag, keep)
    except NotFoundError as error:
        raise IntegrityError(f"{entry.path} is missing from the bucket (key {entry.key!r})") from error
    except ConflictError as error:
        raise IntegrityError(f"{entry.path} was replaced in the bucket while it was read") from error
