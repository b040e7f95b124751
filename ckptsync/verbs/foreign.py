"""What lies below the run and is not ours: told, never touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby

from ckptsync.catalog import Catalog
from ckptsync.errors import ManifestError, NoSnapshotError
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest
from ckptsync.verbs.attempts import journal_keys

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What one manifest names, kept small: a run may have ten thousand of them.

    Attributes:
        own: fingerprint of its keys below its own data folder, as a set; means something in this process only.
        elsewhere: its keys outside that: of earlier attempts it continues, and of adopted objects.
    """

    own: int
    elsewhere: frozenset[str]


def names_of(manifest: Manifest) -> Names:
    """Condense a manifest."""
    prefix = layout.data_prefix(manifest.id)
    keys = [file.key for file in manifest.files]
    return Names(
        own=hash(frozenset(key for key in keys if key.startswith(prefix))),
        elsewhere=frozenset(key for key in keys if not key.startswith(prefix)),
    )


def foreign_keys(catalog: Catalog, known: Mapping[SnapshotId, Names]) -> Iterator[str]:
    """Yield every object below the run that is no record of ours and that no manifest or journal names.

    Args:
        catalog: of the run.
        known: what the committed snapshots name; those that came since are looked up.
    """
    elsewhere: set[str] = set().union(*(names.elsewhere for names in known.values()))
    for (folder, attempt), found in groupby((stat.key for stat in catalog.store.list("")), key=_place):
        if attempt is not None:
            keys = frozenset(found) - elsewhere
            if keys and (attempt not in known or hash(keys) != known[attempt].own):
                yield from sorted(keys - _named(catalog, attempt))
        else:
            ours = _RECORDS.get(folder, _is_nothing)
            yield from (key for key in found if not ours(key) and key not in elsewhere)


def _place(key: str) -> tuple[str, SnapshotId | None]:
    """First folder of a key, and below `data/` the attempt."""
    head, _, rest = key.partition("/")
    folder = f"{head}/" if rest else ""
    name, _, path = rest.partition("/")
    return folder, layout.parse_snapshot_id(name) if folder == layout.DATA and path else None


def _named(catalog: Catalog, attempt: SnapshotId) -> AbstractSet[str]:
    """Everything an attempt may have written, by its journal or its manifest."""
    keys = set(journal_keys(catalog.store, attempt) or ())
    with suppress(NoSnapshotError, ManifestError):
        keys.update(file.key for file in catalog.get(attempt).files)
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
