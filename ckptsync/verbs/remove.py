"""Remove: one snapshot stops to exist, then what only it named is deleted."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from ckptsync import names
from ckptsync.errors import ConfigError, ManifestError, NoSnapshotError
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.store.base import Upload
from ckptsync.verbs.attempts import Folder, folder_of, journal_keys
from ckptsync.verbs.erase import Target, View, condemn, erase
from ckptsync.verbs.lease import held_until_s, store_time_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """A snapshot that is gone.

    Attributes:
        snapshot: its id.
        objects: data objects deleted; those that another snapshot names, or that were adopted, stay.
        bytes: their size.
    """

    snapshot: str
    objects: int
    bytes: int


def remove(run: Run, snap: str, *, force: bool = False) -> Removed:
    """Delete a snapshot: its manifest first, so that it is whole or gone, then its data, then its records.

    Called again after a kill, it continues; gc does so as well. An alias that still stands for it then leads nowhere.

    Args:
        run: where.
        snap: an id, a step, `latest`, `best:METRIC:min|max` or an alias.
        force: also when it is pinned, has an alias, or is being read.

    Raises:
        NoSnapshotError: nothing committed fits.
        ConfigError: it is pinned, has an alias or is being read, and `force` is not set; nothing was touched.
        ManifestError: an alias is damaged, so that it cannot be known what it protects; nothing was touched.
        StoreError: a request failed for good; calling again finishes.
    """
    snapshot = names.find(run.catalog, snap)
    folder = folder_of(run.store, snapshot)
    if not run.catalog.exists(snapshot) and (folder is None or folder.condemned is None):
        raise NoSnapshotError(f"snapshot {snapshot} is not committed in {run.url}; `gc` deletes what attempts left")
    if not force:
        _check_spared(run, snapshot)
    named = _named(run, snapshot)
    owners = {owner: folder_of(run.store, owner) for owner in _owners(named) - {snapshot}}
    # without its folder it cannot be known who else names an attempt's data
    targets = {snapshot: folder} | {
        owner: found for owner, found in owners.items() if found is not None and not run.catalog.exists(owner)
    }
    for found in targets.values():
        if found is not None:
            condemn(run, found)
    if any(targets.values()):
        run.rest()
    view = _view(run, snapshot, targets)
    run.store.delete([layout.manifest_key(snapshot)])
    if not force and _read_until_s(run, snapshot) is not None:  # by somebody who saw the manifest just before it went
        view = replace(view, leased={snapshot})
        message = f"snapshot {snapshot} is being read; gc deletes its data when that is done"
        run.observer(Event(kind=Kind.NOTICE, path=str(snapshot), message=message))
    erased = erase(
        run,
        [
            Target(
                attempt=target,
                named=named if target == snapshot else frozenset(),
                uploads=_uploads(run, target),
            )
            for target in sorted(targets)
        ],
        view,
    )
    if owners and not view.leased:  # it continues them no longer
        run.store.delete([layout.adoption_key(owner, snapshot) for owner in sorted(owners)])
    return Removed(
        snapshot=str(snapshot),
        objects=sum(part.objects for part in erased.values()),
        bytes=sum(part.bytes for part in erased.values()),
    )


def _check_spared(run: Run, snapshot: SnapshotId) -> None:
    """Refuse what somebody asked to keep, or is reading."""
    if (end_s := _read_until_s(run, snapshot)) is not None:
        until = datetime.fromtimestamp(end_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        raise ConfigError(
            f"snapshot {snapshot} is being read, until {until} unless its reader needs longer; wait, or use force (--force)"
        )
    if snapshot in names.pins(run.catalog):
        raise ConfigError(f"snapshot {snapshot} is pinned; unpin it first, or use force (--force)")
    aliases = [name for name, alias in names.all_aliases(run.catalog).items() if alias.snapshot == str(snapshot)]
    if aliases:
        what = f"alias {aliases[0]!r} stands" if len(aliases) == 1 else f"aliases {', '.join(aliases)} stand"
        raise ConfigError(f"{what} for snapshot {snapshot}; promote another one first, or use force (--force)")


def _read_until_s(run: Run, snapshot: SnapshotId) -> float | None:
    """When the last lease of its readers ends, by the store's clock; None when nobody reads it."""
    end_s = held_until_s(run.store, layout.lease_prefix(snapshot)).get(snapshot)
    return end_s if end_s is not None and end_s >= store_time_s(run, snapshot.epoch) else None


def _named(run: Run, snapshot: SnapshotId) -> frozenset[str]:
    """Keys the manifest names; those the journal names where the manifest is damaged or gone."""
    try:
        return frozenset(file.key for file in run.catalog.get(snapshot).files)
    except (ManifestError, NoSnapshotError):
        return journal_keys(run.store, snapshot) or frozenset()


def _owners(keys: Iterable[str]) -> set[SnapshotId]:
    """Attempts in whose data folders some keys lie."""
    parts = (key.removeprefix(layout.DATA).split("/")[0] for key in keys if key.startswith(layout.DATA))
    return {owner for part in parts if (owner := layout.parse_snapshot_id(part)) is not None}


def _view(run: Run, snapshot: SnapshotId, targets: Iterable[SnapshotId]) -> View:
    """Look at the targets again, now that they are condemned, and at those who continue them."""
    wanted = set(targets)
    folders: dict[SnapshotId, Folder] = {
        target: folder for target in wanted if (folder := folder_of(run.store, target)) is not None
    }
    adopters = {adopter for folder in folders.values() for adopter in folder.adopters} - wanted
    folders |= {adopter: found for adopter in adopters if (found := folder_of(run.store, adopter)) is not None}
    return View(
        folders=folders,
        committed={one for one in adopters | wanted if one != snapshot and run.catalog.exists(one)},
        condemned={one for one, folder in folders.items() if folder.condemned is not None} | {snapshot},
        stale_s=float("-inf"),  # how old is too old is for gc to say
    )


def _uploads(run: Run, attempt: SnapshotId) -> list[Upload]:
    """Unfinished uploads of an attempt."""
    return list(run.store.uploads(layout.data_prefix(attempt))) if run.store.traits.multipart else []
