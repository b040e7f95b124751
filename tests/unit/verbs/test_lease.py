"""Who reads a snapshot is spared by gc and rm, whenever each of them begins; a dead reader blocks nothing for long."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckptsync.catalog import Catalog
from ckptsync.errors import ConfigError, DeniedError, TransientError
from ckptsync.events import Event, Kind
from ckptsync.options import MIB
from ckptsync.policy import LatestN
from ckptsync.snapshot import layout
from ckptsync.testing.faults import Fault, Faulty, Killed, delay, error
from ckptsync.verbs.gc import collect
from ckptsync.verbs.lease import LIFE_S, Leases, held_until_s
from ckptsync.verbs.remove import remove
from ckptsync.verbs.restore import restore
from ckptsync.verbs.verify import verify

FILES = {"a": b"1234", "b/c": b"56"}


def gc(run: Any) -> Any:
    return collect(run, LatestN(1), grace_s=0, dry_run=False)


def part(run: Any) -> None:
    """A part arrives."""
    run.observer(Event(kind=Kind.RECEIVED, bytes=1))


class TestHolding:
    """Put before, deleted after, renewed in between."""

    def test_it_stands_while_the_block_runs(self, run: Any, make: Any) -> None:
        snapshot = make.snapshot(1)
        with Leases(run).on(snapshot):
            assert list(held_until_s(run.store)) == [snapshot]
        assert make.there(layout.LEASES) == []

    def test_it_goes_when_the_block_fails_and_stays_when_it_is_killed(self, run: Any, make: Any) -> None:
        snapshot = make.snapshot(1)
        with pytest.raises(ValueError, match="no"), Leases(run).on(snapshot):
            raise ValueError("no")
        assert make.there(layout.LEASES) == []
        with pytest.raises(Killed), Leases(run).on(snapshot):
            raise Killed
        assert len(make.there(layout.LEASES)) == 1

    @pytest.mark.req(8)
    def test_parts_that_arrive_renew_it_after_a_third_of_its_life(self, run: Any, make: Any, clock: Any) -> None:
        store = Faulty(run.store)
        snapshot = make.snapshot(1)
        with Leases(_on(run, store)).on(snapshot) as reading:
            for _ in range(10):
                clock.advance(LIFE_S / 6)
                for _ in range(5):
                    part(reading)
        puts = [call for call in store.calls if call.verb == "put"]
        assert len(puts) == len({call.key for call in puts}) == 1 + 5
        assert make.there(layout.LEASES) == []

    def test_a_renewal_that_fails_is_tried_again_but_not_within_seconds(
        self, run: Any, make: Any, clock: Any, events: Any
    ) -> None:
        store = Faulty(run.store)
        snapshot = make.snapshot(1)
        with Leases(_on(run, store)).on(snapshot) as reading:
            store.inject(error(TransientError), verb="put", times=2)
            clock.advance(LIFE_S / 3)
            for _ in range(4):
                part(reading)
                clock.advance(3)
            assert [call.verb for call in store.calls].count("put") == 3
            clock.advance(3)
            part(reading)
        assert [call.verb for call in store.calls].count("put") == 4
        assert [event.kind for event in events].count(Kind.NOTICE) == 1

    def test_who_may_not_write_is_told_once_and_reads_all_the_same(
        self, run: Any, make: Any, events: Any, tmp_path: Path
    ) -> None:
        make.snapshot(1, FILES)
        bad = make.snapshot(2, FILES)
        run.store.put(layout.data_key(bad, "a"), b"4321")
        store = Faulty(run.store)
        store.inject(error(DeniedError), verb="put", times=None)
        store.inject(error(DeniedError), verb="delete", times=None)
        assert restore(_on(run, store), tmp_path / "target").step == 1
        assert [event.message for event in events if event.kind is Kind.NOTICE] == [
            f"no lease could be put, so gc may delete what is being read: injected (during put, key {store.calls[2].key!r})"
        ]
        assert [call.verb for call in store.calls].count("put") == 1

    @pytest.mark.parametrize("verb", ["put", "delete"])
    def test_a_bucket_that_fails_to_keep_it_stops_nobody(self, run: Any, make: Any, tmp_path: Path, verb: str) -> None:
        make.snapshot(1, FILES)
        store = Faulty(run.store)
        store.inject(error(TransientError, after=True), verb=verb, times=None)
        assert restore(_on(run, store), tmp_path / "target").step == 1
        assert make.there(layout.LEASES) == []


class TestSparing:
    """gc and rm."""

    @pytest.mark.req(8)
    def test_gc_spares_what_is_being_read_until_it_is_not(self, run: Any, make: Any) -> None:
        old, newest = make.snapshot(1, FILES), make.snapshot(2)
        with Leases(run).on(old):
            assert gc(run).removed == ()
        assert gc(run).removed == (str(old),)
        assert make.there("manifests/") == [layout.manifest_key(newest)]

    @pytest.mark.req(8)
    @pytest.mark.parametrize("verb", ["restore", "verify"])
    def test_the_latest_is_spared_though_a_newer_one_came_meanwhile(
        self, run: Any, make: Any, store: Any, tmp_path: Path, verb: str
    ) -> None:
        old = make.snapshot(1, {"a": bytes(3 * MIB), "b": b"x"})
        made: list[Any] = []
        first = threading.Lock()  # several threads fetch

        def meanwhile(called: str, key: str) -> None:
            if called == "get" and key.startswith("data/") and first.acquire(blocking=False):
                made.append(make.snapshot(2))
                assert gc(run).kept == (str(made[0]), str(old))

        store.before = meanwhile
        if verb == "restore":
            assert restore(run, tmp_path / "target").step == 1
        else:
            assert verify(run).bad == ()
        assert gc(run).removed == (str(old),)

    @pytest.mark.req(28)
    def test_a_dead_readers_lease_blocks_for_its_life_by_the_stores_clock_and_is_deleted_then(
        self, run: Any, make: Any, clock: Any
    ) -> None:
        old = make.snapshot(1, FILES)
        make.snapshot(2)
        run.store.put(layout.new_lease_key(old), b"")
        clock.advance(LIFE_S)
        assert gc(run).removed == ()
        assert len(make.there(layout.LEASES)) == 1
        clock.advance(1)
        found = gc(run)
        assert (found.removed, found.objects_deleted) == ((str(old),), 3)
        assert make.there(layout.LEASES) == []

    def test_a_reader_who_comes_between_the_looks_is_seen(self, run: Any, make: Any, store: Any) -> None:
        old = make.snapshot(1, FILES)
        make.snapshot(2)
        store.after = lambda verb, key: (
            store.inner.put(layout.new_lease_key(old), b"") and None
            if (verb, key) == ("put", layout.condemned_key(old))
            else None
        )
        assert gc(run).removed == ()
        assert len(make.there(layout.data_prefix(old))) == 2

    @pytest.mark.parametrize("how", ["gc", "rm"])
    def test_a_reader_who_saw_the_manifest_just_before_it_went_keeps_the_data(
        self, run: Any, make: Any, store: Any, clock: Any, how: str
    ) -> None:
        earlier = make.attempt(1, {"w": b"early"})
        old = make.commit(make.attempt(1, FILES, adopts=[earlier]), borrows=[layout.data_key(earlier, "w")])
        make.snapshot(2)
        clock.advance(10)
        readers: list[Any] = []

        def read(verb: str, key: str) -> None:
            if (verb, key) == ("delete", layout.manifest_key(old)) and not readers:
                readers.append(Leases(run).on(old))
                readers.append(readers[0].__enter__())
                readers.append(run.catalog.get(old))

        store.before = read
        if how == "gc":
            assert gc(run).removed == (str(old),)
        else:
            assert remove(run, str(old)).objects == 0
        assert not run.catalog.exists(old)
        for file in readers[2].files:
            assert run.store.stat(file.key).size == file.size
        clock.advance(10)
        assert gc(run).objects_deleted == 0
        readers[0].__exit__(None, None, None)
        assert gc(run).objects_deleted == 3
        assert not [key for key in make.there() if old.nonce in key or earlier.nonce in key]

    def test_rm_refuses_and_says_until_when_unless_forced(self, run: Any, make: Any, clock: Any) -> None:
        old = make.snapshot(1, FILES)
        with Leases(run).on(old):
            before = make.there()
            with pytest.raises(ConfigError, match=r"is being read, until 2023-11-14T23:13:20Z unless"):
                remove(run, "1")
            assert make.there() == before
            assert remove(run, "1", force=True).objects == 2
        make.snapshot(2, FILES)
        run.store.put(layout.new_lease_key(make.snapshot(3)), b"")
        clock.advance(LIFE_S + 1)
        assert remove(run, "3").objects == 2

    def test_leases_are_not_foreign_and_what_only_looks_like_one_is(self, run: Any, make: Any) -> None:
        snapshot = make.snapshot(1)
        run.store.put("leases/x/abcdefgh", b"")
        with Leases(run).on(snapshot):
            assert gc(run).foreign == ("leases/x/abcdefgh",)


def test_a_lease_costs_a_restore_two_requests(run: Any, make: Any, store: Any, tmp_path: Path) -> None:
    make.snapshot(1, FILES)
    store.heal()
    restore(run, tmp_path / "target")
    assert sum(key.startswith(layout.LEASES) for _, key in store.calls) == 2


def test_a_long_read_keeps_its_lease(run: Any, make: Any, clock: Any, tmp_path: Path) -> None:
    old = make.snapshot(1, {f"f{n}": b"%d" % n for n in range(12)})
    make.snapshot(2)
    store = Faulty(run.store)
    store.inject(delay(LIFE_S / 4, clock), verb="get", key="data/*", times=None)
    store.inject(_collecting(run), verb="get", key="data/*", times=None)
    assert restore(_on(run, store), tmp_path / "target", snapshot="1").files == 12
    assert gc(run).removed == (str(old),)


def _collecting(run: Any) -> Any:
    """While a part is under way, somebody collects."""
    return Fault(lambda _: gc(run) and None)


def _on(run: Any, store: Any) -> Any:
    """The run, over another store and one part at a time."""
    return replace(run, store=store, catalog=Catalog(store, clock=run.clock))
