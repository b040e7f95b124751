"""Status: how much work a crash would lose now, who writes, and what is under way."""

from __future__ import annotations

from dataclasses import dataclass

from ckptsync.catalog import Listed
from ckptsync.errors import ManifestError, NotFoundError
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.verbs.attempts import Folder, folders, read_attempts, report_keys
from ckptsync.verbs.gathering import host_named


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """An attempt newer than the newest snapshot, which may still be committed or be continued.

    Attributes:
        snapshot: its id.
        step: training step.
        bytes: of all its files.
        age_s: seconds since it began.
        world: how many ranks save it together, as far as they told; 0 when there is a single writer.
        missing: ranks that have not saved their part yet, each with its host in brackets.
    """

    snapshot: str
    step: int
    bytes: int
    age_s: float
    world: int = 0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unreadable:
    """A snapshot that was committed after the newest one that can be restored, and is of no use.

    Attributes:
        snapshot: its id.
        step: training step.
        age_s: seconds since it was committed.
        problem: a sentence.
    """

    snapshot: str
    step: int
    age_s: float
    problem: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """A run at this moment.

    Attributes:
        url: the run URL, without credentials.
        snapshot: id of the newest snapshot that can be restored; None when there is none.
        step: its training step.
        epoch: the newest claimed, 0 when nobody ever wrote.
        committed_age_s: seconds since that snapshot was committed: the recovery point a crash now would go back to.
        writer_host: who claimed the epoch; None when nobody did or the claim is damaged.
        writer_pid: its process.
        writer_since: RFC 3339, UTC, by the writer's clock.
        pending: the newest first.
        unreadable: newer snapshots whose manifest is damaged or of a newer format, the newest first.
    """

    url: str
    snapshot: str | None
    step: int | None
    epoch: int
    committed_age_s: float | None
    writer_host: str | None
    writer_pid: int | None
    writer_since: str | None
    pending: tuple[Pending, ...]
    unreadable: tuple[Unreadable, ...] = ()


def status(run: Run) -> Status:
    """Look at a run in a few small requests; nothing is written.

    Ages run from the store's time stamps to this machine's clock, and are never negative.

    Raises:
        StoreError: a request failed for good.
    """
    newest, unreadable = _newest_readable(run)
    epoch = run.catalog.claims.newest_epoch()
    claim = run.catalog.claims.writer(epoch) if epoch else None
    return Status(
        url=run.url,
        snapshot=str(newest.id) if newest else None,
        step=newest.id.step if newest else None,
        epoch=epoch,
        committed_age_s=_age_s(run, newest.stat.modified_s) if newest else None,
        writer_host=claim.writer.host if claim else None,
        writer_pid=claim.writer.pid if claim else None,
        writer_since=claim.created if claim else None,
        pending=_pending(run, newest.id if newest else None),
        unreadable=unreadable,
    )


def _newest_readable(run: Run) -> tuple[Listed | None, tuple[Unreadable, ...]]:
    """The newest snapshot a restore would take, and those before it that cannot be read; two small listings when it is good."""
    unreadable: dict[SnapshotId, Unreadable] = {}
    quarantined = run.catalog.quarantined()
    for limit in (1, None):
        for listed in run.catalog.listed(limit=limit):
            if listed.id in quarantined:
                continue
            try:
                run.catalog.load(listed)
            except NotFoundError:
                continue
            except ManifestError as error:
                unreadable[listed.id] = Unreadable(
                    snapshot=str(listed.id),
                    step=listed.id.step,
                    age_s=_age_s(run, listed.stat.modified_s),
                    problem=str(error),
                )
            else:
                return listed, tuple(unreadable.values())
    return None, tuple(unreadable.values())


def _pending(run: Run, newest: SnapshotId | None) -> tuple[Pending, ...]:
    """Attempts newer than the newest snapshot that no later attempt continues."""
    found: list[Pending] = []
    seen: set[SnapshotId] = set()
    for folder in folders(run.store):
        if newest is not None and folder.id <= newest:
            break
        if not folder.journals or folder.condemned is not None:
            continue
        seen.add(folder.id)
        if not seen.isdisjoint(folder.adopters) or run.catalog.exists(folder.id):
            continue
        found.append(_one(run, folder))
    return tuple(found)


def _one(run: Run, folder: Folder) -> Pending:
    """Look at one attempt, and whom it waits for."""
    try:
        shares = read_attempts(run.store, folder.id)
    except (NotFoundError, ManifestError):
        shares = ()
    reports = [known for key in report_keys(run.store, folder.id) if (known := layout.report_of_key(key))]
    ranks = {share.rank: share.writer.host for share in shares if share.rank is not None}
    world = max([report[2] for report in reports] + [rank + 1 for rank in ranks], default=0)
    waiting = sorted(set(range(world)) - {report[1] for report in reports})
    return Pending(
        snapshot=str(folder.id),
        step=folder.id.step,
        bytes=sum(share.size for share in shares),
        age_s=_age_s(run, folder.modified_s),
        world=world,
        missing=tuple(f"rank {rank} ({host_named(ranks.get(rank))})" for rank in waiting),
    )


def _age_s(run: Run, modified_s: float) -> float:
    """Seconds since the store got something."""
    return round(max(0.0, run.clock.now() - modified_s), 3)
