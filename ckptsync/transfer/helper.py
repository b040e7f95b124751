"""A process that helps another with its small files: `python -m ckptsync.transfer.helper`, told what to do on standard input.

It decides nothing: whatever it cannot do, it hands back, and its parent does it and meets the same trouble itself. It ends
when its parent does.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import IO

from ckptsync.errors import IncompleteError
from ckptsync.events import Event
from ckptsync.snapshot.layout import parse_snapshot_id
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store import open_store
from ckptsync.store.base import Store
from ckptsync.transfer.budget import Buffers
from ckptsync.transfer.download import fetch_whole
from ckptsync.transfer.journal import Journal
from ckptsync.transfer.pipe import Done, Failed, Fetch, Job, Report, Send, Setup, Told, read, write
from ckptsync.transfer.reader import Reader, Received
from ckptsync.transfer.source import Identity, SourceFile
from ckptsync.transfer.upload_file import send_whole
from ckptsync.transfer.workbench import Bench, Tally
from ckptsync.transfer.workers import run_tasks

_BATCH = 16
_BUFFERS = 2

Work = Callable[[Job], FileEntry]


class _Reports:
    """What is said, in batches; safe for many threads."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._waiting: list[Report] = []
        self._lock = threading.Lock()

    def say(self, report: Report, *, now: bool = False) -> None:
        """Send it soon, or now."""
        with self._lock:
            self._waiting.append(report)
            if now or len(self._waiting) >= _BATCH:
                self._send()

    def flush(self) -> None:
        """Send what waits."""
        with self._lock:
            self._send()

    def _send(self) -> None:
        if self._waiting:
            write(self._stream, self._waiting)
            self._waiting = []

    def observe(self, event: Event) -> None:
        """Hand an event on."""
        self.say(Told(event.kind, event.bytes, event.count, event.path, event.message))


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Do what is asked until the other side has no more of it, or has ended."""
    setup, reports = read(requests, Setup), _Reports(answers)
    with open_store(setup.url, setup.config, observer=reports.observe) as store:
        work = _sender(setup, store, reports) if setup.snapshot else _fetcher(setup, store, reports)
        transfer = setup.config.transfer
        jobs = (partial(_tried, job, work, reports) for job in _jobs(requests, reports))
        run_tasks(jobs, *transfer.threads)
    reports.flush()


def _jobs(requests: IO[bytes], reports: _Reports) -> Iterator[Job]:
    """Batch by batch, until an empty one. They are taken in ahead, so that our parent never waits for us while we wait for it."""
    batches: SimpleQueue[list[Job]] = SimpleQueue()

    def take_in() -> None:
        with suppress(EOFError):
            while True:  # also behind the last batch, whose files may take longer than our parent lives
                batches.put(read(requests, list[Job]))
        os._exit(0)  # our parent is dead, or has heard all that we have to say

    threading.Thread(target=take_in, daemon=True).start()
    while batch := batches.get():
        yield from batch
        reports.flush()


def _tried(job: Job, work: Work, reports: _Reports) -> None:
    """Do a job, or hand it back."""
    try:
        entry = work(job)
    except Exception:  # noqa: BLE001  our parent meets it itself, and has more to say of it
        reports.say(Failed(job.path))
    else:
        reports.say(Done(entry))


def _sender(setup: Setup, store: Store, reports: _Reports) -> Work:
    """Sends files of one part."""
    snapshot, transfer = parse_snapshot_id(setup.snapshot), setup.config.transfer
    assert snapshot is not None  # noqa: S101  our parent made it
    bench = Bench(
        store=store,
        snapshot=snapshot,
        transfer=transfer,
        buffers=Buffers(_BUFFERS, transfer.part_bytes),
        journal=Journal(None, Path()),  # our parent notes what is done
        observer=reports.observe,
        tally=Tally(),
        check_not_fenced=_leave_it,
        shared=setup.shared,
    )

    def work(job: Job) -> FileEntry:
        assert isinstance(job, Send)  # noqa: S101  our parent asks for nothing else
        file = SourceFile(job.path, Path(os.fsdecode(job.location)), Identity(*job.identity), job.mode)
        return send_whole(file, bench, job.previous)

    return work


def _leave_it() -> None:
    """Begin nothing anew."""
    raise IncompleteError("a file that cannot be sent at once is left to the parent")


def _fetcher(setup: Setup, store: Store, reports: _Reports) -> Work:
    """Fetches files of one part."""
    buffers = Buffers(_BUFFERS, setup.config.transfer.part_bytes)
    reader = Reader(store=store, buffers=buffers, observer=reports.observe, received=Received())
    folder = Path(os.fsdecode(setup.folder))

    def work(job: Job) -> FileEntry:
        assert isinstance(job, Fetch)  # noqa: S101  our parent asks for nothing else
        fetch_whole(job.entry, folder, reader)
        return job.entry

    return work


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is our parent's to answer; we end with it
    try:
        serve(sys.stdin.buffer, sys.stdout.buffer)
    finally:  # what went wrong, our parent meets itself; and while a thread still reads, Python cannot end in its own way
        os._exit(0)
