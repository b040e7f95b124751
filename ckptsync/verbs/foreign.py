"""What lies below the run and is not ours: told, never touched.

The objects of a snapshot are older than its manifest, which is put last. So the listing alone clears nearly all of them, and a
run of ten thousand snapshots is looked through without reading one. Times decide only what is looked at more closely: what is told is
in no manifest and no journal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from itertools import groupby, islice
from math import inf

from ckptsync.catalog import Listed
from ckptsync.errors import ManifestError, NoSnapshotError, NotFoundError
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.store.base import Stat
from ckptsync.transfer.workers import in_order
from ckptsync.verbs.attempts import Folder, journal_keys

OUR_FOLDERS = (
    layout.MANIFESTS,
    layout.DATA,
    layout.WRITERS,
    layout.LAUNCHES,
    layout.JOURNALS,
    layout.RANKS,
    layout.PINS,
    layout.ALIASES,
    layout.LEASES,
    layout.QUARANTINE,
)


_BATCH = 1000
_Suspects = tuple[SnapshotId | None, AbstractSet[str]]
"""Keys that may be foreign, and the attempt in whose folder they lie."""


def foreign_keys(run: Run, committed: Iterable[Listed], folders: Mapping[SnapshotId, Folder]) -> Iterator[str]:
    """Yield objects below the run that are no record of ours and that no manifest or journal names.

    All of them, but for what was put into a snapshot's own folder before it was committed.

    Args:
        run: where.
        committed: snapshots that exist; those that came since are looked up.
        folders: of all attempts; likewise.

    Raises:
        StoreError: a request failed for good.
    """
    elsewhere = _Elsewhere(run)

    def told(suspects: _Suspects) -> list[str]:
        attempt, keys = suspects
        if attempt is not None:
            keys = keys - _named(run, attempt, folders.get(attempt))
        return sorted(keys - elsewhere.keys() if keys else keys)

    # a store that tells no times clears nothing
    since_s = {one.id: one.stat.modified_s or -inf for one in committed}
    for keys in in_order(told, _suspects(run.store.list(""), since_s), run.config.transfer.parts_in_flight):
        yield from keys


def _suspects(found: Iterable[Stat], since_s: Mapping[SnapshotId, float]) -> Iterator[_Suspects]:
    """What the listing alone does not clear, in its order."""
    for (folder, attempt), group in groupby(found, key=lambda stat: _place(stat.key)):
        if attempt is not None:
            before_s = since_s.get(attempt, -inf)
            if late := {stat.key for stat in group if stat.modified_s > before_s}:
                yield attempt, late
        else:
            ours = _RECORDS.get(folder, _is_nothing)
            strangers = (stat.key for stat in group if not ours(stat.key))
            while keys := frozenset(islice(strangers, _BATCH)):
                yield None, keys


class _Elsewhere:
    """Keys that manifests name outside their own folder: of earlier attempts they continue, and of adopted objects.

    Which manifests have any cannot be told without reading them all, so it is done when the first suspect is found.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.lock = threading.Lock()
        self.found: frozenset[str] | None = None

    def keys(self) -> frozenset[str]:
        """Read every manifest, the first time."""
        with self.lock:
            if self.found is None:
                run = self.run
                read = in_order(self._of, run.catalog.listed(), run.config.transfer.parts_in_flight)
                self.found = frozenset(key for keys in read for key in keys)
            return self.found

    def _of(self, listed: Listed) -> list[str]:
        """Those of one manifest."""
        prefix = layout.data_prefix(listed.id)
        with suppress(ManifestError, NotFoundError):
            return [file.key for file in self.run.catalog.load(listed).files if not file.key.startswith(prefix)]
        return []


def _place(key: str) -> tuple[str, SnapshotId | None]:
    """First folder of a key, and below `data/` the attempt."""
    head, _, rest = key.partition("/")
    folder = f"{head}/" if rest else ""
    name, _, path = rest.partition("/")
    return folder, layout.parse_snapshot_id(name) if folder == layout.DATA and path else None


def _named(run: Run, attempt: SnapshotId, folder: Folder | None) -> AbstractSet[str]:
    """Everything an attempt may have written, by its journal or its manifest."""
    keys = set(journal_keys(run.store, attempt, folder) or ())
    with suppress(NoSnapshotError, ManifestError):
        keys.update(file.key for file in run.catalog.get(attempt).files)
    return keys


def _is_nothing(key: str) -> bool:
    """No record of ours lies outside our folders, and none directly in `data/`."""
    del key
    return False


def _is_journal(key: str) -> bool:
    attempt = layout.journal_of_key(key.rpartition("/condemned")[0] + "/journal.json")
    return layout.journal_of_key(key) is not None or (attempt is not None and key == layout.condemned_key(attempt[0]))


def _is_pin(key: str) -> bool:
    return layout.parse_snapshot_id(key.removeprefix(layout.PINS)) is not None


def _is_alias(key: str) -> bool:
    return layout.version_of_alias_key(key) is not None


_RECORDS: Mapping[str, Callable[[str], bool]] = {
    layout.MANIFESTS: lambda key: layout.snapshot_of_manifest_key(key) is not None,
    layout.WRITERS: lambda key: layout.epoch_of_writer_key(key) is not None,
    layout.LAUNCHES: layout.is_launch_key,
    layout.JOURNALS: _is_journal,
    layout.RANKS: lambda key: layout.attempt_of_report_folder(key) is not None,
    layout.PINS: _is_pin,
    layout.ALIASES: _is_alias,
    layout.LEASES: lambda key: layout.snapshot_of_lease_key(key) is not None,
    layout.QUARANTINE: lambda key: layout.snapshot_of_quarantine_key(key) is not None,
}
