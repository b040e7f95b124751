"""What gc asks of the bucket, that saves do not feel it, and that it may be killed at every single request."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckptsync import names
from ckptsync.catalog import Catalog
from ckptsync.errors import StoreError
from ckptsync.policy import LatestN
from ckptsync.snapshot import layout
from ckptsync.store.memory import MemoryStore
from ckptsync.store.meter import Metered
from ckptsync.testing.clock import FakeClock
from ckptsync.testing.faults import Faulty, Killed, death, delay, error
from ckptsync.verbs.attempts import folders
from ckptsync.verbs.gc import Collected, collect
from ckptsync.verbs.lease import LIFE_S
from ckptsync.verbs.save import save

GRACE_S = 3600.0
OBJECTS = 10_000
LATENCY_S = 0.05


def on(run: Any, store: Any, *, clock: Any = None) -> Any:
    clock = clock or run.clock
    return replace(run, store=store, catalog=Catalog(store, clock=clock), clock=clock)


def gc(run: Any) -> Collected:
    return collect(run, LatestN(1), grace_s=GRACE_S, dry_run=False)


@pytest.mark.req(31)
@pytest.mark.parametrize("snapshots", [1, 10, 200])
def test_ten_thousand_objects_go_in_few_requests(run: Any, make: Any, store: Any, snapshots: int) -> None:
    files = {f"f{n:04d}": b"x" for n in range(OBJECTS // snapshots)}
    for step in range(snapshots):
        make.snapshot(step, files)
    make.snapshot(snapshots)
    meter = Metered(store)
    found = gc(on(run, meter))
    assert (len(found.removed), found.objects_deleted) == (snapshots, OBJECTS)
    asked = meter.counts().requests
    # data, manifests, records (three for each snapshot), condemnations, the object that tells the time
    assert asked["delete"] <= OBJECTS // 1000 + 1 + -(-3 * snapshots // 1000) + 1 + 1
    assert asked["put"] == snapshots + 1
    assert asked["list"] <= 2 * (OBJECTS // 1000) + 4 * -(-4 * snapshots // 1000) + snapshots + 25


@pytest.mark.req(31)
def test_a_save_feels_nothing_of_ten_thousand_deletions(
    run_with: Callable[..., Any], maker: Any, source: Path, clock: FakeClock
) -> None:
    slow = Faulty(MemoryStore(clock=clock))
    run = run_with(on=slow, workers=1)
    make = maker(run)
    for step in range(10):
        make.snapshot(step, {f"f{n:04d}": b"x" for n in range(OBJECTS // 10)})
    save(run, source, step=100)
    slow.inject(delay(LATENCY_S, clock), times=None)

    def cost() -> tuple[int, float]:
        (source / "config.json").write_bytes(b"{%d}" % len(slow.calls))
        asked, begun_s = len(slow.calls), clock.now()
        save(run, source, step=asked)
        return len(slow.calls) - asked, round(clock.now() - begun_s, 6)

    alone = cost()
    among: list[tuple[int, float]] = []

    class Deleting(Faulty):
        """What gc works on: while it deletes, somebody saves."""

        def delete(self, keys: Any) -> None:
            super().delete(keys)
            if [call.verb for call in self.calls].count("delete") in {3, 8}:
                among.append(cost())

    assert gc(on(run, Deleting(slow.inner))).objects_deleted >= OBJECTS
    assert among == [alone, alone]
    assert alone[1] == pytest.approx(alone[0] * LATENCY_S)


@pytest.mark.req(28)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_any_request_the_next_gc_finishes(after: bool, run_with: Any, maker: Any, clock: Any) -> None:  # noqa: FBT001
    for skip in range(200):
        store = Faulty(MemoryStore(clock=clock))
        run = run_with(on=store, workers=1)
        kept, foreign = _build(run, maker(run), clock)
        store.heal()
        store.inject(death(after=after), skip=skip, times=None)
        try:
            gc(run)
        except Killed:
            store.heal()
        else:
            assert skip > 40
            return
        for manifest in run.catalog.history():
            assert all(store.stat(file.key).size == file.size for file in manifest.files)
        clock.advance(GRACE_S + 1)
        gc(run)
        there = {found.key for found in store.list("")}
        named = {file.key for snapshot in kept for file in run.catalog.get(snapshot).files}
        assert {key for key in there if key.startswith("data/")} == named
        assert {folder.id for folder in folders(store)} >= set(kept)
        assert len(list(folders(store))) == len(kept) + 1  # and that of the attempt whose data one of them names
        assert foreign in there
        assert not [key for key in there if key.startswith((layout.LEASES, layout.QUARANTINE))]
        assert not list(store.uploads(""))
    pytest.fail("it never came to an end")


def _build(run: Any, make: Any, clock: Any) -> tuple[list[Any], str]:
    """All that gc deals with: a dead attempt half continued, an upload, old and bad snapshots, a pin, a lease, a stranger."""
    files = {"a": b"1234", "b/c": b"56"}
    foreign = "somebody/else.txt"
    run.store.put(foreign, b"mine")
    dead = make.attempt(1, files)
    upload = run.store.begin(layout.data_key(dead, "a"))
    run.store.put_part(upload, 1, b"x")
    pinned, bad, old = make.snapshot(2, files), make.snapshot(3, files), make.snapshot(4, files)
    names.pin(run.catalog, pinned)
    run.store.put(layout.quarantine_key(bad), b"{}")
    run.store.put(layout.new_lease_key(old), b"")
    continuing = make.attempt(1, {"d": b"7"}, adopts=[dead])
    newest = make.commit(continuing, borrows=[layout.data_key(dead, "a")])
    clock.advance(max(GRACE_S, LIFE_S) + 1)
    run.catalog.claims.claim()
    return [pinned, newest], foreign


@pytest.mark.req(2)
@pytest.mark.parametrize("lost", range(7))  # five parts of the large file and two small ones
def test_a_save_that_can_never_send_one_object_costs_the_one_before_nothing(
    run: Any, run_with: Any, make: Any, source: Path, store: Any, clock: Any, lost: int
) -> None:
    before = make.snapshot(1, {"a": b"1234"})
    there = set(make.there())
    faulty = Faulty(store)
    faulty.inject(error(StoreError), key="data/*", skip=lost + 1, times=None)
    with pytest.raises(StoreError, match="injected"):
        save(run_with(on=faulty, workers=1), source, step=2)
    assert [listed.id for listed in run.catalog.listed()] == [before]
    clock.advance(GRACE_S + 1)
    run.catalog.claims.claim()
    assert gc(run).kept == (str(before),)
    assert {key for key in make.there() if not key.startswith(layout.WRITERS)} <= there <= set(make.there())
    assert not list(store.uploads(""))


@pytest.mark.req(28)
def test_a_request_that_fails_surfaces_and_the_next_call_finishes(run: Any, make: Any, store: Any) -> None:
    for step in range(3):
        make.snapshot(step)
    faulty = Faulty(store)
    for verb in ("put", "delete", "list", "uploads"):
        faulty.inject(error(StoreError), verb=verb)
        with pytest.raises(StoreError, match="injected"):
            gc(on(run, faulty))
        faulty.heal()
    assert len(gc(run).kept) == 1
    assert len(make.there("data/")) == 2
