"""Report: what a run tells about the time and money it took, and about the work that interruptions lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from statistics import median

from msgspec import UNSET

from ckptsync.catalog import Listed
from ckptsync.errors import ManifestError, NotFoundError
from ckptsync.run import Run
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest
from ckptsync.transfer.workers import in_order
from ckptsync.verbs import lost_work
from ckptsync.verbs.bill import Bill, Ledger, tariff
from ckptsync.verbs.lost_work import Interruption, Point, Process, Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Exposure:
    """How much work a crash would have lost: the age of the newest snapshot, from the moment its state was taken (RPO).

    Attributes:
        now_s: at the time of the report, seconds; None when there is no snapshot.
        median_s: of the greatest ages, right before each commit; None when unknown.
        worst_s: the greatest of all; None when unknown.
        worst_step: the snapshot that ended that.
    """

    now_s: float | None
    median_s: float | None
    worst_s: float | None
    worst_step: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run so far, from the snapshots that are left of it.

    Attributes:
        url: the run URL, without credentials.
        made_s: when this was, seconds since the Unix epoch.
        snapshots: the oldest first.
        unreadable: how many more there are whose manifest is damaged or of a newer format.
        processes: stretches of work, in order.
        interruptions: what came between them, and what it cost.
        interruptions_unseen: how many more there were, of which no snapshot is left: epochs that training loops took.
        exposure: how much work a crash would have lost.
        share: where the time went.
        bill: what the service charges, an estimate.
    """

    url: str
    made_s: float
    snapshots: tuple[Point, ...]
    unreadable: int
    processes: tuple[Process, ...]
    interruptions: tuple[Interruption, ...]
    interruptions_unseen: int
    exposure: Exposure
    share: Share
    bill: Bill


def report(run: Run) -> Report:
    """Read every manifest of a run, and reckon. Nothing is written; safe to call again.

    Manifests are read in parallel, and a few figures of each stay in memory.

    Raises:
        StoreError: a request failed for good.
    """
    ledger, points, unreadable = Ledger(), list[Point](), 0
    quarantined = run.catalog.quarantined()

    def read(listed: Listed) -> tuple[Listed, Manifest | None] | None:
        try:
            return listed, run.catalog.load(listed)
        except NotFoundError:
            return None
        except ManifestError:
            return listed, None

    for found in in_order(read, run.catalog.listed(), run.config.transfer.parts_in_flight):
        if found is None:
            continue
        listed, manifest = found
        if manifest is None:
            unreadable += 1
            continue
        ledger.add(manifest)
        points.append(_point(listed, manifest, quarantined))
    newest_epoch = run.catalog.claims.newest_epoch()
    return reckoned(run, points[::-1], ledger, unreadable=unreadable, newest_epoch=newest_epoch)


def reckoned(run: Run, points: Sequence[Point], ledger: Ledger, *, unreadable: int, newest_epoch: int = 0) -> Report:
    """Make the report of what was read.

    Args:
        run: for its address, its clock, and the prices among its options.
        points: snapshots, the oldest first.
        ledger: that counted them.
        unreadable: snapshots of which nothing is known.
        newest_epoch: that anybody claimed; 0 when that is not known.
    """
    now_s = run.clock.now()
    exposed = tuple(_exposed(points))
    step_s = lost_work.pace_s(exposed)
    work = lost_work.processes(exposed)
    stops = lost_work.interruptions(exposed, step_s)
    service = run.config.gcs if run.url.startswith("gs:") else run.config.s3
    at = tariff(run.url, run.config.prices, elsewhere=service.endpoint_url is not None)
    return Report(
        url=run.url,
        made_s=now_s,
        snapshots=exposed,
        unreadable=unreadable,
        processes=work,
        interruptions=stops,
        interruptions_unseen=lost_work.unseen(exposed, newest_epoch),
        exposure=_exposure(exposed, now_s),
        share=lost_work.share(work, stops, step_s),
        bill=ledger.bill(sum(process.saves for process in work), at),
    )


def _point(listed: Listed, manifest: Manifest, quarantined: frozenset[SnapshotId]) -> Point:
    """Keep what a report needs of a manifest."""
    return Point(
        snapshot=manifest.snapshot,
        step=listed.id.step,
        epoch=listed.id.epoch,
        committed_s=_time_s(manifest.created, listed.stat.modified_s),
        host=manifest.writer.host,
        pid=manifest.writer.pid,
        ranks=len(manifest.ranks),
        bytes=manifest.size,
        bytes_sent=manifest.cost.bytes_sent,
        bytes_reused=manifest.cost.bytes_reused,
        upload_s=lost_work.seconds(manifest.cost.seconds),
        loop=None if manifest.cost.loop is UNSET else manifest.cost.loop,
        metrics=manifest.metrics,
        quarantined=listed.id in quarantined,
    )


def _time_s(created: str, modified_s: float) -> float:
    """When a snapshot was committed: as its writer says, since that survives a move, or when the store got it."""
    try:
        return datetime.fromisoformat(created).astimezone(UTC).timestamp()
    except (ValueError, OverflowError):
        return modified_s


def _exposed(points: Sequence[Point]) -> Iterator[Point]:
    """Tell each snapshot how long a crash would have been dear before it."""
    before: Point | None = None
    for point in points:
        yield replace(point, exposed_s=lost_work.exposed_s(point, before))
        before = point


def _exposure(points: Sequence[Point], now_s: float) -> Exposure:
    """Sum up how dear a crash would have been."""
    known = [(point.exposed_s, point.step) for point in points if point.exposed_s is not None]
    good = [point for point in points if not point.quarantined]
    worst = max(known, default=None)
    return Exposure(
        now_s=max(0.0, now_s - good[-1].committed_s + good[-1].upload_s) if good else None,
        median_s=median(exposed for exposed, _ in known) if known else None,
        worst_s=worst[0] if worst else None,
        worst_step=worst[1] if worst else None,
    )
