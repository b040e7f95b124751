"""Snapshots and attempts made by hand: what a save would have put into the bucket, up to any point."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ckptsync.records import this_writer, timestamp
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.attempt import Attempt, encode_attempt
from ckptsync.snapshot.digest import part_count, part_digest, part_span
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FileEntry, Manifest
from ckptsync.verbs.restore import restore
from ckptsync.verbs.verify import verify

Files = Mapping[str, bytes]


class Maker:
    """Writes as a save does, but stops where a test wants it to."""

    def __init__(self, run: Run) -> None:
        self.run = run

    def entry(self, path: str, key: str, content: bytes) -> FileEntry:
        part_bytes = self.run.config.transfer.part_bytes
        spans = (
            part_span(number, len(content), part_bytes) for number in range(1, part_count(len(content), part_bytes) + 1)
        )
        parts = tuple(part_digest(content[offset : offset + size]) for offset, size in spans)
        return FileEntry(path=path, size=len(content), key=key, part_bytes=part_bytes if parts else 0, parts=parts)

    def journal(self, snapshot: SnapshotId, files: Files) -> None:
        attempt = Attempt(
            snapshot=str(snapshot),
            files=tuple((path, len(content)) for path, content in files.items()),
            created=timestamp(self.run.clock),
            writer=this_writer(),
        )
        self.run.store.put(layout.journal_key(snapshot), encode_attempt(attempt))

    def attempt(self, step: int, files: Files | None = None, *, adopts: Iterable[SnapshotId] = ()) -> SnapshotId:
        """Everything but the manifest."""
        files = {"model": b"model %d" % step, "sub/optim": b"optim %d" % step} if files is None else files
        snapshot = layout.new_snapshot_id(self.run.catalog.claims.claim().epoch, step)
        for earlier in adopts:
            self.run.store.put(layout.adoption_key(earlier, snapshot), b"")
        self.journal(snapshot, files)
        for path, content in files.items():
            self.run.store.put(layout.data_key(snapshot, path), content)
        return snapshot

    def commit(
        self, snapshot: SnapshotId, *, borrows: Iterable[str] = (), metrics: Mapping[str, float] | None = None
    ) -> SnapshotId:
        """Commit an attempt with all its data; `borrows` are keys of earlier attempts it names."""
        prefix = layout.data_prefix(snapshot)
        entries = [
            self.entry(found.key.removeprefix(prefix), found.key, self.run.store.read(found.key))
            for found in self.run.store.list(prefix)
        ]
        entries += [self.entry(f"borrowed-{n}", key, self.run.store.read(key)) for n, key in enumerate(borrows)]
        self.run.catalog.commit(
            Manifest(
                snapshot=str(snapshot),
                commit_id=secrets.token_hex(16),
                created=timestamp(self.run.clock),
                entries=tuple(sorted(entries, key=lambda entry: entry.path)),
                metrics=dict(metrics or {}),
                writer=this_writer(),
            )
        )
        return snapshot

    def snapshot(self, step: int, files: Files | None = None, **metrics: float) -> SnapshotId:
        """A committed one."""
        return self.commit(self.attempt(step, files), metrics=metrics)

    def left(self) -> list[str]:
        """All keys but those of claims."""
        return [key for key in self.there("") if not key.startswith(layout.WRITERS)]

    def there(self, prefix: str = "") -> list[str]:
        return [found.key for found in self.run.store.list(prefix)]


@pytest.fixture
def make(run: Run) -> Maker:
    """Writes into the run."""
    return Maker(run)


@pytest.fixture
def maker() -> type[Maker]:
    """Writes into other runs."""
    return Maker


@pytest.fixture
def packing(run_with: Callable[..., Run]) -> Callable[..., Run]:
    """A run whose saves pack."""
    return lambda **given: run_with(**({"compress": "zstd"} | given))


@pytest.fixture
def comes_back(source: Path, target: Path, content: Any) -> Callable[[Run], None]:
    """Make sure that the newest snapshot is good, and what is on the disk."""

    def check(run: Run) -> None:
        assert verify(run).bad == ()
        restore(run, target)
        assert content(target) == content(source)

    return check
