"""Uploads one room below the verbs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ckptsync.events import Event
from ckptsync.options import MIB, Transfer
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import Store
from ckptsync.transfer.budget import Buffers
from ckptsync.transfer.journal import Journal, Progress
from ckptsync.transfer.source import scan
from ckptsync.transfer.upload import upload_files
from ckptsync.transfer.workbench import NOTHING_LEFT, Bench, Leftovers, Tally

NEW = SnapshotId(2, 7, "bbbbbbbb")

Send = Callable[..., tuple[FileEntry, ...]]
Limited = Callable[..., Store]


def by_path(entries: tuple[FileEntry, ...]) -> dict[str, FileEntry]:
    return {entry.path: entry for entry in entries}


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def send(store: Any, tally: Tally, tmp_path: Path, events: list[Event]) -> Send:
    """Upload `src` as a new attempt."""

    def upload(
        *,
        on: Store = store,
        previous: Mapping[str, FileEntry] | None = None,
        leftovers: Leftovers = NOTHING_LEFT,
        known: Mapping[str, Progress] | None = None,
        snapshot: SnapshotId = NEW,
        **transfer: Any,
    ) -> tuple[FileEntry, ...]:
        journal = Journal(None, tmp_path)
        journal.files.update(known or {})
        tally.bytes_sent = tally.bytes_reused = tally.parts_sent = 0
        options = Transfer(**({"part_bytes": MIB, "workers": 4} | transfer))
        bench = Bench(
            store=on,
            snapshot=snapshot,
            transfer=options,
            buffers=Buffers(options.parts_in_flight, options.part_bytes),
            journal=journal,
            observer=events.append,
            tally=tally,
        )
        tree = scan(tmp_path / "src", now_ns=0)
        return upload_files(tree.files, bench, previous=previous or {}, leftovers=leftovers)

    return upload


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Where the file to be sent lies: `a`, 3.5 MiB."""
    file = tmp_path / "src" / "a"
    file.parent.mkdir()
    file.write_bytes(os.urandom(7 * MIB // 2))
    return file


@pytest.fixture
def previous(send: Send, source: Path, store: Any) -> dict[str, FileEntry]:  # noqa: ARG001  the source is there first
    """The file as an earlier snapshot has it."""
    entries = by_path(send(snapshot=SnapshotId(1, 6, "aaaaaaaa")))
    store.heal()
    return entries
