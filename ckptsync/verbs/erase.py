"""Deleting what attempts wrote: never what a committed manifest names, and always so that a later call can finish.

The order: condemn the attempt, delete its manifest, then its uploads and data, then its journal, and the condemnation last. A
saver that wants to continue an attempt writes its marker before it looks for the condemnation, and we condemn before we look
for markers: at least one of the two sees the other. Readers and we meet over leases and the manifest in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import chain, islice
from typing import TypeVar

from ckptsync.errors import ManifestError, NoSnapshotError, NotFoundError, StoreError
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.store.base import Stat, Store, Upload
from ckptsync.transfer.workers import in_order, map_tasks
from ckptsync.verbs.attempts import Folder, journal_keys, report_keys

_BATCH = 1000
"""Keys of one delete, as many as S3 takes in a request."""
_GROUP = 10 * _BATCH
"""Attempts are deleted together until they have so many objects: few requests, and memory that does not grow with the run."""
_ABORTS = 5
"""How often an upload is aborted: parts that were in flight may land after an abort.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
"""

_Item = TypeVar("_Item")
_NO_KEYS: frozenset[str] = frozenset()
_NOBODY: frozenset[SnapshotId] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The run as it was listed after everything to be erased had been condemned.

    Attributes:
        folders: of all attempts that matter, by id.
        committed: snapshots that exist and will go on to.
        condemned: attempts that nobody may continue, and that will never be committed.
        stale_s: an adopter that left nothing but a marker older than this (the store's clock) is dead.
        leased: snapshots somebody is reading, as listed after their manifests were deleted.
    """

    folders: Mapping[SnapshotId, Folder]
    committed: AbstractSet[SnapshotId]
    condemned: AbstractSet[SnapshotId]
    stale_s: float
    leased: AbstractSet[SnapshotId] = _NOBODY

    def is_live(self, adopter: SnapshotId, marker: Stat) -> bool:
        """Whether an adopter that is not committed may yet be, or is being read by somebody who saw its manifest."""
        if adopter in self.leased:
            return True
        if adopter in self.condemned:
            return False
        folder = self.folders.get(adopter)
        return (folder is not None and bool(folder.journals)) or marker.modified_s >= self.stale_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What shall be erased.

    Attributes:
        attempt: its id.
        named: keys known from its own manifest, beside those its journal names.
        uploads: unfinished uploads below its data folder.
    """

    attempt: SnapshotId
    named: AbstractSet[str] = _NO_KEYS
    uploads: Sequence[Upload] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """What went, or would go.

    Attributes:
        objects: data objects.
        bytes: their size.
        uploads: unfinished uploads.
        whole: nothing of the attempt is left, its journal included.
    """

    objects: int = 0
    bytes: int = 0
    uploads: int = 0
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What of one attempt will be deleted, in this order."""

    attempt: SnapshotId
    uploads: tuple[Upload, ...] = ()
    data: tuple[Stat, ...] = ()
    records: tuple[str, ...] = ()
    condemnation: tuple[str, ...] = ()
    whole: bool = False

    @property
    def erased(self) -> Erased:
        """Count it."""
        return Erased(
            objects=len(self.data),
            bytes=sum(stat.size for stat in self.data),
            uploads=len(self.uploads),
            whole=self.whole,
        )


def condemn(run: Run, folder: Folder) -> None:
    """Mark an attempt, so that nobody continues it from now on. Safe to call again."""
    if folder.condemned is None:
        run.store.put(layout.condemned_key(folder.id), b"")


def erase(run: Run, targets: Iterable[Target], view: View, *, dry_run: bool = False) -> dict[SnapshotId, Erased]:
    """Delete the data of attempts that have no manifest (any more), then their records. Safe to call again.

    Objects that another committed snapshot names stay, and so does then the journal; only the markers of those who name nothing
    of it go. When somebody alive continues an attempt, or reads it, nothing of it is touched.

    Args:
        run: where.
        targets: what; all are condemned, unless this is a dry run.
        view: who else has a part in them.
        dry_run: only count.

    Raises:
        StoreError: a request failed for good; calling again finishes.
    """
    erased: dict[SnapshotId, Erased] = {}
    group: list[_Plan] = []
    objects, records = 0, 0
    for plan in in_order(lambda target: _planned(run, target, view), targets, run.config.transfer.parts_in_flight):
        erased[plan.attempt] = plan.erased
        if dry_run:
            continue
        group.append(plan)
        objects += len(plan.data)
        records += len(plan.records)
        if max(objects, records) >= _GROUP:
            _carry_out(run, group)
            group, objects, records = [], 0, 0
    if group:
        _carry_out(run, group)
    return erased


