"""Verify: every part of a snapshot, or a sample of them, is read again and hashed again."""

from __future__ import annotations

import hashlib
import heapq
import math
import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

from ckptsync import names
from ckptsync.errors import ConfigError, ConflictError, IntegrityError, NoSnapshotError, NotFoundError
from ckptsync.run import Run
from ckptsync.snapshot.digest import part_span
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import Tag
from ckptsync.transfer.budget import reading_buffers
from ckptsync.transfer.reader import Reader, Received, check_readable
from ckptsync.transfer.workers import Task, run_tasks
from ckptsync.verbs.lease import Leases
from ckptsync.verbs.quarantine import quarantine as quarantine_it
from ckptsync.verbs.quarantine import release

_EVERYTHING = 100
_SEED_BYTES = 64


@dataclass(frozen=True, slots=True, order=True)
class Bad:
    """What is not as it was committed.

    Attributes:
        path: of the file in the snapshot.
        part: 1-based number of the part; 0 means the object as a whole.
        reason: a sentence.
    """

    path: str
    part: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """What was looked at, and what was found.

    Attributes:
        snapshot: its id.
        step: training step.
        files: regular files in it.
        parts_checked: parts that were read and hashed, good or bad.
        bytes_checked: their size.
        parts_total: parts in the snapshot.
        bad: every part and object that is not what was committed, by path and part; empty when all is well.
        seed: hex digits that choose the same parts again; empty when all were read.
        quarantined: `latest` passes it over from now on.
        seconds: this call.
    """

    snapshot: str
    step: int
    files: int
    parts_checked: int
    bytes_checked: int
    parts_total: int
    bad: tuple[Bad, ...]
    seed: str
    quarantined: bool
    seconds: float


@dataclass(slots=True)
class _Findings:
    """What the threads found so far."""

    parts: int = 0
    bytes: int = 0
    bad: list[Bad] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def checked(self, size: int) -> None:
        """Count a part that was read."""
        with self.lock:
            self.parts += 1
            self.bytes += size

    def add(self, path: str, part: int, reason: str) -> None:
        """Note something bad."""
        with self.lock:
            self.bad.append(Bad(path, part, reason))


def verify(
    run: Run,
    snapshot: str = "latest",
    *,
    percent: float = _EVERYTHING,
    seed: bytes | None = None,
    quarantine: bool = True,
) -> Verified:
    """Read a snapshot again and compare every part with its digest. Does not stop at the first that is bad.

    A part that does not match is fetched once more before it counts as bad. A snapshot that is bad is quarantined, and one that is good in all its parts is no longer. While it is being read, it is spared by gc
    and rm.

    Args:
        run: where.
        snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias. `latest` means the newest one, also when it is
            damaged or quarantined, where a restore would go back to an older one.
        percent: how many of its parts, more than 0 and at most 100; at least one is read, chosen at random.
        seed: 1 to 64 bytes; the same seed chooses the same parts; None chooses others each time.
        quarantine: False leaves the quarantine as it is.

    Raises:
        ConfigError: `percent` or `seed` is out of range, or nothing is there to unpack packed files with.
        NoSnapshotError: nothing committed fits.
        ManifestError: the manifest is damaged.
        StoreError: a request failed for good.
    """
    if not 0 < percent <= _EVERYTHING:
        raise ConfigError(f"{percent} percent of the parts cannot be verified; say more than 0 and at most 100")
    if seed is not None and not 0 < len(seed) <= _SEED_BYTES:
        raise ConfigError(f"a seed of {len(seed)} bytes cannot be used; it has 1 to {_SEED_BYTES}")
    seed = secrets.token_bytes(16) if seed is None else seed
    begun_s = run.clock.monotonic()
    findings = _Findings()
    snapshot_id = _found(run, snapshot)
    with Leases(run).on(snapshot_id) as reading:
        manifest = run.catalog.get(snapshot_id)
        total = sum(len(entry.parts) for entry in manifest.files)
        _read(reading, _chosen(manifest.files, total, percent, seed), findings)
    bad = tuple(sorted(findings.bad))
    return Verified(
        snapshot=manifest.snapshot,
        step=manifest.id.step,
        files=len(manifest.files),
        parts_checked=findings.parts,
        bytes_checked=findings.bytes,
        parts_total=total,
        bad=bad,
        seed="" if percent == _EVERYTHING else seed.hex(),
        quarantined=_settled(run, snapshot_id, bad, whole=percent == _EVERYTHING, change=quarantine),
        seconds=round(run.clock.monotonic() - begun_s, 3),
    )


