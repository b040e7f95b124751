"""Deleting what attempts wrote: never what a committed manifest names, and always so that a later call can finish.

The order: condemn the attempt, delete its manifest, then its uploads and data, then its journal, and the condemnation last. A
saver that wants to continue an attempt writes its marker before it looks for the condemnation, and we condemn before we look
for markers: at least one of the two sees the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from itertools import islice

from ckptsync.errors import ManifestError, NoSnapshotError, NotFoundError, StoreError
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.store.base import Stat, Store, Upload
from ckptsync.verbs.attempts import Folder, journal_keys

_BATCH = 1000
"""Keys of one delete, as many as S3 takes in a request."""
_ABORTS = 5
"""How often an upload is aborted: parts that were in flight may land after an abort.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
"""

_NO_KEYS: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The run as it was listed after everything to be erased had been condemned.

    Attributes:
        folders: of all attempts that matter, by id.
        committed: snapshots that exist and will go on to.
        condemned: attempts that nobody may continue, and that will never be committed.
        stale_s: an adopter that left nothing but a marker older than this (the store's clock) is dead.
    """

    folders: Mapping[SnapshotId, Folder]
    committed: AbstractSet[SnapshotId]
    condemned: AbstractSet[SnapshotId]
    stale_s: float

    def is_live(self, adopter: SnapshotId, marker: Stat) -> bool:
        """Whether an adopter that is not committed may yet be."""
        if adopter in self.condemned:
            return False
        folder = self.folders.get(adopter)
        return (folder is not None and folder.journal is not None) or marker.modified_s >= self.stale_s


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


def condemn(run: Run, folder: Folder) -> None:
    """Mark an attempt, so that nobody continues it from now on. Safe to call again."""
    if folder.condemned is None:
        run.store.put(layout.condemned_key(folder.id), b"")


def erase(
    run: Run,
    attempt: SnapshotId,
    view: View,
    *,
    named: AbstractSet[str] = _NO_KEYS,
    uploads: Iterable[Upload] = (),
    dry_run: bool = False,
) -> Erased:
    """Delete the data of an attempt that has no manifest (any more), then its records. Safe to call again.

    Objects that another committed snapshot names stay, and so does then the journal; only the markers of those who name
    nothing of it go. When somebody alive continues the
    attempt, nothing is touched.

    Args:
        run: where.
        attempt: what; it is condemned, unless this is a dry run.
        view: who else has a part in it.
        named: keys known from its own manifest, beside those its journal names.
        uploads: unfinished uploads below its data folder.
        dry_run: only count.

    Raises:
        StoreError: a request failed for good; calling again finishes.
    """
    borrowed = _borrowed(run, attempt, view)
    if borrowed is None:
        return Erased()
    protected = frozenset[str]().union(*borrowed.values())
    recorded = journal_keys(run.store, attempt)
    folder = view.folders.get(attempt)
    if recorded is None and folder is not None and folder.journal is not None and not named:
        message = f"the journal of attempt {attempt} is damaged: what it wrote is left alone"
        run.observer(Event(kind=Kind.NOTICE, path=str(attempt), message=message))
        return Erased()
    prefix = layout.data_prefix(attempt)
    keys = {key for key in named | (recorded or _NO_KEYS) if key.startswith(prefix)}
    unfinished = [upload for upload in uploads if upload.key in keys]
    objects, size = _delete_data(run, _found(run.store, prefix, keys - protected), unfinished, dry_run=dry_run)
    whole = keys.isdisjoint(protected)
    if not dry_run:
        if whole:
            _delete_records(run.store, attempt, folder)
        elif idle := [marker.key for one, marker in folder.adopters.items() if not borrowed.get(one)] if folder else []:
            run.store.delete(idle)
    return Erased(objects=objects, bytes=size, uploads=len(unfinished), whole=whole)


def _borrowed(run: Run, attempt: SnapshotId, view: View) -> Mapping[SnapshotId, frozenset[str]] | None:
    """Keys of the attempt that other committed snapshots name, by snapshot; None when it must not be touched at all."""
    if attempt in view.committed:
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


def _delete_data(run: Run, found: Iterator[Stat], uploads: Iterable[Upload], *, dry_run: bool) -> tuple[int, int]:
    """Abort uploads, then delete objects batch by batch; number and bytes of the objects."""
    count, size = 0, 0
    if not dry_run:
        for upload in uploads:
            abort_wholly(run.store, upload)
    while batch := list(islice(found, _BATCH)):
        batch_bytes = sum(stat.size for stat in batch)
        if not dry_run:
            run.store.delete([stat.key for stat in batch])
            run.observer(Event(kind=Kind.DELETED, path=batch[0].key, bytes=batch_bytes, count=len(batch)))
        count, size = count + len(batch), size + batch_bytes
    return count, size


def _delete_records(store: Store, attempt: SnapshotId, folder: Folder | None) -> None:
    """Delete what stands about an attempt; the condemnation last, so that whatever is left counts as condemned."""
    keys = [layout.pin_key(attempt)]
    if folder is not None:
        keys += [marker.key for marker in folder.adopters.values()]
        keys.append(layout.journal_key(attempt))
    store.delete(keys)
    if folder is not None:
        store.delete([layout.condemned_key(attempt)])


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
