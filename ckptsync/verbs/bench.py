"""Bench: how fast this machine and this very bucket are together, through the code a save and a restore take."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import msgspec

from ckptsync.errors import ConfigError
from ckptsync.events import Event, Kind
from ckptsync.options import MIB, Transfer
from ckptsync.records import this_writer, timestamp
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.attempt import Attempt, encode_attempt
from ckptsync.snapshot.digest import part_digest, part_span
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.transfer.budget import Buffers
from ckptsync.transfer.journal import Journal
from ckptsync.transfer.reader import Reader, Received
from ckptsync.transfer.source import Fill, Identity, SourceFile
from ckptsync.transfer.upload import upload_files
from ckptsync.transfer.workbench import Bench, Tally
from ckptsync.transfer.workers import run_tasks, settled
from ckptsync.verbs.attempts import folder_of
from ckptsync.verbs.erase import Target, View, erase

_GB = 1_000_000_000
_PATIENCE_S = 30.0
"""How long requests may take that are under way at Ctrl-C; then they are left to gc."""
_PATH = "bench.bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """One measurement.

    Attributes:
        direction: `download` hashes what it fetches; `verify` only hashes, in memory.
        bytes: moved or hashed.
        seconds: on the wall.
        mib_per_s: MiB a second.
        cpu_s_per_gb: seconds of this process's CPU, user and system, for 10^9 bytes.
    """

    direction: Literal["upload", "download", "verify"]
    bytes: int
    seconds: float
    mib_per_s: float
    cpu_s_per_gb: float


@dataclass(frozen=True, slots=True)
class _Noise(SourceFile):
    """A file that is on no disk: one random block again and again, each time with its place in front.

    Attributes:
        block: 1 MiB that does not compress.
    """

    block: bytes

    @contextmanager
    def opened(self) -> Iterator[Fill]:
        """As if there were a file."""
        yield self._made

    def _made(self, view: memoryview, offset: int) -> None:
        """Fill `view` with what stands at `offset`."""
        done = 0
        while done < len(view):
            number, skip = divmod(offset + done, len(self.block))
            count = min(len(view) - done, len(self.block) - skip)
            view[done : done + count] = memoryview(self.block)[skip : skip + count]
            counter = number.to_bytes(8, "big")[skip : skip + count]
            view[done : done + len(counter)] = counter
            done += count


def bench(run: Run, *, size_bytes: int, part_bytes: int | None = None, workers: int | None = None) -> tuple[Rate, ...]:
    """Measure upload, download and hashing. Nothing is committed, and what was uploaded is deleted again.

    The object bears the name of an attempt that is condemned from its beginning: after a kill, gc deletes it.

    Args:
        run: where.
        size_bytes: how much to move, 1 or more.
        part_bytes: 5 MiB to 5 GiB; None takes the configured.
        workers: parts in flight, 1 to 256; None takes the configured.

    Raises:
        ConfigError: an argument is out of range.
        IntegrityError: what came back is not what was sent.
        StoreError: a request failed for good.
    """
    if size_bytes < 1:
        raise ConfigError(f"{size_bytes} bytes cannot be measured; it must be 1 or more")
    transfer = _transfer(run.config.transfer, part_bytes, workers)
    source = _Noise(_PATH, Path(_PATH), Identity(0, 0, size_bytes, 0, 0), 0o644, os.urandom(MIB))
    with _scratch(run, size_bytes) as snapshot, Buffers(transfer.parts_in_flight, transfer.part_bytes) as buffers:
        entries: list[FileEntry] = []
        upload = _measured(
            run, "upload", size_bytes, lambda: entries.extend(_upload(run, source, snapshot, buffers, transfer))
        )
        entry = entries[0]
        download = _measured(run, "download", size_bytes, lambda: _download(run, entry, buffers, transfer))
        verify = _measured(run, "verify", size_bytes, lambda: _hash(source, entry, buffers, transfer))
    return upload, download, verify


def _transfer(configured: Transfer, part_bytes: int | None, workers: int | None) -> Transfer:
    """The options with what the caller wants in their place, checked as in the configuration.

    Raises:
        ConfigError: one is out of range.
    """
    wanted = {"part_bytes": part_bytes, "workers": workers, "compress": "none"}  # noise does not shrink
    options = msgspec.to_builtins(configured) | {name: value for name, value in wanted.items() if value is not None}
    try:
        return msgspec.convert(options, Transfer)
    except msgspec.ValidationError as error:
        raise ConfigError(f"bad option: {error}") from error


@contextmanager
def _scratch(run: Run, size_bytes: int) -> Iterator[SnapshotId]:
    """Lend the name of an attempt that never will be, and delete whatever was written under it."""
    snapshot = layout.new_snapshot_id(max(1, run.catalog.claims.newest_epoch()), 0)
    attempt = Attempt(
        snapshot=str(snapshot),
        files=((_PATH, size_bytes),),
        created=timestamp(run.clock),
        writer=this_writer(),
    )
    run.store.put(layout.condemned_key(snapshot), b"")
    try:
        run.store.put(layout.journal_key(snapshot), encode_attempt(attempt))
        yield snapshot
    finally:
        # what a thread that Ctrl-C has left behind sends after this, nobody would ever delete
        if settled(_PATIENCE_S):
            _erase(run, snapshot)
        else:
            message = "requests are still under way; `ckptsync gc` deletes what they leave"
            run.observer(Event(kind=Kind.NOTICE, path=str(snapshot), message=message))


def _erase(run: Run, snapshot: SnapshotId) -> None:
    """Delete everything that an attempt has in the bucket."""
    folder = folder_of(run.store, snapshot)
    view = View(
        folders={snapshot: folder} if folder else {},
        committed=frozenset(),
        condemned={snapshot},
        stale_s=float("-inf"),
    )
    uploads = tuple(run.store.uploads(layout.data_prefix(snapshot))) if run.store.traits.multipart else ()
    erase(run, [Target(attempt=snapshot, uploads=uploads)], view)


def _measured(
    run: Run, direction: Literal["upload", "download", "verify"], size_bytes: int, work: Callable[[], object]
) -> Rate:
    """Do something and say how fast it was."""
    cpu_s, begun_s = _cpu_s(), run.clock.monotonic()
    work()
    seconds = max(run.clock.monotonic() - begun_s, 1e-9)
    return Rate(
        direction=direction,
        bytes=size_bytes,
        seconds=round(seconds, 6),
        mib_per_s=round(size_bytes / MIB / seconds, 1),
        cpu_s_per_gb=round((_cpu_s() - cpu_s) * _GB / size_bytes, 3),
    )


def _cpu_s() -> float:
    """CPU this process has used, all threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _upload(
    run: Run, source: SourceFile, snapshot: SnapshotId, buffers: Buffers, transfer: Transfer
) -> tuple[FileEntry, ...]:
    """Send it as a save would, without a journal on this machine."""
    tools = Bench(
        store=run.store,
        snapshot=snapshot,
        transfer=transfer,
        buffers=buffers,
        journal=Journal(None, Path()),
        observer=run.observer,
        tally=Tally(),
    )
    return upload_files([source], tools, previous={})


def _download(run: Run, entry: FileEntry, buffers: Buffers, transfer: Transfer) -> None:
    """Fetch every part as a restore would, into memory that is used again and again."""
    reader = Reader(store=run.store, buffers=buffers, observer=run.observer, received=Received())
    tag = reader.expected(entry)

    def fetch(number: int) -> None:
        with buffers.take(part_span(number, entry.size, entry.part_bytes)[1]) as view:
            reader.fetch(entry, number, view, tag)

    run_tasks((partial(fetch, number) for number in range(1, len(entry.parts) + 1)), *transfer.threads)


def _hash(source: SourceFile, entry: FileEntry, buffers: Buffers, transfer: Transfer) -> None:
    """Hash as many parts of the same size; their content does not matter to the time it takes."""
    size = part_span(1, entry.size, entry.part_bytes)[1]
    with buffers.take(size) as view:
        source.read_into(view, 0)
        content = view.toreadonly()

        def digest(number: int) -> None:
            part_digest(content[: part_span(number, entry.size, entry.part_bytes)[1]])

        run_tasks((partial(digest, number) for number in range(1, len(entry.parts) + 1)), *transfer.threads)
