"""Fetch: files of a snapshot into memory, verified, for who needs no copy on the disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ckptsync.errors import NoSnapshotError
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot.manifest import FileEntry, Manifest
from ckptsync.transfer.budget import reading_buffers
from ckptsync.transfer.download import Reader, Received
from ckptsync.transfer.memory_target import download_into_memory


def fetch(run: Run, manifest: Manifest, paths: Collection[str]) -> Mapping[str, memoryview]:
    """Return the content of some files of a snapshot, every part of it verified. Hold a lease on the snapshot meanwhile.

    Args:
        run: where from.
        manifest: of the snapshot.
        paths: of the files.

    Raises:
        NoSnapshotError: one of them is not in the snapshot.
        IntegrityError: one of them is damaged.
        StoreError: the bucket failed for good.
    """
    files = {entry.path: entry for entry in manifest.entries if isinstance(entry, FileEntry)}
    if missing := sorted(path for path in paths if path not in files):
        raise NoSnapshotError(f"there is no {missing[0]} in snapshot {manifest.snapshot}")
    wanted = [files[path] for path in paths]
    run.observer(Event(kind=Kind.PLANNED, bytes=sum(entry.size for entry in wanted), count=len(wanted)))
    transfer = run.config.transfer
    with reading_buffers(wanted, transfer) as buffers:
        reader = Reader(store=run.store, buffers=buffers, observer=run.observer, received=Received())
        return download_into_memory(wanted, reader, transfer)