def _found(run: Run, snapshot: str) -> SnapshotId:
    """The snapshot asked for."""
    if snapshot != "latest":
        return names.find(run.catalog, snapshot)
    newest = next(run.catalog.listed(limit=1), None)
    if newest is None:
        raise NoSnapshotError(f"there is no snapshot in {run.url}")
    return newest.id


def _read(run: Run, chosen: Iterable[tuple[FileEntry, Sequence[int]]], findings: _Findings) -> None:
    """Fetch and hash."""
    transfer, chosen = run.config.transfer, list(chosen)
    files = [entry for entry, parts in chosen if parts]
    check_readable(files)
    with reading_buffers(files, transfer) as buffers:
        reader = Reader(store=run.store, buffers=buffers, observer=run.observer, received=Received())
        tasks = (partial(_check_file, reader, entry, parts, findings) for entry, parts in chosen)
        run_tasks(tasks, *transfer.threads)


def _settled(run: Run, snapshot: SnapshotId, bad: Sequence[Bad], *, whole: bool, change: bool) -> bool:
    """Quarantine what is bad, release what is good throughout; whether it is quarantined now."""
    if bad and change:
        return quarantine_it(run, snapshot, [(one.path, one.part, one.reason) for one in bad])
    if whole and change:
        return release(run, snapshot)
    return run.catalog.is_quarantined(snapshot)


def _chosen(
    files: Sequence[FileEntry], total: int, percent: float, seed: bytes
) -> list[tuple[FileEntry, Sequence[int]]]:
    """Which parts of which files to read; empty files are looked up always."""
    if percent == _EVERYTHING:
        return [(entry, range(1, len(entry.parts) + 1)) for entry in files]
    wanted = max(1, math.ceil(total * percent / _EVERYTHING))

    def lot(index: int) -> bytes:
        return hashlib.blake2b(index.to_bytes(8, "big"), key=seed, digest_size=8).digest()

    drawn = set(heapq.nsmallest(wanted, range(total), key=lot))
    chosen: list[tuple[FileEntry, Sequence[int]]] = []
    first = 0
    for entry in files:
        parts = [number for number in range(1, len(entry.parts) + 1) if first + number - 1 in drawn]
        first += len(entry.parts)
        if parts or not entry.parts:
            chosen.append((entry, parts))
    return chosen


def _check_file(reader: Reader, entry: FileEntry, parts: Sequence[int], findings: _Findings) -> Iterable[Task]:
    """Look the object up; hand back what reads its parts, all from that version."""
    try:
        found = reader.store.stat(entry.key)
    except NotFoundError:
        findings.add(entry.path, 0, f"missing from the bucket (key {entry.key!r})")
        return ()
    if found.size != entry.stored_size:
        reason = f"{found.size} bytes in the bucket instead of {entry.stored_size} (key {entry.key!r})"
        findings.add(entry.path, 0, reason)
    there = (number for number in parts if entry.stored_span(number)[0] < found.size)
    return [partial(_check_part, reader, entry, number, found.tag, findings) for number in there]


def _check_part(reader: Reader, entry: FileEntry, number: int, tag: Tag, findings: _Findings) -> None:
    """Read one part."""
    size = part_span(number, entry.size, entry.part_bytes)[1]
    with reader.buffers.take(reader.window(entry, number)) as window:
        try:
            reader.fetch(entry, number, window, tag)
        except IntegrityError as error:
            findings.add(entry.path, number, str(error))
        except (ConflictError, NotFoundError):
            findings.add(entry.path, number, f"the object was replaced or deleted meanwhile (key {entry.key!r})")
            return
    findings.checked(size)
