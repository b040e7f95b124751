"""What the bucket records of attempts: one folder each, which says what they may write and who continues them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from ckptsync.errors import ManifestError, NotFoundError
from ckptsync.records import read_record
from ckptsync.snapshot import layout
from ckptsync.snapshot.attempt import MAX_ATTEMPT_BYTES, Attempt, decode_attempt
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.store.base import Stat, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """An attempt's folder below `journals/`, as the listing shows it.

    Attributes:
        id: the attempt.
        journals: the records of what it may write, one for each rank that began; empty when they are gone.
        adopters: later attempts that continue it and may name its data, each with its marker.
        condemned: the mark that its data is about to be deleted; None when there is none.
    """

    id: SnapshotId
    journals: tuple[Stat, ...]
    adopters: Mapping[SnapshotId, Stat]
    condemned: Stat | None

    @property
    def modified_s(self) -> float:
        """When the attempt, or the last of its ranks, began, as far as the store's clock tells."""
        if self.journals:
            return max(journal.modified_s for journal in self.journals)
        marks = [*self.adopters.values(), *([self.condemned] if self.condemned else [])]
        return max(mark.modified_s for mark in marks)


def folders(store: Store, prefix: str = layout.JOURNALS) -> Iterator[Folder]:
    """Yield the folders of all attempts, the newest first; objects that are not ours are left out.

    Args:
        store: the run's bucket.
        prefix: narrows the listing to one folder.
    """
    for name, found in groupby(store.list(prefix), key=lambda stat: stat.key.split("/")[1]):
        known = layout.journal_of_key(f"{layout.JOURNALS}{name}/journal.json")
        if known is not None and (folder := _folder(known[0], found)) is not None:
            yield folder


def _folder(attempt: SnapshotId, found: Iterable[Stat]) -> Folder | None:
    """Sort one folder's objects; None when none of them is ours."""
    journals: list[Stat] = []
    condemned: Stat | None = None
    adopters: dict[SnapshotId, Stat] = {}
    for stat in found:
        if stat.key == layout.condemned_key(attempt):
            condemned = stat
        elif known := layout.journal_of_key(stat.key):
            if known[1] is None:
                journals.append(stat)
            else:
                adopters[known[1]] = stat
    if not journals and condemned is None and not adopters:
        return None
    return Folder(id=attempt, journals=tuple(journals), adopters=adopters, condemned=condemned)


def folder_of(store: Store, attempt: SnapshotId) -> Folder | None:
    """Look one attempt's folder up; None when there is nothing of ours in it. One listing."""
    return next(folders(store, layout.journal_prefix(attempt)), None)


def read_attempts(store: Store, attempt: SnapshotId, folder: Folder | None = None) -> tuple[Attempt, ...]:
    """Read what an attempt, or each of its ranks, may write: a read for each, and a listing when `folder` is not known.

    Raises:
        NotFoundError: it has no journal.
        ManifestError: a journal is damaged.
    """
    folder = folder or folder_of(store, attempt)
    if folder is None or not folder.journals:
        raise NotFoundError("the attempt has no journal", op="list", key=layout.journal_prefix(attempt))
    return tuple(_read(store, attempt, journal) for journal in folder.journals)


def _read(store: Store, attempt: SnapshotId, journal: Stat) -> Attempt:
    """Read one journal."""
    return decode_attempt(read_record(store, journal.key, MAX_ATTEMPT_BYTES), attempt)


def journal_keys(store: Store, attempt: SnapshotId, folder: Folder | None = None) -> frozenset[str] | None:
    """Return every object an attempt may have written; None when that cannot be known any more."""
    try:
        return frozenset[str]().union(*(found.keys for found in read_attempts(store, attempt, folder)))
    except (NotFoundError, ManifestError):
        return None


def report_keys(store: Store, attempt: SnapshotId) -> list[str]:
    """Return the keys of what ranks reported of an attempt, and of the hint who commits it. One listing."""
    found = (stat.key for stat in store.list(layout.report_prefix(attempt)))
    return [key for key in found if layout.attempt_of_report_folder(key) is not None]