def _planned(run: Run, target: Target, view: View) -> _Plan:
    """Look at one attempt; nothing of it is to be deleted where it is protected or its records are not clear."""
    attempt = target.attempt
    borrowed = _borrowed(run, attempt, view)
    if borrowed is None:
        return _Plan(attempt=attempt)
    protected = frozenset[str]().union(*borrowed.values())
    folder = view.folders.get(attempt)
    recorded = journal_keys(run.store, attempt, folder)
    if recorded is None and folder is not None and folder.journals and not target.named:
        message = f"the journal of attempt {attempt} is damaged: what it wrote is left alone"
        run.observer(Event(kind=Kind.NOTICE, path=str(attempt), message=message))
        return _Plan(attempt=attempt)
    prefix = layout.data_prefix(attempt)
    keys = {key for key in target.named | (recorded or _NO_KEYS) if key.startswith(prefix)}
    whole = keys.isdisjoint(protected)
    idle = tuple(marker.key for one, marker in folder.adopters.items() if not borrowed.get(one)) if folder else ()
    return _Plan(
        attempt=attempt,
        uploads=tuple(upload for upload in target.uploads if upload.key in keys),
        data=tuple(_found(run.store, prefix, keys - protected)),
        records=_records(run.store, attempt, folder) if whole else idle,
        condemnation=(layout.condemned_key(attempt),) if whole and folder is not None else (),
        whole=whole,
    )


def _borrowed(run: Run, attempt: SnapshotId, view: View) -> Mapping[SnapshotId, frozenset[str]] | None:
    """Keys of the attempt that other committed snapshots name, by snapshot; None when it must not be touched at all."""
    if attempt in view.committed or attempt in view.leased:
        return None
    folder, prefix = view.folders.get(attempt), layout.data_prefix(attempt)
    borrowed: dict[SnapshotId, frozenset[str]] = {}
    for adopter, marker in (folder.adopters if folder else {}).items():
        if adopter in view.committed:
            try:
                files = run.catalog.get(adopter).files
            except NoSnapshotError:
                continue
            except ManifestError:  # which of them it names cannot be known
                return None
            borrowed[adopter] = frozenset(file.key for file in files if file.key.startswith(prefix))
        elif view.is_live(adopter, marker):
            return None
    return borrowed


def _found(store: Store, prefix: str, keys: AbstractSet[str]) -> Iterator[Stat]:
    """Those of some keys that are there."""
    return (found for found in store.list(prefix) if found.key in keys) if keys else iter(())


def _records(store: Store, attempt: SnapshotId, folder: Folder | None) -> tuple[str, ...]:
    """What stands about an attempt, its condemnation left out."""
    keys = [layout.pin_key(attempt), layout.quarantine_key(attempt)]
    if folder is not None:
        keys += [marker.key for marker in folder.adopters.values()]
        keys += [journal.key for journal in folder.journals]
        if any(journal.key != layout.journal_key(attempt) for journal in folder.journals):  # it was made by ranks
            keys += report_keys(store, attempt)
    return tuple(keys)


def _carry_out(run: Run, plans: Sequence[_Plan]) -> None:
    """Delete in as few requests as there can be: uploads, data, records; condemnations last, so that what is left counts."""
    uploads = [upload for plan in plans for upload in plan.uploads]
    map_tasks(lambda upload: abort_wholly(run.store, upload), uploads, run.config.transfer.parts_in_flight)
    for batch in _batches(stat for plan in plans for stat in plan.data):
        run.store.delete([stat.key for stat in batch])
        size = sum(stat.size for stat in batch)
        run.observer(Event(kind=Kind.DELETED, path=batch[0].key, bytes=size, count=len(batch)))
    for keys in _batches(chain.from_iterable(plan.records for plan in plans)):
        run.store.delete(keys)
    for keys in _batches(chain.from_iterable(plan.condemnation for plan in plans)):
        run.store.delete(keys)


def _batches(items: Iterable[_Item]) -> Iterator[list[_Item]]:
    """Cut into as many as one request takes."""
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def abort_wholly(store: Store, upload: Upload) -> None:
    """Drop an upload until the store holds no parts of it. Safe to call again.

    Raises:
        StoreError: parts kept arriving; calling again later finishes.
    """
    for _ in range(_ABORTS):
        store.abort(upload)
        try:
            if not store.parts(upload):
                return
        except NotFoundError:
            return
    raise StoreError("parts of an aborted upload keep arriving; run gc again later", op="abort", key=upload.key)
