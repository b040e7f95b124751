"""The ladder a reader goes down: the newest snapshot, and when it is bad the one before, until one is good."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Generic, NoReturn, TypeVar

from ckptsync import names
from ckptsync.catalog import Listed
from ckptsync.errors import IntegrityError, NoSnapshotError, NotFoundError, VersionError
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest
from ckptsync.verbs.lease import Leases
from ckptsync.verbs.quarantine import reason_of

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Skipped:
    """A newer snapshot that was not restored, and why."""

    snapshot: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached(Generic[_T]):
    """Where the ladder ended.

    Attributes:
        manifest: of the snapshot that was good.
        value: what was made of it.
        skipped: newer snapshots that were bad or quarantined, the newest first.
        steps_lost: how much newer the newest of those was, 0 or more.
    """

    manifest: Manifest
    value: _T
    skipped: tuple[Skipped, ...]
    steps_lost: int


def newest_good(run: Run, snapshot: str, *, fallback: bool, use: Callable[[Run, Manifest], _T]) -> Reached[_T]:
    """Use a snapshot, or the next older one when it is bad. While it is used, it is spared by gc and rm.

    Args:
        run: where from.
        snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias.
        fallback: with `latest`, go on with the next older snapshot when one is damaged or quarantined. Asked for by another name,
            a quarantined one is tried.
        use: told to make something of a snapshot by the run it is given; raises IntegrityError when it is bad.

    Raises:
        NoSnapshotError: there is none, or not the one asked for.
        IntegrityError: every snapshot tried was bad.
        VersionError: a newer ckptsync wrote the latest; an older one is used only when it is asked for.
        CkptsyncError: whatever else `use` raised.
    """
    skipped: list[Skipped] = []
    leases = Leases(run)
    told = lost_from = 0
    for snapshot_id, listed, quarantined in _candidates(run, snapshot):
        for bad in skipped[told:]:
            run.observer(_fell_back(bad))
        told = len(skipped)
        try:
            if quarantined:
                _pass_over(run, snapshot_id)
            with leases.on(snapshot_id) as reading:
                if (manifest := _loaded(reading, snapshot_id, listed)) is None:
                    continue
                value = use(reading, manifest)
        except IntegrityError as error:
            if not fallback or listed is None or isinstance(error, VersionError):
                raise
            skipped.append(Skipped(snapshot=str(snapshot_id), reason=str(error)))
            lost_from = max(lost_from, snapshot_id.step)
            continue
        lost = max(0, lost_from - manifest.id.step)
        return Reached(manifest=manifest, value=value, skipped=tuple(skipped), steps_lost=lost)
    if not skipped:
        raise NoSnapshotError(f"there is no snapshot in {run.url}")
    if len(skipped) == 1:
        raise IntegrityError(f"the only snapshot in {run.url} is bad: {skipped[0].reason}")
    raise IntegrityError(f"none of {len(skipped)} snapshots in {run.url} is good; the newest: {skipped[0].reason}")


def _fell_back(bad: Skipped) -> Event:
    """Say that an older snapshot is tried instead."""
    message = f"snapshot {bad.snapshot} is bad, the next older one is taken: {bad.reason}"
    return Event(kind=Kind.FELL_BACK, path=bad.snapshot, message=message)


def _candidates(run: Run, snapshot: str) -> Iterator[tuple[SnapshotId, Listed | None, bool]]:
    """What to try, in order, and whether it is quarantined; two small listings when the first is good."""
    if snapshot != "latest":
        yield names.find(run.catalog, snapshot), None, False
        return
    tried: set[SnapshotId] = set()
    quarantined: frozenset[SnapshotId] | None = None
    for limit in chain((1,), repeat(None)):
        seen = len(tried)
        for listed in run.catalog.listed(limit=limit):
            if quarantined is None:
                quarantined = run.catalog.quarantined()
            if listed.id not in tried:
                tried.add(listed.id)
                yield listed.id, listed, listed.id in quarantined
        if limit is None and len(tried) == seen:  # else those listed may be gone, and newer ones there
            return


def _pass_over(run: Run, snapshot: SnapshotId) -> NoReturn:
    """Say why a quarantined snapshot is not even tried.

    Raises:
        IntegrityError: always.
    """
    raise IntegrityError(f"it is quarantined: {reason_of(run, snapshot)}")


def _loaded(run: Run, snapshot: SnapshotId, listed: Listed | None) -> Manifest | None:
    """Read a manifest; None when it was deleted since it was listed."""
    if listed is None:
        return run.catalog.get(snapshot)
    try:
        return run.catalog.load(listed)
    except NotFoundError:
        return None
