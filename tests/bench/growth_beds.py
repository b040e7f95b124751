"""Runs and trees of any size, put down as many saves would have left them, without the time those would have taken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from ckptsync.events import Event
from ckptsync.options import Config, Transfer
from ckptsync.records import this_writer
from ckptsync.run import Run, run_on
from ckptsync.snapshot import layout
from ckptsync.snapshot.attempt import Attempt, encode_attempt
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FileEntry, Manifest, encode
from ckptsync.store import open_store
from ckptsync.store.base import Store
from ckptsync.store.local import LocalStore
from ckptsync.store.memory import MemoryStore
from ckptsync.store.meter import Metered
from ckptsync.testing.gcs.server import GcsServer

STRIDE = 1000
"""Steps between two snapshots that a rule for every so many steps keeps."""
PART_BYTES = 1 << 20
_CREATED = "2026-11-25T00:00:00.000Z"
_FILES = {"model.bin": b"weights", "optimizer.bin": b"moments", "config.json": b"{}"}
_FILES_IN_A_FOLDER = 1000


def quiet(event: Event) -> None:
    """Tell nobody."""
    del event


def opened(store: Store, state: Path) -> tuple[Run, Metered]:
    """A run on a store, and what counts its requests."""
    meter = Metered(store)
    return run_on(meter, Config(transfer=Transfer(), state_dir=str(state)), observer=quiet), meter


@contextmanager
def bucket(kind: str, folder: Path) -> Iterator[tuple[Store, list[object]]]:
    """An empty bucket: `memory`, `directory` or `gcs`; and the requests that reach its service, where there is one."""
    if kind == "memory":
        yield MemoryStore(), []
    elif kind == "directory":
        yield LocalStore(folder / "bucket"), []
    else:
        with GcsServer(buckets=["growth"], writes_per_s=None) as server:
            place = {"STORAGE_EMULATOR_HOST": server.url}
            with mock.patch.dict(os.environ, place), open_store("gs://growth/run", Config()) as store:
                yield store, server.requests  # type: ignore[misc]  # only counted


def fill(store: Store, snapshots: int, *, spare: int | None = None) -> None:
    """Put down a run of so many snapshots of one writer.

    Args:
        store: where.
        snapshots: how many; all but one are of steps that are multiples of `STRIDE`.
        spare: the place, from 1 on, of the one that is not; None puts it right before the newest.
    """
    run = run_on(store, Config(), observer=quiet)
    spare = max(1, snapshots - 1) if spare is None else spare
    with mock.patch.object(os, "fsync", return_value=None):
        epoch = run.catalog.claims.claim().epoch
        for place in range(1, snapshots + 1):
            _put(store, SnapshotId(epoch, place * STRIDE + (place == spare), f"{place:08d}"))


def _put(store: Store, snapshot: SnapshotId) -> None:
    """One snapshot, in the order in which a save puts it down."""
    names = tuple((path, len(content)) for path, content in sorted(_FILES.items()))
    attempt = Attempt(snapshot=str(snapshot), files=names, created=_CREATED, writer=this_writer())
    store.put(layout.journal_key(snapshot), encode_attempt(attempt))
    entries = []
    for path, content in sorted(_FILES.items()):
        key = layout.data_key(snapshot, path)
        tag = store.put(key, content).tag
        parts = (part_digest(content),)
        entries.append(FileEntry(path=path, size=len(content), key=key, tag=tag, part_bytes=len(content), parts=parts))
    manifest = Manifest(
        snapshot=str(snapshot),
        commit_id=f"{snapshot.step:032x}",
        created=_CREATED,
        entries=tuple(entries),
        metrics={"loss": 1 / (1 + snapshot.step)},
        writer=this_writer(),
    )
    store.put(layout.manifest_key(snapshot), encode(manifest))


def tree(root: Path, files: int) -> Path:
    """A directory of tiny files, a thousand to a folder, none of them so young that a save reads it twice."""
    for number in range(files):
        folder = root / f"shard-{number // _FILES_IN_A_FOLDER:04d}"
        if not number % _FILES_IN_A_FOLDER:
            folder.mkdir(parents=True)
        (folder / f"tensor-{number:06d}.bin").write_bytes(b"%d" % number)
    return root


def manifest(parts: int, files: int) -> Manifest:
    """A manifest of so many parts."""
    snapshot = SnapshotId(1, 1, "abcdefgh")
    count = parts // files
    return Manifest(
        snapshot=str(snapshot),
        commit_id="0" * 32,
        created=_CREATED,
        entries=tuple(_file(snapshot, number, count) for number in range(files)),
        writer=this_writer(),
    )


def _file(snapshot: SnapshotId, number: int, parts: int) -> FileEntry:
    """A file of random parts."""
    path = f"shard-{number:07d}.bin"
    return FileEntry(
        path=path,
        size=parts * PART_BYTES,
        key=layout.data_key(snapshot, path),
        part_bytes=PART_BYTES,
        parts=tuple(os.urandom(32).hex() for _ in range(parts)),
    )
