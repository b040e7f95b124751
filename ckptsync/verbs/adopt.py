"""Adopt: objects that are in the bucket already become a committed snapshot, read once and copied nowhere."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import unquote

from ckptsync.errors import (
    ConfigError,
    ConflictError,
    IncompleteError,
    ManifestError,
    NotFoundError,
    SourceChangedError,
)
from ckptsync.events import Event, Kind
from ckptsync.options import MIB
from ckptsync.records import this_writer, timestamp
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.attempt import Attempt, encode_attempt
from ckptsync.snapshot.cost import Cost
from ckptsync.snapshot.digest import part_count, part_digest, part_span
from ckptsync.snapshot.layout import SnapshotId, check_path
from ckptsync.snapshot.manifest import MAX_PARTS, FileEntry, Manifest, check_entries, checked_metrics
from ckptsync.store.base import Stat, Tag
from ckptsync.transfer.budget import Buffers
from ckptsync.transfer.workbench import Tally
from ckptsync.transfer.workers import Task, run_tasks
from ckptsync.verbs.foreign import OUR_FOLDERS
from ckptsync.verbs.save import Saved, saved

_NO_METRICS: Mapping[str, float] = {}
_NO_META: Mapping[str, str] = {}


@dataclass(slots=True)
class _Hashed:
    """An object being read.

    Attributes:
        path: in the snapshot.
        found: as listed.
        part_bytes: how it is cut.
        parts: digests so far, by place.
    """

    path: str
    found: Stat
    part_bytes: int
    parts: list[str] = field(default_factory=list)


def adopt(
    run: Run,
    prefix: str,
    *,
    step: int,
    metrics: Mapping[str, float] = _NO_METRICS,
    meta: Mapping[str, str] = _NO_META,
) -> Saved:
    """Commit a snapshot of objects that something else put below the run. They stay where they are.

    Every object is read once and hashed. Adopted objects are never deleted by ckptsync, not even with their snapshot. Like
    every save this takes a new epoch, so that one which is under way elsewhere is not committed.

    Args:
        run: where.
        prefix: a folder or a single object, relative to the run or as a full URL below it.
        step: training step, 0 to 999 999 999 999.
        metrics: numbers to choose by later.
        meta: free text.

    Raises:
        ConfigError: the prefix lies outside the run or is one of its own folders, nothing is there, or a name cannot be
            part of a snapshot; nothing was written.
        SourceChangedError: an object changed while it was read; nothing was committed.
        FencedError: a newer writer owns the run; nothing was committed.
        StoreError: a request failed for good; nothing was committed.
    """
    begun_s = run.clock.monotonic()
    run.catalog.keys.check_can_commit()
    SnapshotId(1, step, "")
    checked = checked_metrics(metrics)
    place = _relative(run.url, prefix)
    found, is_file = _objects(run, place)
    files = _plan(run, found, place, is_file=is_file)
    run.observer(Event(kind=Kind.PLANNED, bytes=sum(stat.size for stat in found), count=len(found)))
    entries = _hash(run, files)
    _check_at_rest(run, found, place)
    claim = run.catalog.claims.claim()
    snapshot = layout.new_snapshot_id(claim.epoch, step)
    parent = run.catalog.newest_readable()
    created = timestamp(run.clock)
    manifest = Manifest(
        snapshot=str(snapshot),
        commit_id=secrets.token_hex(16),
        kind="file" if is_file else "directory",
        created=created,
        entries=entries,
        metrics=checked,
        meta=dict(meta),
        parent=parent.snapshot if parent else "",
        writer=this_writer(),
        cost=Cost(seconds=round(run.clock.monotonic() - begun_s, 3), bytes_reused=sum(entry.size for entry in entries)),
    )
    _check_sound(manifest, place)
    attempt = Attempt(snapshot=str(snapshot), files=(), created=created, writer=this_writer())
    run.store.put(layout.journal_key(snapshot), encode_attempt(attempt))
    run.catalog.commit(manifest)
    run.observer(Event(kind=Kind.COMMITTED, path=manifest.snapshot, bytes=manifest.size, count=len(entries)))
    return saved(manifest, Tally(bytes_reused=manifest.size), run.clock.monotonic() - begun_s)


# -- which objects -------------------------------------------------------------------------------------------------------


def _relative(url: str, prefix: str) -> str:
    """The prefix relative to the run, without slashes at its ends.

    Raises:
        ConfigError: it lies outside the run, is the run itself, or is one of our own folders.
    """
    base = url.rstrip("/")
    place = prefix.removeprefix(base) if prefix == base or prefix.startswith(f"{base}/") else prefix
    local = unquote(base.removeprefix("file://"))
    if base.startswith("file://") and (prefix == local or prefix.startswith(f"{local}/")):
        place = prefix.removeprefix(local)
    elif place == prefix and ("://" in prefix or prefix.startswith("/")):
        raise ConfigError(f"{prefix!r} lies outside the run {url}; only objects below it can be adopted")
    place = place.strip("/")
    if not place:
        raise ConfigError(f"adopt needs a folder below {url}, not the run itself")
    try:
        check_path(place)
    except ManifestError as error:
        raise ConfigError(f"{prefix!r} cannot be adopted: {error}") from error
    if f"{place.partition('/')[0]}/" in OUR_FOLDERS:
        raise ConfigError(f"{prefix!r} is one of ckptsync's own folders; it holds nothing to adopt")
    return place


def _objects(run: Run, place: str) -> tuple[list[Stat], bool]:
    """What is there, and whether it is a single object.

    Raises:
        ConfigError: nothing.
    """
    # consoles make empty objects that end with a slash to show a folder
    found = [stat for stat in run.store.list(f"{place}/") if not stat.key.endswith("/")]
    if found:
        return found, False
    try:
        return [run.store.stat(place)], True
    except NotFoundError as error:
        raise ConfigError(f"there are no objects below {place!r} in {run.url}") from error


def _plan(run: Run, found: Sequence[Stat], place: str, *, is_file: bool) -> list[_Hashed]:
    """Name every object's place in the snapshot.

    Raises:
        ConfigError: a key cannot be a path.
    """
    part_bytes = run.config.transfer.part_bytes
    files: list[_Hashed] = []
    for stat in found:
        path = place.rpartition("/")[2] if is_file else stat.key.removeprefix(f"{place}/")
        try:
            check_path(path)
        except ManifestError as error:
            raise ConfigError(f"object {stat.key!r} cannot be part of a snapshot: {error}") from error
        cut = max(part_bytes, -(-stat.size // (MAX_PARTS * MIB)) * MIB)
        files.append(_Hashed(path, stat, cut, [""] * part_count(stat.size, cut)))
    return files


# -- what is in them -----------------------------------------------------------------------------------------------------


def _hash(run: Run, files: Iterable[_Hashed]) -> tuple[FileEntry, ...]:
    """Read every object once; an entry for each, sorted by path."""
    transfer, files = run.config.transfer, list(files)
    with Buffers(transfer.parts_in_flight, transfer.part_bytes) as buffers:
        run_tasks((partial(_pinned, run, file, buffers) for file in files), transfer.parts_in_flight)
    entries = (
        FileEntry(
            path=file.path,
            size=file.found.size,
            mtime_ns=int(file.found.modified_s * 1e9),
            key=file.found.key,
            part_bytes=file.part_bytes if file.parts else 0,
            parts=tuple(file.parts),
        )
        for file in files
    )
    return tuple(sorted(entries, key=lambda entry: entry.path))


def _pinned(run: Run, file: _Hashed, buffers: Buffers) -> Iterator[Task]:
    """Settle the version of an object that all its parts are read from; hand back the reading of each."""
    try:
        now = run.store.stat(file.found.key)
    except NotFoundError as error:
        raise _changed(file.found.key) from error
    if now.size != file.found.size:
        raise _changed(file.found.key)
    return (partial(_read_part, run, file, number, now.tag, buffers) for number in range(1, len(file.parts) + 1))


def _read_part(run: Run, file: _Hashed, number: int, tag: Tag, buffers: Buffers) -> None:
    """Hash one part."""
    offset, size = part_span(number, file.found.size, file.part_bytes)
    with buffers.take(size) as view:
        try:
            count = run.store.get(file.found.key, view, offset=offset, tag=tag)
        except (ConflictError, NotFoundError) as error:
            raise _changed(file.found.key) from error
        if count != size:
            raise _changed(file.found.key)
        file.parts[number - 1] = part_digest(view)
    run.observer(Event(kind=Kind.RECEIVED, path=file.path, bytes=size))


def _check_at_rest(run: Run, before: Sequence[Stat], place: str) -> None:
    """Make sure that what was read is what is there now.

    Raises:
        SourceChangedError: an object was added, removed or replaced meanwhile.
    """
    try:
        after = {stat.key: (stat.size, stat.tag, stat.modified_s) for stat in _objects(run, place)[0]}
    except ConfigError as error:
        raise _changed(place) from error
    known = {stat.key: (stat.size, stat.tag, stat.modified_s) for stat in before}
    if differing := sorted(key for key in known.keys() | after.keys() if known.get(key) != after.get(key)):
        raise _changed(differing[0])


def _changed(key: str) -> IncompleteError:
    """The error for an object that is not at rest."""
    return SourceChangedError(f"object {key!r} changed while it was being adopted; adopt it when it is at rest")


def _check_sound(manifest: Manifest, place: str) -> None:
    """Refuse to commit what a restore would refuse.

    Raises:
        ConfigError: an object lies below another, which no directory can hold.
    """
    try:
        check_entries(manifest)
    except ManifestError as error:
        raise ConfigError(f"the objects below {place!r} cannot be a snapshot: {error}") from error
