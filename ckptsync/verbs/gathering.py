"""Ranks meet through the bucket alone: each reports what it brought, whoever sees all reports commits, the others wait for that.

No rank ever waits for a message of another. One listing shows who has reported; a hint in the bucket lets one rank read the
reports, so that a thousand do not; and should that rank die, the next one does it. The commit is one conditional put, as always.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from ckptsync.errors import ConflictError, IncompleteError, ManifestError, NoSnapshotError, NotFoundError, StoreError
from ckptsync.events import Event, Kind
from ckptsync.records import read_record, this_writer, timestamp
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.cost import Cost, Loop
from ckptsync.snapshot.envelope import MAX_MANIFEST_BYTES
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest
from ckptsync.snapshot.report import Report, commit_id_of, decode_report, encode_report, merged, same_work
from ckptsync.transfer.workers import map_tasks
from ckptsync.verbs.attempts import folder_of, read_attempts
from ckptsync.verbs.sending import check_sound

READERS = 32
"""Reports read at once: they are small, and their number is what a commit waits for."""
LOOKS = 16
"""About so many ranks, of however many, list the reports in each round of waiting; one is enough."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
TAKE_OVER_S = 10.0
"""Patience with a rank that said it would commit."""
_NAMED = 20
_LOOK_BACK = 10_000
"""So many of the newest reports are looked through for ranks that are missing."""
_DICE = random.SystemRandom()


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathering:
    """One step that a number of ranks save together, seen by one of them.

    Attributes:
        run: where.
        snapshot: the attempt they share.
        rank: who we are.
        world: how many there are.
    """

    run: Run
    snapshot: SnapshotId
    rank: int
    world: int

    def report(self, report: Report) -> None:
        """Put down what we brought. Safe to call again with the same files.

        Raises:
            IncompleteError: this rank has reported other files for the same step of the same launch.
        """
        key = layout.report_key(self.snapshot, self.rank, self.world)
        try:
            self.run.store.put(key, encode_report(report, self.run.catalog.keys.signer), if_absent=True)
        except ConflictError as error:
            if not same_work(self.read(self.rank), report):
                raise IncompleteError(
                    f"rank {self.rank} has saved other files as step {self.snapshot.step} in this launch before; "
                    "name each start of the job differently (--launch)"
                ) from error

    def read(self, rank: int) -> Report:
        """Read what a rank brought, once more when a bit may have flipped on the way.

        Raises:
            NotFoundError: it has not reported.
            ManifestError: its report is damaged, or not signed as required.
        """
        with suppress(ManifestError):
            return self._read(rank)
        try:
            return self._read(rank)
        except ManifestError as error:
            raise ManifestError(f"the report of rank {rank} of {self.snapshot} cannot be used: {error}") from error

    def _read(self, rank: int) -> Report:
        """Read and decode."""
        key = layout.report_key(self.snapshot, rank, self.world)
        data = read_record(self.run.store, key, MAX_MANIFEST_BYTES)
        return decode_report(data, self.snapshot, rank, self.world, self.run.catalog.keys.required)

    def committed(self) -> Manifest | None:
        """The snapshot, when somebody has committed it."""
        try:
            return self.run.catalog.get(self.snapshot)
        except NoSnapshotError:
            return None

    def reported(self) -> tuple[set[int], bool]:
        """Look who has reported, and whether somebody said that it commits. One listing.

        Raises:
            IncompleteError: ranks disagree about how many they are.
        """
        ranks: set[int] = set()
        hinted = False
        for stat in self.run.store.list(layout.report_prefix(self.snapshot)):
            if stat.key == layout.committer_key(self.snapshot):
                hinted = True
            elif found := layout.report_of_key(stat.key):
                if found[2] != self.world:
                    raise IncompleteError(
                        f"rank {found[1]} says that there are {found[2]} ranks, and rank {self.rank} that there are "
                        f"{self.world}; nothing was committed"
                    )
                if found[1] < self.world:
                    ranks.add(found[1])
        return ranks, hinted

    def commit(self) -> Manifest:
        """Make the snapshot exist from all ranks' reports; of several who try, each succeeds with the same commit.

        Raises:
            IncompleteError: the ranks' files do not make one tree, or somebody is deleting them.
            FencedError: a newer launch or writer owns the run.
        """
        reports: Sequence[Report] = map_tasks(self.read, range(self.world), READERS)
        manifest = Manifest(
            snapshot=str(self.snapshot),
            commit_id=commit_id_of(reports),
            created=timestamp(self.run.clock),
            entries=merged(reports),
            metrics={name: value for report in reversed(reports) for name, value in report.metrics.items()},
            meta={name: text for report in reversed(reports) for name, text in report.meta.items()},
            parent=reports[0].parent,
            writer=this_writer(),
            ranks=tuple(report.writer for report in reports),
            provenance=reports[0].provenance,
            cost=Cost(
                seconds=max(report.cost.seconds for report in reports),
                bytes_sent=sum(report.cost.bytes_sent for report in reports),
                bytes_reused=sum(report.cost.bytes_reused for report in reports),
                loop=_slowest(report.cost.loop for report in reports),
            ),
        )
        check_sound(manifest)
        self._check_kept()
        if self.run.catalog.commit(manifest):
            try:
                self._check_kept()  # the snapshot may have come and gone while we slept
            except IncompleteError:
                with suppress(StoreError):  # where trainers may not delete, whoever reads finds it damaged
                    self.run.store.delete([layout.manifest_key(self.snapshot)])
                raise
        self.run.observer(
            Event(kind=Kind.COMMITTED, path=manifest.snapshot, bytes=manifest.size, count=len(manifest.files))
        )
        return manifest

    def _check_kept(self) -> None:
        """Make sure that nobody deletes, or has deleted, what the ranks brought, as rm and gc do once it was committed. One listing.

        Who deletes condemns first, and deletes the journals after the data: data that was there before is there still.

        Raises:
            IncompleteError: somebody does.
        """
        found = folder_of(self.run.store, self.snapshot)
        there = {journal.key for journal in found.journals} if found else set[str]()
        wanted = {layout.journal_key(self.snapshot, rank) for rank in range(self.world)}
        if found is None or found.condemned is not None or not wanted <= there:
            raise IncompleteError(
                f"snapshot {self.snapshot} was committed once, and is being deleted or gone; let gc finish that, and name each "
                "start of the job differently (--launch)"
            )


