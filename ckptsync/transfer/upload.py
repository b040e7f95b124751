"""Files into a bucket: parts in parallel, each hashed once as it is read; what the bucket has already is not sent again.

Three places may have a part already: an unfinished upload of an earlier attempt (its parts are kept), a file an earlier attempt
finished (it is named where it is), and the previous snapshot (the part is copied on the server). Times and sizes decide
nothing: every part is read and hashed, and only equal digests are reused.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple

from ckptsync.events import Kind
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.transfer.helpers import SMALL_BYTES, Crew, move_with_help
from ckptsync.transfer.journal import Progress
from ckptsync.transfer.pipe import Done, Send, Told
from ckptsync.transfer.source import SourceFile
from ckptsync.transfer.upload_file import start_file
from ckptsync.transfer.workbench import NOTHING_LEFT, Bench, Leftovers
from ckptsync.transfer.workers import Task, run_tasks


def upload_files(
    files: Sequence[SourceFile],
    bench: Bench,
    *,
    previous: Mapping[str, FileEntry],
    leftovers: Leftovers = NOTHING_LEFT,
    crew: Crew | None = None,
) -> tuple[FileEntry, ...]:
    """Bring files into the bucket.

    Args:
        files: what to send.
        bench: what to work with; its journal may know of an earlier attempt.
        previous: the previous snapshot's files by path.
        leftovers: unfinished work found in the bucket itself.
        crew: processes that may help; None does everything here.

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

    def move(some: Iterable[SourceFile]) -> None:
        run_tasks(map(task, some), *bench.transfer.threads)

    def hear(report: Told | Done) -> None:
        if isinstance(report, Done):
            bench.journal.finished(report.entry)
            entries.append(report.entry)
        elif report.kind == Kind.SENT:
            bench.tell_sent(report.path, report.bytes)
        elif report.kind == Kind.REUSED:
            bench.tell_reused(report.path, report.bytes)
        else:
            bench.observer(report.event)

    known = bench.journal.files.keys() | leftovers.uploads.keys() | leftovers.objects.keys()

    def job(file: SourceFile) -> Send | None:
        if file.size > SMALL_BYTES or file.path in known or not file.is_on_disk:
            return None
        return Send(file.path, os.fsencode(file.location), astuple(file.identity), file.mode, previous.get(file.path))

    move_with_help(files, crew, job=job, move=move, hear=hear, observer=bench.observer)
    return tuple(sorted(entries, key=lambda entry: entry.path))
