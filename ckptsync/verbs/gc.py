"""Garbage collection: retention, what dead attempts left, and records that nobody needs any more.

The order of snapshots is that of their epochs and steps; times decide only whether something is old enough to be dead, and
those are the store's own. Nothing is deleted that no manifest or journal of ours names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import groupby, islice

from ckptsync import names
from ckptsync.catalog import Listed
from ckptsync.claims import KEPT_CLAIMS
from ckptsync.errors import CkptsyncError, ConfigError, NoSnapshotError
from ckptsync.events import Event, Kind
from ckptsync.policy import KeepPolicy
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.store.base import Stat, Upload
from ckptsync.transfer.workers import map_tasks
from ckptsync.verbs.attempts import Folder, folders, journal_keys
from ckptsync.verbs.erase import Erased, Target, View, abort_wholly, condemn, erase
from ckptsync.verbs.foreign import foreign_keys
from ckptsync.verbs.lease import dead, leased, store_time_s
from ckptsync.verbs.retention import let_go

GRACE_S = 86400.0
"""What is younger, is left alone: it may be of a save that is under way."""
_FOREIGN_NAMES = 1000
_KEPT_VERSIONS = 10
"""So many of the newest versions of an alias stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was deleted, or in a dry run would be.

    Attributes:
        removed: snapshots that retention let go, the newest first.
        kept: committed snapshots that stay, the newest first.
        orphans: attempts that came to nothing, of which something was left.
        uploads_aborted: unfinished multipart uploads.
        objects_deleted: data objects, old claims, superseded versions of aliases, leases of readers that are gone, and
            quarantine records of snapshots that are.
        bytes_deleted: their size.
        foreign: objects that nothing of ours names, at most 1000 of them; they stay.
        foreign_count: how many of those there are in all.
        dry_run: nothing was written or deleted.
    """

    removed: tuple[str, ...]
    kept: tuple[str, ...]
    orphans: tuple[str, ...]
    uploads_aborted: int
    objects_deleted: int
    bytes_deleted: int
    foreign: tuple[str, ...]
    foreign_count: int
    dry_run: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    """The run at one moment.

    Attributes:
        listed: every snapshot whose manifest is there, the newest first.
        folders: of all attempts.
        epoch: the newest claimed.
    """

    listed: tuple[Listed, ...]
    folders: Mapping[SnapshotId, Folder]
    epoch: int

    @property
    def committed(self) -> frozenset[SnapshotId]:
        """Their ids."""
        return frozenset(one.id for one in self.listed)


def tidy(run: Run, keep: KeepPolicy | None, *, behind: str) -> None:
    """Delete what need not be kept any more, behind a save; that this fails does not make the snapshot less durable, and is told.

    Args:
        run: where.
        keep: which snapshots stay; None deletes nothing.
        behind: id of the snapshot that was saved.
    """
    if keep is None:
        return
    try:
        collect(run, keep, grace_s=GRACE_S, dry_run=False)
    except CkptsyncError as error:
        message = f"{behind} is saved, but older ones could not be deleted: {error}"
        run.observer(Event(kind=Kind.NOTICE, path=behind, message=message))


def collect(run: Run, keep: KeepPolicy | None, *, grace_s: float, dry_run: bool) -> Collected:
    """Delete what the policy lets go and what dead attempts left. Killed at any moment, the next call finishes.

    Pinned snapshots, those with an alias, those being read, the newest good one, and those whose manifest cannot be read
    always stay. Quarantined ones take no good one's place.

    Args:
        run: where.
        keep: which snapshots stay; None keeps all of them.
        grace_s: what is younger, in seconds of the store's clock, is nobody's orphan; 0 or more, and longer than the
            longest pause in which a save that was overtaken may still believe itself the writer.
        dry_run: only tell.

    Raises:
        ConfigError: `grace_s` is negative.
        ManifestError: an alias is damaged, so that it cannot be known what it protects; nothing was deleted.
        StoreError: a request failed for good; calling again finishes.
    """
    if grace_s < 0:
        raise ConfigError(f"a grace period of {grace_s} seconds makes no sense; it must be 0 or more")
    survey = _survey(run)
    now_s = _now_s(run, survey, dry_run=dry_run)
    doomed = _doomed(run, survey, keep, now_s)
    orphans = _orphans(survey, now_s - grace_s)
    foreign, foreign_count = _foreign(run, survey)
    if not dry_run:
        targets = [survey.folders[one] for one in sorted(doomed | orphans) if one in survey.folders]
        map_tasks(lambda folder: condemn(run, folder), targets, run.config.transfer.parts_in_flight)
        if targets:
            run.rest()
        survey, doomed, orphans = _look_again(run, survey, doomed, orphans, now_s)
    view = View(
        folders=survey.folders,
        committed=survey.committed - doomed,
        condemned=doomed | orphans | {one for one, folder in survey.folders.items() if folder.condemned is not None},
        stale_s=now_s - grace_s,
    )
    erased, loose = _erase_all(run, view, doomed, orphans, now_s=now_s, dry_run=dry_run)
    records = [
        *_old_claims(run, now_s - grace_s),
        *_old_alias_versions(run),
        *_old_reports(run, view),
        *_idle_quarantines(run, view.committed, now_s),
        *dead(run.store, now_s),
    ]
    if records and not dry_run:
        run.store.delete([stat.key for stat in records])
    return Collected(
        removed=tuple(str(one) for one in sorted(doomed, reverse=True)),
        kept=tuple(str(one.id) for one in survey.listed if one.id not in doomed),
        orphans=tuple(
            str(one)
            for one in sorted(orphans, reverse=True)
            if erased[one].whole or erased[one].objects or erased[one].uploads
        ),
        uploads_aborted=loose + sum(part.uploads for part in erased.values()),
        objects_deleted=len(records) + sum(part.objects for part in erased.values()),
        bytes_deleted=sum(stat.size for stat in records) + sum(part.bytes for part in erased.values()),
        foreign=foreign,
        foreign_count=foreign_count,
        dry_run=dry_run,
    )


# -- what is there -------------------------------------------------------------------------------------------------------


def _survey(run: Run) -> _Survey:
    """Look at everything once. Journals are listed before manifests: whatever is committed meanwhile is no orphan."""
    found = {folder.id: folder for folder in folders(run.store)}
    epoch = run.catalog.claims.newest_epoch()
    return _Survey(listed=tuple(run.catalog.listed()), folders=found, epoch=epoch)


def _now_s(run: Run, survey: _Survey, *, dry_run: bool) -> float:
    """The store's own time. A dry run, and one where nothing is ours, put nothing and take this machine's."""
    if dry_run or not (survey.folders or survey.listed or survey.epoch):
        return max([run.clock.now(), *(folder.modified_s for folder in survey.folders.values())])
    return store_time_s(run, survey.epoch)


def _foreign(run: Run, survey: _Survey) -> tuple[tuple[str, ...], int]:
    """Names of some foreign objects, and how many there are."""
    found = foreign_keys(run, survey.listed, survey.folders)
    shown = tuple(islice(found, _FOREIGN_NAMES))
    return shown, len(shown) + sum(1 for _ in found)


# -- what goes -----------------------------------------------------------------------------------------------------------


def _doomed(run: Run, survey: _Survey, keep: KeepPolicy | None, now_s: float) -> frozenset[SnapshotId]:
    """Snapshots that retention lets go."""
    if keep is None or not survey.listed:
        return frozenset()
    quarantined = run.catalog.quarantined()
    return let_go(run, survey.listed, keep, quarantined=quarantined, spared=_spared(run, now_s), now_s=now_s)


def _spared(run: Run, now_s: float) -> frozenset[SnapshotId]:
    """Snapshots that somebody asked to keep, or is reading."""
    aliased = (layout.parse_snapshot_id(alias.snapshot) for alias in names.all_aliases(run.catalog).values())
    return (
        frozenset(names.pins(run.catalog))
        | frozenset(one for one in aliased if one is not None)
        | leased(run.store, now_s)
    )


def _orphans(survey: _Survey, before_s: float) -> frozenset[SnapshotId]:
    """Attempts that will never be committed: overtaken by a newer epoch or condemned already, and old enough."""
    committed = survey.committed
    return frozenset(
        folder.id
        for folder in survey.folders.values()
        if folder.id not in committed
        and (folder.id.epoch < survey.epoch or folder.condemned is not None)
        and folder.modified_s < before_s
        and not _is_continued(folder, survey, committed, before_s)
    )


def _is_continued(folder: Folder, survey: _Survey, committed: AbstractSet[SnapshotId], before_s: float) -> bool:
    """Whether a later attempt that is not committed yet may be at work on this one. What a committed one names is seen later."""
    for adopter, marker in folder.adopters.items():
        if adopter in committed:
            continue
        other = survey.folders.get(adopter)
        young = marker.modified_s >= before_s or (other is not None and other.modified_s >= before_s)
        if young or adopter.epoch >= survey.epoch:
            return True
    return False


def _look_again(
    run: Run, before: _Survey, doomed: frozenset[SnapshotId], orphans: frozenset[SnapshotId], now_s: float
) -> tuple[_Survey, frozenset[SnapshotId], frozenset[SnapshotId]]:
    """List once more, now that everything to be erased is condemned; what was committed or spared meanwhile stays."""
    found = {folder.id: folder for folder in folders(run.store)}
    after = _Survey(listed=tuple(run.catalog.listed()), folders=found, epoch=before.epoch)
    return after, doomed - _spared(run, now_s) if doomed else doomed, orphans - after.committed


# -- and its going -------------------------------------------------------------------------------------------------------


def _erase_all(
    run: Run, view: View, doomed: frozenset[SnapshotId], orphans: frozenset[SnapshotId], *, now_s: float, dry_run: bool
) -> tuple[dict[SnapshotId, Erased], int]:
    """Manifests first, the oldest before the newer; then data. Also the number of uploads of settled attempts.

    A reader that found a manifest just before it went has put its lease before: its data is for a later gc to delete.
    """
    workers = run.config.transfer.parts_in_flight
    oldest_first = sorted(doomed)
    named = dict(
        zip(
            oldest_first,
            map_tasks(lambda one: _unrecorded(run, one, view.folders.get(one)), oldest_first, workers),
            strict=True,
        )
    )
    uploads: dict[SnapshotId, list[Upload]] = {}
    for upload in run.store.uploads(layout.DATA) if run.store.traits.multipart else ():
        if (owner := layout.parse_snapshot_id(upload.key.split("/")[1])) is not None:
            uploads.setdefault(owner, []).append(upload)
    if not dry_run and doomed:
        run.store.delete([layout.manifest_key(one) for one in oldest_first])
        for one in oldest_first:
            run.observer(Event(kind=Kind.DELETED, path=str(one), count=1, message=f"retention let go of {one}"))
    targets = [
        Target(attempt=one, named=named.get(one, frozenset()), uploads=uploads.get(one, ()))
        for one in sorted(doomed | orphans)
    ]
    if targets:
        view = replace(view, leased=leased(run.store, now_s))
    erased = erase(run, targets, view, dry_run=dry_run)
    others = [(one, found) for one, found in uploads.items() if one not in erased]
    return erased, sum(_abort_settled(run, one, found, view, dry_run=dry_run) for one, found in others)


def _unrecorded(run: Run, snapshot: SnapshotId, folder: Folder | None) -> frozenset[str]:
    """Keys of a snapshot by its manifest, where its journal is lost or damaged; else none, for the journal has them."""
    if journal_keys(run.store, snapshot, folder) is not None:
        return frozenset()
    try:
        return frozenset(file.key for file in run.catalog.get(snapshot).files)
    except NoSnapshotError:  # somebody else was faster
        return frozenset()


def _abort_settled(run: Run, owner: SnapshotId, uploads: list[Upload], view: View, *, dry_run: bool) -> int:
    """Drop uploads that a committed snapshot, or one that it continues, has left open; returns how many."""
    folder = view.folders.get(owner)
    if folder is None:
        return 0
    settled = owner in view.committed or (
        bool(folder.adopters) and all(adopter in view.committed for adopter in folder.adopters)
    )
    old = [upload for upload in uploads if (upload.begun_s or folder.modified_s) < view.stale_s]
    keys = journal_keys(run.store, owner, folder) if settled and old else None
    idle = [upload for upload in old if keys and upload.key in keys]
    for upload in idle if not dry_run else ():
        abort_wholly(run.store, upload)
    return len(idle)


def _old_claims(run: Run, before_s: float) -> list[Stat]:
    """Claims on epochs long past; the newest few stay, and with them the newest epoch."""
    claims = (stat for stat in run.store.list(layout.WRITERS) if layout.epoch_of_writer_key(stat.key) is not None)
    return [stat for stat in islice(claims, KEPT_CLAIMS, None) if stat.modified_s < before_s]


def _old_reports(run: Run, view: View) -> Iterator[Stat]:
    """What ranks reported of snapshots that are committed long since: the manifest has it all."""
    for stat in run.store.list(layout.RANKS):
        attempt = layout.attempt_of_report_folder(stat.key)
        if attempt in view.committed and stat.modified_s < view.stale_s and not layout.is_content_key(stat.key):
            yield stat


def _idle_quarantines(run: Run, committed: AbstractSet[SnapshotId], now_s: float) -> Iterator[Stat]:
    """Quarantine records that were there when we began, of snapshots that are not there any more."""
    for stat in run.store.list(layout.QUARANTINE):
        snapshot = layout.snapshot_of_quarantine_key(stat.key)
        if snapshot is not None and snapshot not in committed and stat.modified_s < now_s:
            yield stat


def _old_alias_versions(run: Run) -> Iterator[Stat]:
    """Versions of aliases superseded long ago."""
    versions = (stat for stat in run.store.list(layout.ALIASES) if layout.version_of_alias_key(stat.key) is not None)
    for _, found in groupby(versions, key=lambda stat: stat.key.rpartition("/")[0]):
        yield from islice(found, _KEPT_VERSIONS, None)
