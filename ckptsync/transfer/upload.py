"""Files into a bucket: parts in parallel, each hashed once as it is read; what the bucket has already is not sent again.

Three places may have a part already: an unfinished upload of an earlier attempt (its parts are kept), a file an earlier attempt
finished (it is named where it is), and the previous snapshot (the part is copied on the server). Times and sizes decide
nothing: every part is read and hashed, and only equal digests are reused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ckptsync.snapshot.manifest import FileEntry
from ckptsync.transfer.journal import Progress
from ckptsync.transfer.source import SourceFile
from ckptsync.transfer.upload_file import start_file
from ckptsync.transfer.workbench import NOTHING_LEFT, Bench, Leftovers
from ckptsync.transfer.workers import Task, run_tasks


def upload_files(
    files: Iterable[SourceFile],
    bench: Bench,
    *,
    previous: Mapping[str, FileEntry],
    leftovers: Leftovers = NOTHING_LEFT,
) -> tuple[FileEntry, ...]:
    """Bring files into the bucket.

    Args:
        files: what to send.
        bench: what to work with; its journal may know of an earlier attempt.
        previous: the previous snapshot's files by path.
        leftovers: unfinished work found in the bucket itself.

    Returns:
        An entry for each file, sorted by path. Nothing is committed by this.

    Raises:
        SourceChangedError: a file changed while it was read.
        StoreError: the bucket failed for good; what was sent stays for the next attempt.
    """
    entries: list[FileEntry] = []

    def task(file: SourceFile) -> Task:
        progress = bench.journal.files.get(file.path) or Progress()
        return lambda: start_file(file, bench, progress, previous.get(file.path), leftovers, entries.append)

    transfer = bench.transfer
    run_tasks((task(file) for file in files), transfer.parts_in_flight, transfer.most_workers)
    return tuple(sorted(entries, key=lambda entry: entry.path))
