"""Fetch: files of a snapshot into memory, verified, for who needs no copy on the disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ckptsync.errors import IntegrityError, NoSnapshotError
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot.manifest import FileEntry, Manifest
from ckptsync.transfer.budget import reading_buffers
from ckptsync.transfer.memory_target import download_into_memory
from ckptsync.transfer.reader import Reader, Received


def fetch(
    run: Run,
    manifest: Manifest,
    paths: Collection[str],
    *,
    spans: Mapping[str, Collection[tuple[int, int]]] | None = None,
) -> Mapping[str, memoryview]:
    """Return the content of some files of a snapshot, every part of it verified. Hold a lease on the snapshot meanwhile.

    Args:
        run: where from.
        manifest: of the snapshot.
        paths: of the files.
        spans: by path, offset and size of what is wanted of it; the parts that hold it are fetched. None fetches all.

    Raises:
        NoSnapshotError: one of them is not in the snapshot.
        IntegrityError: one of them is damaged.
        StoreError: the bucket failed for good.
    """
    files = {entry.path: entry for entry in manifest.entries if isinstance(entry, FileEntry)}
    if missing := sorted(path for path in paths if path not in files):
        raise NoSnapshotError(f"there is no {missing[0]} in snapshot {manifest.snapshot}")
    wanted = [files[path] for path in paths]
    parts = None if spans is None else {entry.path: _parts(entry, spans[entry.path]) for entry in wanted}
    size = sum(entry.size if parts is None else len(parts[entry.path]) * entry.part_bytes for entry in wanted)
    run.observer(Event(kind=Kind.PLANNED, bytes=size, count=len(wanted)))
    transfer = run.config.transfer
    with reading_buffers(wanted, transfer) as buffers:
        reader = Reader(store=run.store, buffers=buffers, observer=run.observer, received=Received())
        return download_into_memory(wanted, reader, transfer, parts=parts)


def _parts(entry: FileEntry, spans: Collection[tuple[int, int]]) -> Collection[int]:
    """Numbers of the parts that hold some ranges of a file.

    Raises:
        IntegrityError: a range ends behind the file.
    """
    found: set[int] = set()
    for offset, size in spans:
        if offset < 0 or size < 0 or offset + size > entry.size:
            raise IntegrityError(f"{entry.path} has {entry.size} bytes; {size} are wanted from {offset} on")
        if size:
            found |= set(range(offset // entry.part_bytes + 1, (offset + size - 1) // entry.part_bytes + 2))
    return sorted(found)