def gather(us: Gathering, *, timeout_s: float) -> Manifest:
    """Return the snapshot once all ranks' files are in it; commit it if nobody else does. Our own report is there already.

    Args:
        us: our part in it.
        timeout_s: how long to wait for the others, in seconds.

    Raises:
        IncompleteError: the time is over; names the ranks that are missing and their hosts. The previous snapshot stays the
            latest.
        FencedError: a newer launch or writer owns the run.
        ManifestError: a rank's report is damaged.
    """
    clock = us.run.clock
    deadline_s = clock.monotonic() + timeout_s
    hinted_s: float | None = None
    for pause_s, looking in _rounds(us.world):
        if (found := us.committed()) is not None:
            return found
        if looking:
            us.run.catalog.claims.check_not_fenced(us.snapshot.epoch)
            ranks, hinted = us.reported()
            hinted_s = hinted_s if hinted_s is not None else clock.monotonic() if hinted else None
            stale = hinted_s is not None and clock.monotonic() - hinted_s >= TAKE_OVER_S
            if len(ranks) == us.world and (stale or (not hinted and _hint(us))):
                return us.commit()
        left_s = deadline_s - clock.monotonic()
        if left_s <= 0:
            break
        clock.sleep(min(pause_s, left_s))
    if (found := us.committed()) is not None:
        return found
    if len(us.reported()[0]) == us.world:  # whoever said that it commits did not
        return us.commit()
    raise _incomplete(us, timeout_s)


def _rounds(world: int) -> Iterator[tuple[float, bool]]:
    """Pauses that grow, and whether to list the reports before each; the first time always."""
    yield 0.0, True
    longest_s = FIRST_PAUSE_S
    while True:
        yield _DICE.uniform(longest_s / 2, longest_s), _DICE.random() < LOOKS / world
        longest_s = min(LONGEST_PAUSE_S, longest_s * 1.5)


def _hint(us: Gathering) -> bool:
    """Say that we commit; False when another rank was first."""
    try:
        us.run.store.put(layout.committer_key(us.snapshot), str(us.rank).encode(), if_absent=True)
    except ConflictError:
        return False
    return True


def _incomplete(us: Gathering, timeout_s: float) -> IncompleteError:
    """Say who is missing, where it runs as far as it told, and what it does instead."""
    missing = sorted(set(range(us.world)) - us.reported()[0])
    named = _named(us, missing[:_NAMED])
    if len(missing) > _NAMED:
        named.append(f"{len(missing) - _NAMED} more")
    error = IncompleteError(
        f"step {us.snapshot.step} was not committed: after {timeout_s:g} s {len(missing)} of {us.world} ranks have not "
        f"saved their part: {', '.join(named)}; the previous snapshot stays the latest"
    )
    error.missing = tuple(missing)
    return error


def _named(us: Gathering, ranks: Sequence[int]) -> list[str]:
    """Name ranks, with their hosts and what they do instead, as far as the bucket tells."""
    hosts, elsewhere = hosts_of(us.run, us.snapshot), _elsewhere(us, set(ranks))
    named = []
    for rank in ranks:
        other = elsewhere.get(rank)
        host = hosts.get(rank) or (other.writer.host if other else None)
        instead = f"; it has saved step {other.id.step}" if other else ""
        named.append(f"rank {rank} ({host_named(host)}{instead})")
    return named


def hosts_of(run: Run, snapshot: SnapshotId) -> dict[int, str]:
    """Return the hosts of the ranks that have begun to save, as their journals say; empty when those cannot be read."""
    try:
        shares = read_attempts(run.store, snapshot)
    except (NotFoundError, ManifestError):
        return {}
    return {share.rank: share.writer.host for share in shares if share.rank is not None}


def host_named(host: str | None) -> str:
    """Say where a rank runs, as far as it is known."""
    return f"host {host}" if host else "host unknown, it never began"


def _slowest(loops: Iterable[Loop | UnsetType]) -> Loop | UnsetType:
    """The loop that waited longest, which the others then wait for."""
    return max((loop for loop in loops if isinstance(loop, Loop)), key=lambda loop: loop.stalled_s, default=UNSET)


def _elsewhere(us: Gathering, missing: set[int]) -> dict[int, Report]:
    """What missing ranks have reported last for other steps of the same epoch."""
    found: dict[int, Report] = {}
    for stat in us.run.store.list(layout.epoch_prefix(layout.RANKS, us.snapshot.epoch), limit=_LOOK_BACK):
        known = layout.report_of_key(stat.key)
        if known and known[0] != us.snapshot and known[1] in missing - found.keys():
            with suppress(NotFoundError, ManifestError):
                found[known[1]] = decode_report(read_record(us.run.store, stat.key, MAX_MANIFEST_BYTES), *known)
    return found
