"""What this machine knows of an upload in progress, so that a killed one is continued.

One file of JSON lines for each source and run, held by an advisory lock while a save is under way. Lines are appended, never
changed; a line torn by a kill is ignored. Losing the file costs speed only: the bucket's own records take over.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ckptsync.events import Event, Kind, Observer
from ckptsync.snapshot.encoding import Shuffle
from ckptsync.snapshot.envelope import UNREADABLE
from ckptsync.snapshot.layout import SnapshotId, parse_snapshot_id
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import PartTag, Tag, Upload


class _Attempt(msgspec.Struct, frozen=True, kw_only=True, tag="attempt"):
    snapshot: str


class _Begun(msgspec.Struct, frozen=True, kw_only=True, tag="begun"):
    path: str
    key: str
    upload: str
    part_bytes: int
    shuffle: Shuffle | None = None


class _Part(msgspec.Struct, frozen=True, kw_only=True, tag="part"):
    path: str
    upload: str
    number: int
    size: int
    digest: str
    tag: str
    hashes: dict[str, str] = {}


class _Finished(msgspec.Struct, frozen=True, kw_only=True, tag="finished"):
    entry: FileEntry


_Line = _Attempt | _Begun | _Part | _Finished
_decoder = msgspec.json.Decoder(_Line)
_MAX_LINE_BYTES = 128 << 20
"""Twice what a file of a million parts takes."""


@dataclass(slots=True)
class Progress:
    """How far one file had come.

    Attributes:
        upload: the unfinished multipart upload, None when there is none.
        part_bytes: where that upload cuts the file, 0 when unknown.
        parts: digest and tag by part number, as far as this machine recorded them.
        entry: set once the file was whole in the bucket.
        shuffle: how that upload packs its parts, None when it does not.
    """

    upload: Upload | None = None
    part_bytes: int = 0
    parts: dict[int, tuple[str, PartTag]] = field(default_factory=dict)
    entry: FileEntry | None = None
    shuffle: Shuffle | None = None


class Journal:
    """The open journal of one save; safe for many threads. Made by `open_journal`."""

    def __init__(self, descriptor: int | None, location: Path) -> None:
        """Read what is there; None keeps nothing."""
        self._descriptor = descriptor
        self._is_full = False
        self._location = location
        self._lock = threading.Lock()
        self.attempts: list[SnapshotId] = []
        self.files: dict[str, Progress] = {}
        if descriptor is not None:
            self._read()

    def _read(self) -> None:
        """Take in every whole line; stop at the first that is torn or strange."""
        good = 0
        with self._location.open("rb") as file:
            while (line := file.readline(_MAX_LINE_BYTES)).endswith(b"\n"):
                try:
                    record = _decoder.decode(line)
                except UNREADABLE:
                    break
                good += len(line)
                self._apply(record)
        assert self._descriptor is not None  # noqa: S101  only called with one
        os.ftruncate(self._descriptor, good)

    def _apply(self, record: _Line) -> None:
        """Fold one line into what is known."""
        if isinstance(record, _Attempt):
            if snapshot := parse_snapshot_id(record.snapshot):
                self.attempts.append(snapshot)
        elif isinstance(record, _Begun):
            self.files[record.path] = Progress(
                upload=Upload(key=record.key, id=record.upload), part_bytes=record.part_bytes, shuffle=record.shuffle
            )
        elif isinstance(record, _Finished):
            self.files[record.entry.path] = Progress(entry=record.entry)
        else:
            progress = self.files.get(record.path)
            if progress and progress.upload and progress.upload.id == record.upload:
                tag = PartTag(number=record.number, size=record.size, tag=Tag(record.tag), hashes=record.hashes)
                progress.parts[record.number] = (record.digest, tag)

    def attempt(self, snapshot: SnapshotId) -> None:
        """Note that an attempt begins."""
        self._append(_Attempt(snapshot=str(snapshot)))

    def begun(self, path: str, upload: Upload, part_bytes: int, shuffle: Shuffle | None = None) -> None:
        """Note that a file's multipart upload is open, and how its parts are packed, if they are."""
        self._append(_Begun(path=path, key=upload.key, upload=upload.id, part_bytes=part_bytes, shuffle=shuffle))

    def part(self, path: str, upload: Upload, digest: str, tag: PartTag) -> None:
        """Note that a part is in the bucket."""
        self._append(
            _Part(
                path=path,
                upload=upload.id,
                number=tag.number,
                size=tag.size,
                digest=digest,
                tag=tag.tag,
                hashes=dict(tag.hashes),
            )
        )

    def finished(self, entry: FileEntry) -> None:
        """Note that a file is whole in the bucket."""
        self._append(_Finished(entry=entry))

    def forget(self) -> None:
        """Start empty: what is recorded belongs to another step."""
        self.attempts, self.files = [], {}
        with self._lock:
            if self._descriptor is not None:
                os.ftruncate(self._descriptor, 0)

    def remove(self) -> None:
        """Drop the file: everything in it is committed."""
        if self._descriptor is not None:
            self._location.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file; what threads that are still at work would note is dropped. Safe to call again."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _append(self, record: _Line) -> None:
        """Write one line in one call; after one that does not fit on the disk no further one, which would be unreadable."""
        line = msgspec.json.encode(record) + b"\n"
        with self._lock:
            if self._descriptor is None or self._is_full:
                return
            try:
                self._is_full = os.write(self._descriptor, line) < len(line)
            except OSError:  # must not stop an upload; the line is only a help
                self._is_full = True


def journal_path(state: Path, run: str, source: Path) -> Path:
    """Where the journal of a source and run lies."""
    name = hashlib.blake2b(f"{run}\n{source.absolute()}".encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    return state / "uploads" / f"{name}.jsonl"


@contextmanager
def open_journal(location: Path | None, *, observer: Observer) -> Iterator[Journal]:
    """Open and lock a journal; where that cannot be done the save goes on without one, and a notice says so.

    Args:
        location: None for what no later process can have again, as what is in memory.
        observer: told the notice.
    """
    if location is None:
        yield Journal(None, Path())
        return
    descriptor = None
    try:
        location.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(location, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink == 0:  # another save finished and removed it between the two calls
            raise BlockingIOError("journal was removed meanwhile")
        journal = Journal(descriptor, location)
    except OSError as error:
        why = "another save of it is under way" if isinstance(error, BlockingIOError) else str(error.strerror)
        observer(Event(kind=Kind.NOTICE, path=str(location), message=f"saving without a journal on disk: {why}"))
        if descriptor is not None:
            os.close(descriptor)
        journal = Journal(None, location)
    try:
        yield journal
    finally:
        journal.close()
