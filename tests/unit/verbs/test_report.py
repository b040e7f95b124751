"""What a run tells of the time and money it took, and of what interruptions lost."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from ckptsync.cli.told import told
from ckptsync.options import Config, Prices
from ckptsync.run import Run, run_on
from ckptsync.snapshot import layout
from ckptsync.snapshot.cost import Cost, Loop
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FileEntry, Manifest, Writer
from ckptsync.store.memory import MemoryStore
from ckptsync.store.meter import Metered
from ckptsync.testing.clock import FakeClock
from ckptsync.verbs.bill import FREE, GCS_LIST, S3_LIST, Ledger, tariff
from ckptsync.verbs.quarantine import quarantine
from ckptsync.verbs.report import Report, report
from ckptsync.verbs.save import save

GIB = 1 << 30
BEGIN = 1_700_000_000.0


class Job:
    """Commits snapshots at moments of our choosing."""

    def __init__(self) -> None:
        self.clock = FakeClock(BEGIN)
        self.store = MemoryStore(clock=self.clock)
        self.run = run_on(self.store, Config(), observer=lambda _: None, clock=self.clock)

    def commit(
        self,
        epoch: int,
        step: int,
        at_s: float,
        *,
        host: str = "a",
        pid: int = 1,
        loop: Loop | None = None,
        upload_s: float = 1.0,
        files: Mapping[str, int] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        ranks: int = 0,
    ) -> SnapshotId:
        """A snapshot, `at_s` seconds behind the beginning."""
        self.clock.advance(max(0.0, BEGIN + at_s - self.clock.now()))
        snapshot = SnapshotId(epoch, step, secrets.token_hex(4))
        own = layout.data_prefix(snapshot)
        entries = tuple(
            FileEntry(
                path=path.rpartition("/")[2],
                size=size,
                key=path if path.startswith("data/") else own + path,
                part_bytes=size and max(1, size // 4),
                parts=("0" * 64,) * (4 if size else 0),
            )
            for path, size in (files or {}).items()
        )
        manifest = Manifest(
            snapshot=str(snapshot),
            commit_id="0" * 32,
            created=_rfc3339(BEGIN + at_s),
            entries=entries,
            metrics=dict(metrics or {}),
            writer=Writer(host=host, pid=pid),
            ranks=tuple(Writer(host=host, pid=rank) for rank in range(ranks)),
            cost=Cost(seconds=upload_s, loop=loop or UNSET),
        )
        self.run.catalog.commit(manifest)
        return snapshot

    def report(self) -> Report:
        return report(self.run)


def _rfc3339(now_s: float) -> str:
    return datetime.fromtimestamp(now_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.fixture
def job() -> Job:
    return Job()


def loop(saves: int, running_s: float, *, stalled_s: float = 0.0, interval_s: float = 10.0, **more: Any) -> Loop:
    return Loop(saves=saves, running_s=running_s, stalled_s=stalled_s, interval_s=interval_s, stall_s=0.5, **more)


def test_an_empty_run_has_nothing_to_tell(job: Job) -> None:
    found = job.report()
    assert (found.snapshots, found.processes, found.interruptions) == ((), (), ())
    assert (found.exposure.now_s, found.exposure.worst_s, found.share.percent) == (None, None, None)
    assert found.bill.writes == found.bill.storage_month == 0


def test_a_loop_that_was_killed_once(job: Job) -> None:
    """Two seconds a step; killed a while after step 30, back on another machine, and at step 40 again."""
    first = [
        job.commit(1, step, 2 * step + 1, loop=loop(n, 2 * step, stalled_s=n)) for n, step in enumerate((10, 20, 30), 1)
    ]
    restarted = {"resumed_from": str(first[-1]), "resume_s": 4.0, "steps_redone": 7}
    job.commit(2, 40, 121, host="b", loop=loop(1, 27, stalled_s=1, **restarted))
    job.commit(2, 50, 141, host="b", loop=loop(2, 47, stalled_s=2, **restarted))
    found = job.report()
    (stop,) = found.interruptions
    assert (stop.kind, stop.last_step, stop.resumed_step, stop.steps_lost, stop.host) == ("restart", 30, 30, 7, "b")
    assert (stop.gap_s, stop.resume_s) == (60, 4)
    assert stop.lost_s == pytest.approx(60 - 10 * 2)
    one, two = found.processes
    assert (one.first_step, one.last_step, one.saves, one.stalled_s, one.resume_s) == (10, 30, 3, 3, 0)
    assert (two.first_step, two.last_step, two.saves, two.stalled_s, two.resume_s) == (40, 50, 2, 2, 4)
    assert one.begun_s - BEGIN == pytest.approx(21 - 1 - 20)
    assert found.share.wall_s == pytest.approx(141)
    assert (found.share.stalled_s, found.share.lost_s, found.share.step_s) == (5, pytest.approx(40), pytest.approx(2))
    assert found.share.percent == pytest.approx(100 * (141 - 45) / 141)


def test_what_deleted_snapshots_told_is_known_from_later_ones(job: Job) -> None:
    job.commit(1, 90, 181, loop=loop(9, 180, stalled_s=9))
    job.commit(1, 100, 201, loop=loop(10, 200, stalled_s=10))
    found = job.report()
    assert (found.processes[0].saves, found.processes[0].stalled_s) == (10, 10)
    assert found.processes[0].begun_s == pytest.approx(BEGIN)
    assert [point.exposed_s for point in found.snapshots] == [11, 11]
    assert found.share.percent == pytest.approx(100 * 191 / 201)


def test_exposure_is_the_age_of_what_could_be_restored(job: Job) -> None:
    job.commit(1, 10, 100, upload_s=5)
    job.commit(1, 20, 150, upload_s=2)
    job.commit(1, 30, 400, upload_s=3)
    job.clock.advance(60)
    found = job.report()
    assert [point.exposed_s for point in found.snapshots] == [None, 55, 252]
    assert (found.exposure.worst_s, found.exposure.worst_step) == (252, 30)
    assert found.exposure.median_s == pytest.approx((55 + 252) / 2)
    assert found.exposure.now_s == 63


def test_the_newest_good_snapshot_is_what_counts_now(job: Job) -> None:
    job.commit(1, 10, 100)
    bad = job.commit(1, 20, 150)
    quarantine(job.run, bad, [("model", 1, "it rotted")])
    found = job.report()
    assert [point.quarantined for point in found.snapshots] == [False, True]
    assert found.exposure.now_s == 51


@pytest.mark.parametrize(
    ("second", "interrupted"),
    [
        ({"epoch": 2, "step": 20, "pid": 2}, False),  # `ckptsync save` is another process each time
        ({"epoch": 2, "step": 20, "host": "b"}, True),
        ({"epoch": 2, "step": 10, "pid": 2}, True),
        ({"epoch": 2, "step": 20, "pid": 2, "loop": loop(1, 5)}, True),
        ({"epoch": 2, "step": 20, "loop": loop(1, 5)}, True),
        ({"epoch": 2, "step": 20, "loop": loop(9, 500)}, True),
        ({"epoch": 1, "step": 20, "loop": loop(9, 500)}, False),
        ({"epoch": 2, "step": 20, "pid": 2, "ranks": 2}, True),
        ({"epoch": 1, "step": 20, "pid": 2, "ranks": 2}, False),
    ],
)
def test_what_counts_as_an_interruption(job: Job, second: dict[str, Any], *, interrupted: bool) -> None:
    job.commit(1, 10, 100, loop=loop(1, 90) if "loop" in second else None, ranks=second.get("ranks", 0))
    job.commit(at_s=200, **second)
    assert len(job.report().interruptions) == int(interrupted)


def test_a_loop_that_goes_back_by_itself_loses_steps_too(job: Job) -> None:
    first = job.commit(1, 10, 21, loop=loop(1, 20))
    job.commit(1, 20, 41, loop=loop(2, 40, resumed_from=str(first), resume_s=1.0, steps_redone=3))
    job.commit(2, 15, 53, loop=loop(3, 52, resumed_from=str(first), resume_s=3.0, steps_redone=13))
    (stop,) = job.report().interruptions
    assert (stop.kind, stop.last_step, stop.resumed_step, stop.steps_lost, stop.resume_s) == ("rollback", 20, 10, 10, 2)
    assert stop.lost_s == pytest.approx(12 - 5 * 2)


@pytest.mark.parametrize(("step", "resumed"), [(25, 20), (15, 10), (5, -1)])
def test_who_says_nothing_went_on_from_the_newest_possible(job: Job, step: int, resumed: int) -> None:
    job.commit(1, 10, 10)
    job.commit(1, 20, 20)
    job.commit(2, step, 60, host="b")
    (stop,) = job.report().interruptions
    assert (stop.resumed_step, stop.steps_lost) == (resumed, 20 - resumed)
    assert stop.lost_s == pytest.approx(max(0, 40 - (step - resumed)))


def test_without_a_pace_the_whole_gap_is_lost_and_no_percentage_is_made_up(job: Job) -> None:
    job.commit(1, 10, 10)
    job.commit(2, 20, 50, host="b")
    found = job.report()
    assert (found.interruptions[0].lost_s, found.share.lost_s, found.share.percent) == (None, 40, None)


def test_figures_that_no_loop_can_have_do_no_harm(job: Job) -> None:
    wild = Loop(interval_s=-5.0, stall_s=1e300, running_s=1e308, stalled_s=1e308, saves=1 << 62, resumed_from="../x")
    job.commit(1, 10, 10, loop=wild, upload_s=-1e308)
    job.commit(2, 20, 5, loop=wild, host="b", upload_s=1e308)
    found = job.report()
    assert all(0 <= point.upload_s <= 1e12 for point in found.snapshots)
    assert 0 <= found.share.wall_s < 1e14
    assert found.interruptions[0].resumed_step == -1


def test_what_cannot_be_read_is_counted(job: Job) -> None:
    job.commit(1, 10, 10)
    job.store.put(layout.manifest_key(SnapshotId(1, 20, "abcdefgh")), b"{}")
    found = job.report()
    assert ([point.step for point in found.snapshots], found.unreadable) == ([10], 1)


def test_objects_are_counted_once_wherever_their_first_snapshot_went(job: Job) -> None:
    first = job.commit(1, 10, 10, files={"model": GIB})
    shared = layout.data_key(first, "model")
    job.commit(1, 20, 20, files={shared: GIB, "log": 1000})
    job.commit(1, 30, 30, files={shared: GIB})
    assert job.report().bill.bytes_stored == GIB + 1000
    job.store.delete([layout.manifest_key(first)])
    assert job.report().bill.bytes_stored == GIB + 1000


def test_prices_are_the_clouds_lists_unless_they_are_set() -> None:
    none = Prices()
    assert tariff("s3://b/r", none, elsewhere=False) == S3_LIST
    assert tariff("gs://b/r", none, elsewhere=False) == GCS_LIST
    assert tariff("file:///r", none, elsewhere=False) == tariff("s3://b/r", none, elsewhere=True) == FREE
    mine = tariff("s3://b/r", Prices(gib_month=0.5), elsewhere=False)
    assert (mine.gib_month, mine.writes_per_1000) == (0.5, S3_LIST.writes_per_1000)
    assert "options" in mine.source
    assert "S3 Standard" in mine.source
    whole = tariff("s3://b/r", Prices(gib_month=1, writes_per_1000=2, reads_per_1000=3), elsewhere=False)
    assert whole.source == "prices of the options"


def test_a_bill_in_round_figures(job: Job) -> None:
    snapshot = job.commit(1, 10, 10, files={"model": GIB})
    ledger = Ledger()
    ledger.add(job.run.catalog.get(snapshot))
    found = ledger.bill(1000, S3_LIST)
    assert found.storage_month == pytest.approx(0.023)
    assert found.writes == 1000 * (8 + 4 + 2)
    assert found.requests == pytest.approx(14 * 0.005 + 0.0004)


def test_the_estimate_of_requests_is_what_a_save_asks(run_with: Callable[..., Run], source: Path) -> None:
    store = Metered(MemoryStore())
    run = run_with(on=store)
    save(run, source, step=1)
    asked = dict(store.counts().requests)
    told = report(run).bill
    reads = asked.get("get", 0) + asked.get("stat", 0)
    assert told.writes == pytest.approx(sum(asked.values()) - reads, abs=3), asked
    assert told.reads == pytest.approx(reads, abs=3), asked


def test_a_snapshot_that_retention_deleted_is_known_from_who_restored_it(job: Job) -> None:
    gone = SnapshotId(1, 30, "abcdefgh")
    job.commit(1, 10, 21, loop=loop(1, 20))
    job.commit(2, 40, 121, loop=loop(1, 20, resumed_from=str(gone)))
    (stop,) = job.report().interruptions
    assert (stop.last_step, stop.resumed_step, stop.steps_lost) == (30, 30, 0)


@pytest.mark.parametrize(
    ("running_s", "kind"),
    [(190.0, "rollback"), (3.0, "restart"), (95.0, "restart")],  # a container's first process is always number 1
)
def test_a_process_that_came_back_under_the_same_number_is_another(job: Job, running_s: float, kind: str) -> None:
    job.commit(1, 20, 100, loop=loop(2, 90))
    job.commit(2, 15, 200, loop=loop(3, running_s))
    assert [stop.kind for stop in job.report().interruptions] == [kind]


def test_interruptions_that_left_no_snapshot_are_counted_by_epochs(job: Job) -> None:
    """Two were killed before the first that is left, one between, and one is at work behind the last."""
    job.commit(3, 30, 100, loop=loop(1, 10))
    job.commit(5, 50, 200, loop=loop(1, 10))
    while job.run.catalog.claims.claim().epoch < 6:
        pass
    found = job.report()
    assert (len(found.interruptions), found.interruptions_unseen) == (1, 4)
    assert "interruptions" in (facts := told(found))
    assert facts["interruptions"].startswith("5, ")
    assert facts["interruptions"].endswith("; 4 left no snapshot to tell of them")


def test_epochs_of_programs_that_take_one_for_each_save_prove_nothing(job: Job) -> None:
    job.commit(3, 30, 100)
    job.commit(7, 70, 200)
    job.commit(9, 90, 300, host="b")
    assert job.report().interruptions_unseen == 0


def test_where_all_snapshots_are_left_nothing_is_unseen(job: Job) -> None:
    for epoch in (1, 2, 3):
        assert job.run.catalog.claims.claim().epoch == epoch
        job.commit(epoch, 10 * epoch, 100 * epoch, loop=loop(1, 10))
    found = job.report()
    assert (len(found.interruptions), found.interruptions_unseen) == (2, 0)
    assert "left no snapshot" not in told(found)["interruptions"]
