"""What `gc` deletes and what it must never delete, whenever it is killed and whoever else is at work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ckptsync import names
from ckptsync.errors import ConfigError, FencedError, ManifestError, NoSnapshotError, StoreError
from ckptsync.events import Kind
from ckptsync.options import Config, Transfer
from ckptsync.policy import BestN, EveryNSteps, LatestN, Within
from ckptsync.run import run_on
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.store.base import StoreWrapper
from ckptsync.store.memory import MemoryStore
from ckptsync.testing.clock import FakeClock
from ckptsync.verbs.attempts import folders
from ckptsync.verbs.gc import Collected, collect

GRACE_S = 3600.0
FILES = {"a": b"1234", "b/c": b"56"}


def gc(run: Any, keep: Any = None, *, grace_s: float = GRACE_S, dry_run: bool = False) -> Collected:
    return collect(run, keep, grace_s=grace_s, dry_run=dry_run)


def ids(*snapshots: SnapshotId) -> tuple[str, ...]:
    return tuple(str(snapshot) for snapshot in snapshots)


class TestRetention:
    """What a policy lets go."""

    @pytest.mark.req(8)
    def test_order_is_that_of_epochs_not_of_steps_or_times(self, run: Any, make: Any, clock: Any) -> None:
        stale = make.snapshot(5000)
        clock.advance(100)
        fresh, newest = make.snapshot(100), make.snapshot(200)
        run.store.put(layout.manifest_key(stale), run.store.read(layout.manifest_key(stale)))  # as if touched now
        found = gc(run, LatestN(2))
        assert (found.removed, found.kept) == (ids(stale), ids(newest, fresh))
        assert not make.there(layout.data_prefix(stale))
        assert len(make.there(layout.data_prefix(fresh))) == 2

    def test_no_policy_keeps_everything(self, run: Any, make: Any) -> None:
        made = [make.snapshot(step) for step in range(3)]
        before = make.there()
        assert gc(run).kept == ids(*made[::-1])
        assert make.there() == before

    @pytest.mark.req(8)
    def test_pinned_aliased_and_newest_stay(self, run: Any, make: Any) -> None:
        pinned, aliased, loose, newest = (make.snapshot(step, loss=float(step)) for step in (4, 3, 2, 1))
        names.pin(run.catalog, pinned)
        names.promote(run.catalog, aliased, "stable")
        assert gc(run, EveryNSteps(1000), dry_run=True).removed == ids(loose)
        found = gc(run, EveryNSteps(1000))
        assert (found.removed, found.kept) == (ids(loose), ids(newest, aliased, pinned))

    def test_metrics_and_times_count(self, run: Any, make: Any, clock: Any) -> None:
        best, worse = make.snapshot(1, loss=0.1), make.snapshot(2, loss=0.9)
        clock.advance(1000)
        newest = make.snapshot(3, loss=0.5)
        assert gc(run, BestN("loss", "min", 1), dry_run=True).kept == ids(newest, best)
        assert gc(run, Within(999) | BestN("loss", "max", 1), dry_run=True).kept == ids(newest, worse)

    @pytest.mark.req(2)
    def test_a_damaged_manifest_is_neither_counted_nor_removed(self, run: Any, make: Any) -> None:
        old, good, damaged = make.snapshot(1), make.snapshot(2), make.snapshot(3)
        run.store.put(layout.manifest_key(damaged), b"{}")
        found = gc(run, LatestN(1))
        assert (found.removed, found.kept) == (ids(old), ids(damaged, good))
        assert len(make.there(layout.data_prefix(damaged))) == 2

    def test_a_run_without_anything_readable(self, run: Any, make: Any) -> None:
        assert gc(run, LatestN(1)).kept == ()
        damaged = make.snapshot(3)
        run.store.put(layout.manifest_key(damaged), b"{}")
        assert gc(run, LatestN(1)).kept == ids(damaged)

    def test_a_damaged_alias_stops_everything(self, run: Any, make: Any) -> None:
        make.snapshot(1)
        names.promote(run.catalog, make.snapshot(2), "stable")
        run.store.put(layout.alias_key("stable", 1), b"{}")
        before = make.there()
        with pytest.raises(ManifestError, match="stable"):
            gc(run, LatestN(1))
        assert make.there() == before

    @pytest.mark.req(31)
    def test_all_manifests_go_before_any_data_and_the_oldest_first(self, run: Any, make: Any, store: Any) -> None:
        made = [make.snapshot(step) for step in range(4)]
        deleted: list[str] = []
        real = store.inner.delete
        store.inner.delete = lambda keys: deleted.extend(keys := list(keys)) or real(keys)
        gc(run, LatestN(1))
        manifests = [layout.manifest_key(snapshot) for snapshot in made[:3]]
        assert [key for key in deleted if key.startswith("manifests/")] == manifests
        assert max(map(deleted.index, manifests)) < min(map(deleted.index, [k for k in deleted if "data/" in k]))

    def test_a_pin_set_meanwhile_counts(self, run: Any, make: Any, store: Any) -> None:
        old, newest = make.snapshot(1), make.snapshot(2)

        def pin(verb: str, key: str) -> None:
            if (verb, key) == ("put", layout.condemned_key(old)):
                store.inner.put(layout.pin_key(old), b"")

        store.after = pin
        found = gc(run, LatestN(1))
        assert (found.removed, found.kept) == ((), ids(newest, old))
        assert len(make.there(layout.data_prefix(old))) == 2

    @pytest.mark.parametrize("damage", ["deleted", "torn"])
    def test_a_lost_journal_costs_nothing(self, run: Any, make: Any, damage: str) -> None:
        old = make.snapshot(1)
        make.snapshot(2)
        if damage == "deleted":
            run.store.delete([layout.journal_key(old)])
        else:
            run.store.put(layout.journal_key(old), b"{}")
        assert gc(run, LatestN(1)).objects_deleted == 2
        assert not [key for key in make.there() if old.nonce in key]

    def test_a_later_snapshot_keeps_what_it_names(self, run: Any, make: Any) -> None:
        first = make.snapshot(1, FILES)
        second = make.commit(make.attempt(1, {}, adopts=[first]), borrows=[layout.data_key(first, "a")])
        assert gc(run, LatestN(1)).removed == ids(first)
        assert make.there("data/") == [layout.data_key(first, "a")]
        make.snapshot(2, {})
        assert gc(run, LatestN(1), grace_s=0).removed == ids(second)

    def test_grace_must_make_sense(self, run: Any) -> None:
        with pytest.raises(ConfigError, match="grace"):
            gc(run, grace_s=-1)


class TestOrphans:
    """What dead attempts left."""

    @pytest.mark.req(30)
    def test_old_and_overtaken_attempts_go(self, run: Any, make: Any, clock: Any) -> None:
        dead = make.attempt(1, FILES)
        upload = run.store.begin(layout.data_key(dead, "a"))
        run.store.put_part(upload, 1, b"x")
        clock.advance(GRACE_S + 1)
        make.snapshot(2)
        found = gc(run)
        assert (found.orphans, found.objects_deleted, found.bytes_deleted) == (ids(dead), 2, 6)
        assert found.uploads_aborted == 1
        assert not list(run.store.uploads(""))
        assert not [key for key in make.there() if dead.nonce in key]

    @pytest.mark.req(30)
    def test_young_ones_stay(self, run: Any, make: Any, clock: Any) -> None:
        make.attempt(1)
        clock.advance(GRACE_S - 1)
        make.snapshot(2)
        before = make.there()
        assert gc(run).orphans == ()
        assert make.there() == before

    def test_the_newest_epoch_may_be_at_work_however_long(self, run: Any, make: Any, clock: Any) -> None:
        make.attempt(1)
        clock.advance(1000 * GRACE_S)
        before = make.there()
        assert gc(run).orphans == ()
        assert make.there() == before

    @pytest.mark.req(28)
    def test_age_is_by_the_stores_clock(self, make: Any, run: Any, clock: Any) -> None:
        make.attempt(1)
        make.snapshot(2)
        fast = dataclasses.replace(run, clock=FakeClock(clock.now() + 10 * GRACE_S))
        assert gc(fast).orphans == ()
        clock.advance(GRACE_S + 1)
        slow = dataclasses.replace(run, clock=FakeClock(clock.now() - 10 * GRACE_S))
        assert len(gc(slow).orphans) == 1

    @pytest.mark.req(14)
    def test_what_an_attempt_wrote_beside_its_journal_stays(self, run: Any, make: Any, clock: Any) -> None:
        dead = make.attempt(1, FILES)
        foreign = layout.data_key(dead, "not-in-the-journal")
        run.store.put(foreign, b"x")
        run.store.begin(foreign)
        clock.advance(GRACE_S + 1)
        make.snapshot(2)
        found = gc(run)
        assert (found.foreign, found.foreign_count) == ((foreign,), 1)
        assert foreign in make.there()
        assert [upload.key for upload in run.store.uploads("")] == [foreign]

    def test_a_damaged_journal_is_left_alone_and_said(self, run: Any, make: Any, clock: Any, events: Any) -> None:
        dead = make.attempt(1, FILES)
        run.store.put(layout.journal_key(dead), b"{}")
        clock.advance(GRACE_S + 1)
        make.snapshot(2)
        found = gc(run)
        assert (found.orphans, found.objects_deleted) == ((), 0)
        assert len(make.there(layout.data_prefix(dead))) == 2
        assert any(event.kind is Kind.NOTICE and str(dead) in event.message for event in events)

    def test_objects_a_committed_snapshot_names_stay_and_the_rest_goes(self, run: Any, make: Any, clock: Any) -> None:
        dead = make.attempt(1, FILES)
        keeper = make.commit(make.attempt(1, {}, adopts=[dead]), borrows=[layout.data_key(dead, "a")])
        clock.advance(GRACE_S + 1)
        make.snapshot(2)
        found = gc(run)
        assert (found.orphans, found.objects_deleted) == (ids(dead), 1)
        assert make.there(layout.data_prefix(dead)) == [layout.data_key(dead, "a")]
        assert gc(run).orphans == ()
        assert run.catalog.get(keeper).files

    def test_markers_of_those_who_name_nothing_go_where_the_rest_stays(self, run: Any, make: Any, clock: Any) -> None:
        first = make.attempt(5, {"a": b"a", "b": b"b"})
        dead = make.attempt(5, {}, adopts=[first])
        heir = make.commit(
            make.attempt(5, {"b": b"other"}, adopts=[first, dead]), borrows=[layout.data_key(first, "a")]
        )
        clock.advance(GRACE_S + 1)
        gc(run)
        folder = set(make.there(layout.journal_prefix(first)))
        assert layout.adoption_key(first, heir) in folder
        assert layout.adoption_key(first, dead) not in folder
        assert not make.there(layout.journal_prefix(dead))
        assert make.there(layout.data_prefix(first)) == [layout.data_key(first, "a")]

    def test_another_gc_that_deletes_what_tells_the_time_is_no_trouble(
        self, run: Any, make: Any, clock: Any, store: Any
    ) -> None:
        dead = make.attempt(1, FILES)
        clock.advance(GRACE_S + 1)
        make.snapshot(2)
        taken: list[str] = []

        def take(verb: str, key: str) -> None:
            if verb == "stat" and key.endswith("/condemned") and len(taken) < 2:
                taken.append(key)
                store.inner.delete([key])

        store.before = take
        assert gc(run).orphans == ids(dead)
        assert len(set(taken)) == 2

    def test_what_somebody_alive_continues_stays(self, run: Any, make: Any, clock: Any) -> None:
        dead = make.attempt(1, FILES)
        clock.advance(GRACE_S + 1)
        alive = make.attempt(1, {}, adopts=[dead])
        clock.advance(10 * GRACE_S)
        assert gc(run).orphans == ()
        assert layout.condemned_key(dead) not in make.there()
        make.commit(alive, borrows=[layout.data_key(dead, "a"), layout.data_key(dead, "b/c")])
        assert all(run.store.stat(file.key).size == file.size for file in run.catalog.get(alive).files)

    def test_a_chain_of_dead_attempts_goes_at_once(self, run: Any, make: Any, clock: Any) -> None:
        first = make.attempt(1, FILES)
        second = make.attempt(1, FILES, adopts=[first])
        third = make.attempt(1, FILES, adopts=[first, second])
        clock.advance(GRACE_S + 1)
        run.catalog.claims.claim()
        dry = gc(run, dry_run=True)
        found = gc(run)
        assert found.orphans == dry.orphans == ids(third, second, first)
        assert found.objects_deleted == dry.objects_deleted == 6
        assert make.left() == []

    def test_a_marker_without_an_attempt_counts_while_it_is_young(self, run: Any, make: Any, clock: Any) -> None:
        dead = make.attempt(1, FILES)
        clock.advance(GRACE_S + 1)
        run.store.put(layout.adoption_key(dead, layout.new_snapshot_id(run.catalog.claims.claim().epoch, 1)), b"")
        run.catalog.claims.claim()
        assert gc(run).orphans == ()
        clock.advance(GRACE_S + 1)
        assert gc(run).orphans == ids(dead)
        assert make.left() == []

    def test_a_saver_who_marks_just_before_the_condemnation_wins(
        self, run: Any, make: Any, clock: Any, store: Any
    ) -> None:
        dead = make.attempt(1, FILES)
        clock.advance(GRACE_S + 1)
        saver = layout.new_snapshot_id(run.catalog.claims.claim().epoch, 1)

        def mark(verb: str, key: str) -> None:
            if (verb, key) == ("put", layout.condemned_key(dead)):
                store.inner.put(layout.adoption_key(dead, saver), b"")

        store.before = mark
        assert gc(run).objects_deleted == 0
        assert len(make.there(layout.data_prefix(dead))) == 2

    def test_a_commit_just_before_the_condemnation_wins(self, run: Any, make: Any, clock: Any, store: Any) -> None:
        slow = make.attempt(1, FILES)
        committed = make.attempt(1, FILES)
        make.commit(committed)
        manifest = run.store.read(layout.manifest_key(committed)).replace(str(committed).encode(), str(slow).encode())
        clock.advance(GRACE_S + 1)
        run.catalog.claims.claim()

        def commit(verb: str, key: str) -> None:
            if (verb, key) == ("put", layout.condemned_key(slow)):
                store.inner.put(layout.manifest_key(slow), manifest)

        store.before = commit
        found = gc(run)
        assert found.objects_deleted == 0
        assert str(slow) in found.kept
        assert len(make.there(layout.data_prefix(slow))) == 2

    @pytest.mark.req(30)
    def test_uploads_that_committed_snapshots_left_open_go_when_old(self, run: Any, make: Any, clock: Any) -> None:
        dead = make.attempt(1, FILES)
        done = make.commit(make.attempt(1, FILES, adopts=[dead]), borrows=[layout.data_key(dead, "a")])
        foreign = run.store.begin(layout.data_key(done, "foreign"))
        for key in (layout.data_key(done, "a"), layout.data_key(dead, "b/c")):
            run.store.begin(key)
        assert gc(run).uploads_aborted == 0
        clock.advance(GRACE_S + 1)
        assert gc(run, dry_run=True).uploads_aborted == 2
        assert gc(run).uploads_aborted == 2
        assert [upload.id for upload in run.store.uploads("")] == [foreign.id]

    def test_uploads_of_those_at_work_stay(self, run: Any, make: Any, clock: Any) -> None:
        dead = make.attempt(1, FILES)
        alive = make.attempt(1, FILES, adopts=[dead])
        for attempt in (dead, alive):
            run.store.begin(layout.data_key(attempt, "a"))
        clock.advance(10 * GRACE_S)
        assert gc(run).uploads_aborted == 0

    @pytest.mark.req(30)
    def test_parts_that_land_after_an_abort(self, run: Any, make: Any, clock: Any, store: Any) -> None:
        dead = make.attempt(1, FILES)
        run.store.begin(layout.data_key(dead, "a"))
        clock.advance(GRACE_S + 1)
        run.catalog.claims.claim()
        aborts: list[str] = []
        real = store.inner.abort

        def late(upload: Any) -> None:
            aborts.append(upload.id)
            if len(aborts) == 3:
                real(upload)
            else:
                store.inner.put_part(upload, 1, b"late")

        store.inner.abort = late
        assert gc(run).uploads_aborted == 1
        assert len(aborts) == 3

    def test_parts_that_never_end_surface_and_the_journal_stays(
        self, run: Any, make: Any, clock: Any, store: Any
    ) -> None:
        dead = make.attempt(1, FILES)
        store.inner.put_part(run.store.begin(layout.data_key(dead, "a")), 1, b"x")
        clock.advance(GRACE_S + 1)
        run.catalog.claims.claim()
        store.inner.abort = lambda _upload: None
        with pytest.raises(StoreError, match="run gc again"):
            gc(run)
        assert layout.journal_key(dead) in make.there()


class TestRecords:
    """Claims and versions of aliases that nobody needs."""

    def test_old_claims_go_but_the_newest_ten(self, run: Any, make: Any, clock: Any) -> None:
        for _ in range(15):
            run.catalog.claims.claim()
        assert gc(run).objects_deleted == 0
        clock.advance(GRACE_S + 1)
        assert gc(run, dry_run=True).objects_deleted == 5
        assert gc(run).objects_deleted == 5
        assert len(make.there("writers/")) == 10
        assert run.catalog.claims.newest_epoch() == 15

    def test_superseded_versions_of_an_alias_go_but_the_newest_ten(self, run: Any, make: Any) -> None:
        made = [make.snapshot(step, {}) for step in range(2)]
        for turn in range(13):
            names.promote(run.catalog, made[turn % 2], "stable")
        names.promote(run.catalog, made[0], "other")
        assert gc(run).objects_deleted == 3
        assert len(make.there("aliases/stable/")) == 10
        assert names.find(run.catalog, "stable") == made[0]
        assert names.find(run.catalog, "other") == made[0]


class TestForeign:
    """What is not ours."""

    @pytest.mark.req(14)
    def test_it_is_told_and_never_deleted(self, run: Any, make: Any, clock: Any) -> None:
        snapshot = make.snapshot(1, FILES)
        foreign = [
            "aliases/stable/notes",
            f"data/{layout.new_snapshot_id(3, 3)}/w",
            layout.data_key(snapshot, "extra"),
            "data/readme",
            "journals/x/journal.json",
            f"journals/{snapshot}/else",
            "manifests/tmp.json",
            "old-run/checkpoint-5/model.pt",
            "pins/x",
            "top.txt",
            "writers/x.json",
        ]
        clock.advance(1)
        for key in foreign:
            run.store.put(key, b"mine")
        clock.advance(100 * GRACE_S)
        run.catalog.claims.claim()
        found = gc(run, LatestN(1), grace_s=0)
        assert sorted(found.foreign) == sorted(foreign)
        assert found.foreign_count == len(foreign)
        assert set(foreign) <= set(make.there())

    def test_ours_is_not_foreign(self, run: Any, make: Any) -> None:
        dead = make.attempt(1, FILES)
        snapshot = make.commit(make.attempt(1, FILES, adopts=[dead]), borrows=[layout.data_key(dead, "a")])
        names.pin(run.catalog, snapshot)
        names.promote(run.catalog, snapshot, "stable")
        run.store.put(layout.condemned_key(dead), b"")
        make.attempt(2, FILES)
        assert gc(run).foreign == ()

    def test_an_attempt_that_began_meanwhile_is_not_foreign(self, run: Any, make: Any, store: Any) -> None:
        make.snapshot(1)
        begun: list[SnapshotId] = []

        def begin(verb: str, key: str) -> None:
            if (verb, key) == ("list", "") and not begun:
                begun.append(SnapshotId(9, 9, "abcdefgh"))
                make.journal(begun[0], FILES)
                store.inner.put(layout.data_key(begun[0], "a"), b"1234")

        store.before = begin
        assert gc(run).foreign == ()
        assert begun

    def test_at_most_a_thousand_names(self, run: Any) -> None:
        for number in range(1100):
            run.store.put(f"old/{number:04d}", b"")
        found = gc(run)
        assert (len(found.foreign), found.foreign_count, found.foreign[0]) == (1000, 1100, "old/0000")


@pytest.mark.req(30)
def test_a_dry_run_tells_the_same_and_writes_nothing(run: Any, make: Any, clock: Any, store: Any) -> None:
    dead = make.attempt(1, FILES)
    run.store.begin(layout.data_key(dead, "a"))
    for step in range(4):
        make.snapshot(step)
    run.store.put("foreign", b"")
    clock.advance(GRACE_S + 1)
    before = make.there()
    store.heal()
    dry = gc(run, LatestN(2), dry_run=True)
    assert set(store.count()) <= {"list", "get", "stat", "read", "uploads"}
    assert make.there() == before
    wet = gc(run, LatestN(2))
    assert dataclasses.replace(wet, dry_run=True) == dry
    assert (len(dry.removed), dry.orphans, dry.uploads_aborted, dry.foreign) == (2, ids(dead), 1, ("foreign",))
    assert dry.objects_deleted == 2 + 2 * 2


def test_a_store_without_uploads(run: Any, make: Any, clock: Any, store: Any, run_with: Any) -> None:
    make.attempt(1, FILES)
    clock.advance(GRACE_S + 1)
    run.catalog.claims.claim()
    plain = StoreWrapper(store)
    plain.traits = dataclasses.replace(plain.traits, multipart=False)
    store.fail("uploads")
    assert gc(run_with(on=plain)).objects_deleted == 2


@pytest.mark.req(28)
def test_killed_anywhere_the_next_call_finishes(run: Any, make: Any, clock: Any, store: Any, killed: Any) -> None:
    for after in range(200):
        dead = make.attempt(1, FILES)
        kept_key = layout.data_key(dead, "a")
        for step in range(2):
            make.snapshot(step, FILES)
        newest = make.commit(make.attempt(1, {"d": b"7"}, adopts=[dead]), borrows=[kept_key])
        clock.advance(GRACE_S + 1)
        run.catalog.claims.claim()
        store.before = _kill_after(after, killed)
        try:
            gc(run, LatestN(1))
        except killed:
            store.heal()
        else:
            assert after > 8
            return
        for manifest in run.catalog.history():
            assert all(run.store.stat(file.key).size == file.size for file in manifest.files)
        clock.advance(GRACE_S + 1)
        gc(run, LatestN(1))
        assert set(make.there("data/")) == {kept_key, layout.data_key(newest, "d")}
        assert {folder.id for folder in folders(run.store)} == {dead, newest}
    pytest.fail("it never came to an end")


def _kill_after(count: int, killed: type[BaseException]) -> Callable[[str, str], None]:
    """Let so many writes pass, and none after."""
    writes = [0]

    def before(verb: str, key: str) -> None:
        del key
        writes[0] += verb in {"put", "delete", "abort"}
        if writes[0] > count:
            raise killed

    return before


class TestProperty:
    """No order of saves, deaths, continuations, removals and collections loses a byte of a committed snapshot."""

    class World:
        """A run, and what a test did to it."""

        def __init__(self, maker: Any) -> None:
            self.clock = FakeClock()
            self.inner = MemoryStore(clock=self.clock)
            self.store = Stopping(self.inner)
            config = Config(transfer=Transfer(workers=1))
            self.run = run_on(self.store, config, observer=lambda _event: None, clock=self.clock)
            self.make = maker(self.run)
            self.attempts: list[SnapshotId] = []
            self.open: list[tuple[SnapshotId, list[SnapshotId], list[str]]] = []

        def save(self, step: int) -> None:
            self.attempts.append(self.make.snapshot(step, loss=float(step % 3)))

        def die(self, step: int) -> None:
            self.attempts.append(self.make.attempt(step))

        def begin_continuing(self, pick: int) -> None:
            """As `continue_earlier`: mark, then look for the condemnation."""
            if not self.attempts:
                return
            chosen = self.attempts[pick % len(self.attempts)]
            snapshot = layout.new_snapshot_id(self.run.catalog.claims.claim().epoch, chosen.step)
            earlier = [chosen, *(one for later, more, _ in self.open if later == chosen for one in more)]
            adopted = []
            for one in earlier:
                self.run.store.put(layout.adoption_key(one, snapshot), b"")
                if self.make.there(layout.condemned_key(one)):
                    self.run.store.delete([layout.adoption_key(one, snapshot)])
                else:
                    adopted.append(one)
            self.make.journal(snapshot, {"own": b"own"})
            self.run.store.put(layout.data_key(snapshot, "own"), b"own")
            self.attempts.append(snapshot)
            keys = [key for one in adopted for key in self.make.there(layout.data_prefix(one))]
            self.open.append((snapshot, adopted, keys))

        def finish_continuing(self, pick: int) -> None:
            """Commit one of those under way, unless it was fenced."""
            if not self.open:
                return
            snapshot, _, keys = self.open.pop(pick % len(self.open))
            try:
                self.run.catalog.claims.check_not_fenced(snapshot.epoch)
            except FencedError:
                return
            self.make.commit(snapshot, borrows=keys)  # what it began with is there, or this fails

        def pin(self, pick: int) -> None:
            if self.attempts and self.run.catalog.exists(chosen := self.attempts[pick % len(self.attempts)]):
                names.pin(self.run.catalog, chosen)

        def remove(self, pick: int) -> None:
            if not self.attempts:
                return
            from ckptsync.verbs.remove import remove  # noqa: PLC0415  its name is taken here

            chosen = self.attempts[pick % len(self.attempts)]
            with self.stopping(pick):
                try:
                    remove(self.run, str(chosen))
                except (NoSnapshotError, ConfigError):
                    return

        def collect(self, pick: int) -> None:
            keep = [None, LatestN(1), LatestN(2) | BestN("loss", "min", 1), EveryNSteps(2)][pick % 4]
            newest, pinned = self.run.catalog.latest(), names.pins(self.run.catalog)
            pinned = {one for one in pinned if self.run.catalog.exists(one)}
            with self.stopping(pick):
                collect(self.run, keep, grace_s=GRACE_S, dry_run=False)
            assert newest is None or self.run.catalog.exists(newest.id)
            assert all(self.run.catalog.exists(one) for one in pinned)

        def advance(self, pick: int) -> None:
            self.clock.advance([1, GRACE_S / 2, GRACE_S * 2][pick % 3])

        def stopping(self, pick: int) -> Any:
            """Every other time, be killed after some writes."""
            return self.store.stopping(pick // 8 if pick % 2 else None)

        def check(self) -> None:
            """Everything a manifest names is there."""
            there = {found.key: found.size for found in self.inner.list("data/")}
            for manifest in self.run.catalog.history():
                for file in manifest.files:
                    assert there.get(file.key) == file.size, f"{manifest.snapshot} lost {file.key}"

    ACTIONS = ("save", "die", "begin_continuing", "finish_continuing", "pin", "remove", "collect", "advance")

    @pytest.mark.req(2, 8)
    @example(steps=[("save", 0), ("begin_continuing", 0), ("remove", 0), ("finish_continuing", 0)])
    @example(steps=[("die", 0), ("begin_continuing", 0), ("finish_continuing", 0), ("advance", 2), ("collect", 0)])
    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(steps=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 120)), max_size=25))
    def test_nothing_committed_is_lost_and_nothing_dead_stays(self, maker: Any, steps: list[tuple[str, int]]) -> None:
        world = self.World(maker)
        for action, pick in steps:
            getattr(world, action)(pick)
            world.check()
        for _ in range(3):  # what one attempt continues is free only when that is gone
            world.clock.advance(2 * GRACE_S)
            world.run.catalog.claims.claim()
            collect(world.run, None, grace_s=GRACE_S, dry_run=False)
            world.check()
        named = {file.key for manifest in world.run.catalog.history() for file in manifest.files}
        assert {found.key for found in world.inner.list("data/")} == named


class Stopping(StoreWrapper):
    """Refuses to write any more after some writes, as if the process had been killed."""

    class Stopped(BaseException):
        """Nobody catches it but the test."""

    left: int | None = None

    def stopping(self, after: int | None) -> Any:
        self.left = after
        return _Caught(self)

    def _count(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise self.Stopped

    def put(self, key: str, data: Any, *, if_absent: bool = False) -> Any:
        self._count()
        return super().put(key, data, if_absent=if_absent)

    def delete(self, keys: Any) -> None:
        for key in keys:  # a batch may be cut short anywhere
            self._count()
            super().delete([key])


class _Caught:
    def __init__(self, store: Stopping) -> None:
        self.store = store

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self.store.left = None
        return kind is Stopping.Stopped
