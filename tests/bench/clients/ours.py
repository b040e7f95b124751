"""ckptsync: `save` and `restore` of a file, or its engine from and into memory."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

from meter import WARM_BYTES, Job, Move, main

import ckptsync
from ckptsync.config import resolve
from ckptsync.events import Event
from ckptsync.options import Config
from ckptsync.run import Run, open_run
from ckptsync.snapshot.digest import part_span
from ckptsync.snapshot.layout import new_snapshot_id
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.transfer import reader, source
from ckptsync.transfer.budget import Buffers
from ckptsync.transfer.journal import Journal
from ckptsync.transfer.reader import Reader, Received
from ckptsync.transfer.source import Fill, Identity, SourceFile
from ckptsync.transfer.upload import upload_files
from ckptsync.transfer.workbench import Bench, Tally
from ckptsync.transfer.workers import run_tasks

NO_DIGEST = "0" * 64


def unheard(event: Event) -> None:
    """Nobody listens."""
    del event


def connect(job: Job) -> tuple[Move, Move]:
    """Settle the options: defaults, but for where the service is."""
    scheme = "s3" if job.cloud == "s3" else "gs"
    base = f"{scheme}://{job.bucket}"
    service = {"endpoint_url": job.endpoint, **({"anonymous": True} if job.cloud == "gcs" else {})}
    config = resolve({"state_dir": str(job.path.parent / "state"), job.cloud: service})
    if job.variant == "no hash":
        source.part_hasher = reader.part_hasher = NoHash
    return verbs(base, config, job) if job.variant == "file" else engine(base, config, job)


class NoHash:
    """What a part would cost without a digest; for comparison only."""

    def update(self, data: object) -> None:
        """Look at nothing."""

    def hexdigest(self) -> str:
        """The same for all."""
        return NO_DIGEST


def verbs(base: str, config: Config, job: Job) -> tuple[Move, Move]:
    """What scripts call."""
    prepare(base, config, job)

    def put(key: str, path: Path) -> None:
        ckptsync.save(path, f"{base}/{key}", step=1, config=config, observer=unheard)

    def get(key: str, path: Path) -> None:
        ckptsync.restore(f"{base}/{key}", path, config=config, observer=unheard)

    return put, get


def prepare(base: str, config: Config, job: Job) -> None:
    """Save what is to be restored, unless it is there already; or what a run has before the save that is measured.

    The first save of a run also proves that the service honours conditions, for which Cloud Storage takes a second.
    """
    run = f"{base}/{job.key}"
    if job.direction == "put":
        first = job.path.parent / f"first-{uuid4().hex}"
        first.write_bytes(b"1")
        ckptsync.save(first, run, step=0, config=config, observer=unheard)
    elif ckptsync.latest(run, config=config) is None:
        ckptsync.save(job.blob, run, step=1, config=config, observer=unheard)


@dataclass(frozen=True, slots=True)
class Mapped(SourceFile):
    """A file whose bytes are in memory already.

    Attributes:
        content: all of them.
    """

    content: memoryview

    @contextmanager
    def opened(self) -> Iterator[Fill]:
        """Copy what stands at an offset."""

        def fill(view: memoryview, offset: int) -> None:
            view[:] = self.content[offset : offset + len(view)]

        yield fill


def engine(base: str, config: Config, job: Job) -> tuple[Move, Move]:
    """What the verbs call to move bytes, without their requests around it."""
    transfer = config.transfer
    buffers = Buffers(transfer.parts_in_flight, transfer.part_bytes)
    opened = open_run(f"{base}/engine-{uuid4().hex}", config, observer=unheard)
    run = opened.__enter__()  # until the process ends
    entries: dict[str, FileEntry] = {}
    contents = {job.blob: mapped(job.blob)}

    def put(key: str, path: Path) -> None:
        content = contents.get(path) or mapped(path)
        source = Mapped(key, path, Identity(0, 0, len(content), 0, 0), 0o644, content)
        entries[key] = upload(run, source, buffers)

    def get(key: str, path: Path) -> None:
        entry = entries[key]
        reader = Reader(store=run.store, buffers=buffers, observer=unheard, received=Received())
        tag = reader.expected(entry)

        def fetch(number: int) -> None:
            with buffers.take(part_span(number, entry.size, entry.part_bytes)[1]) as view:
                reader.fetch(entry, number, view, tag)

        del path
        run_tasks((partial(fetch, number) for number in range(1, len(entry.parts) + 1)), *transfer.threads)

    if job.direction == "get":
        put(job.key, job.blob)
    return put, get


def mapped(path: Path) -> memoryview:
    """A file's bytes."""
    content = memoryview(path.read_bytes()) if path.stat().st_size <= WARM_BYTES else None
    if content is not None:
        return content
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE, prot=mmap.PROT_READ))


def upload(run: Run, source: SourceFile, buffers: Buffers) -> FileEntry:
    """Send one file as a save does."""
    bench = Bench(
        store=run.store,
        snapshot=new_snapshot_id(1, 0),
        transfer=run.config.transfer,
        buffers=buffers,
        journal=Journal(None, Path()),
        observer=unheard,
        tally=Tally(),
    )
    return upload_files([source], bench, previous={})[0]


main(connect)
