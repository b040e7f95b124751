"""What the bucket records of attempts: one folder each, which says what they may write and who continues them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from ckptsync.catalog import read_record
from ckptsync.errors import ManifestError, NotFoundError
from ckptsync.snapshot import layout
from ckptsync.snapshot.attempt import MAX_ATTEMPT_BYTES, Attempt, decode_attempt
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.store.base import Stat, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """An attempt's folder below `journals/`, as the listing shows it.

    Attributes:
        id: the attempt.
        journal: the record of what it may write; None when that is gone.
        adopters: later attempts that continue it and may name its data, each with its marker.
        condemned: the mark that its data is about to be deleted; None when there is none.
    """

    id: SnapshotId
    journal: Stat | None
    adopters: Mapping[SnapshotId, Stat]
    condemned: Stat | None

    @property
    def modified_s(self) -> float:
        """When the attempt began, as far as the store's clock tells."""
        if self.journal is not None:
            return self.journal.modified_s
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
    journal: Stat | None = None
    condemned: Stat | None = None
    adopters: dict[SnapshotId, Stat] = {}
    for stat in found:
        if stat.key == layout.journal_key(attempt):
            journal = stat
        elif stat.key == layout.condemned_key(attempt):
            condemned = stat
        elif (known := layout.journal_of_key(stat.key)) and known[1] is not None:
            adopters[known[1]] = stat
    if journal is None and condemned is None and not adopters:
        return None
    return Folder(id=attempt, journal=journal, adopters=adopters, condemned=condemned)


def folder_of(store: Store, attempt: SnapshotId) -> Folder | None:
    """Look one attempt's folder up; None when there is nothing of ours in it. One listing."""
    return next(folders(store, layout.journal_prefix(attempt)), None)


def read_attempt(store: Store, attempt: SnapshotId) -> Attempt:
    """Read what an attempt may write.

    Raises:
        NotFoundError: it has no journal.
        ManifestError: the journal is damaged.
    """
    return decode_attempt(read_record(store, layout.journal_key(attempt), MAX_ATTEMPT_BYTES), attempt)


def journal_keys(store: Store, attempt: SnapshotId) -> frozenset[str] | None:
    """Return every object an attempt may have written; None when that cannot be known any more."""
    try:
        return read_attempt(store, attempt).keys
    except (NotFoundError, ManifestError):
        return None
