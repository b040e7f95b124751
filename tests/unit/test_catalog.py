"""Which snapshots exist, who may add to them, and what is made of lost answers."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from ckptsync.catalog import Catalog
from ckptsync.config import Retry
from ckptsync.errors import (
    FencedError,
    ManifestError,
    NoSnapshotError,
    NotFoundError,
    TransientError,
    UnsupportedError,
)
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest, Writer, encode
from ckptsync.store.base import Buffer, Stat, Store, StoreWrapper
from ckptsync.store.memory import MemoryStore
from ckptsync.store.retry import Retrying
from ckptsync.testing.clock import FakeClock


@pytest.fixture
def catalog(store: Any, clock: FakeClock) -> Catalog:
    return Catalog(store, clock=clock)


def make(epoch: int, step: int, **changed: Any) -> Manifest:
    facts: dict[str, Any] = {"commit_id": f"{epoch}-{step}", "created": "", "entries": ()}
    snapshot = str(SnapshotId(epoch, step, "abcdefgh"))
    return Manifest(snapshot=snapshot, writer=Writer(host="node-1", pid=7), **(facts | changed))


def commit(catalog: Catalog, *pairs: tuple[int, int]) -> None:
    """Put manifests where they belong, whoever owns the run."""
    for epoch, step in pairs:
        manifest = make(epoch, step)
        catalog.store.put(layout.manifest_key(manifest.id), encode(manifest))


class IgnoresConditions(StoreWrapper):
    """A service that takes the condition and does as it likes."""

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        del if_absent
        return super().put(key, data)


class Unconditional(StoreWrapper):
    """A store that admits that it has no conditions."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.traits = replace(inner.traits, conditional_put=False)

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        assert not if_absent
        return super().put(key, data)


# -- claims ---------------------------------------------------------------------------------------------------------------


def test_each_claim_takes_the_next_epoch(catalog: Catalog) -> None:
    assert catalog.newest_epoch() == 0
    assert [catalog.claim().epoch for _ in range(3)] == [1, 2, 3]
    assert catalog.newest_epoch() == 3
    writer = catalog.writer(2)
    assert writer is not None
    assert (writer.epoch, writer.created) == (2, "2023-11-14T22:13:20.000Z")
    assert catalog.writer(4) is None


def test_a_damaged_claim_still_counts_as_claimed(catalog: Catalog, store: Any) -> None:
    catalog.claim()
    for damaged in (b"{", b"\xff", b"[" * 100_000, b""):
        store.put(layout.writer_key(1), damaged)
        assert catalog.writer(1) is None
    assert catalog.claim().epoch == 2


def test_writers_who_race_get_distinct_epochs(clock: FakeClock) -> None:
    store, start, taken = MemoryStore(), threading.Barrier(6), list[int]()

    def work() -> None:
        start.wait()
        for _ in range(5):
            taken.append(Catalog(store, clock=clock).claim().epoch)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 31))


def test_a_claim_taken_between_look_and_put_is_left_to_its_owner(catalog: Catalog, store: Any) -> None:
    other = Catalog(store.inner)
    store.before = lambda verb, _: other.claim() if verb == "put" and other.newest_epoch() < 3 else None
    mine = catalog.claim()
    assert mine.epoch == 4
    assert catalog.writer(4) == mine


@pytest.mark.req(20)
def test_a_claim_whose_answer_was_lost_is_ours(catalog: Catalog, store: Any, clock: FakeClock) -> None:
    def lose_once(verb: str, key: str) -> None:
        if verb == "put" and key == layout.writer_key(1):
            store.heal()
            raise TransientError("connection reset", op="put")

    store.after = lose_once
    retrying = Catalog(Retrying(store, Retry(), clock=clock, observer=lambda _: None), clock=clock)
    claim = retrying.claim()
    assert claim.epoch == 1
    assert catalog.writer(1) == claim


def test_a_store_that_ignores_conditions_is_refused(store: Any) -> None:
    for _ in range(2):  # also the second time, when there is a first claim's key to be mistaken for proof
        with pytest.raises(UnsupportedError, match="ignores the condition"):
            Catalog(IgnoresConditions(store)).claim()


@pytest.mark.req(21)
def test_a_claim_is_proven_once_the_service_takes_the_same_key_again(store: Any, clock: FakeClock) -> None:
    store.traits = replace(store.traits, rewrite_pause_s=1.0)
    catalog = Catalog(store, clock=clock)
    catalog.claim()
    assert clock.slept_s == [1.0]
    catalog.claim()
    assert clock.slept_s == [1.0]


def test_unless_the_caller_vouches_for_a_single_writer(store: Any) -> None:
    catalog = Catalog(IgnoresConditions(store), single_writer=True)
    assert [catalog.claim().epoch for _ in range(3)] == [1, 2, 3]
    catalog.commit(make(3, 7))
    assert catalog.exists(make(3, 7).id)


def test_a_store_without_conditions_is_asked_nothing(store: Any) -> None:
    with pytest.raises(UnsupportedError, match="--single-writer"):
        Catalog(Unconditional(store)).claim()
    assert not store.calls


def test_a_store_without_conditions_serves_a_single_writer(store: Any) -> None:
    catalog = Catalog(Unconditional(store), single_writer=True)
    assert [catalog.claim().epoch for _ in range(2)] == [1, 2]
    catalog.commit(make(2, 7))
    catalog.commit(make(2, 7))
    assert catalog.get(make(2, 7).id) == make(2, 7)


@pytest.mark.parametrize("key", ["writers/00000000.txt", "writers/0-notes.md", "writers/00000000/x.json"])
def test_foreign_objects_among_the_claims_change_nothing(catalog: Catalog, store: Any, key: str) -> None:
    store.put(key, b"hello")
    assert catalog.newest_epoch() == 0
    assert catalog.claim().epoch == 1
    assert catalog.newest_epoch() == 1


# -- commits --------------------------------------------------------------------------------------------------------------


def test_a_commit_makes_a_snapshot_exist(catalog: Catalog) -> None:
    manifest = make(catalog.claim().epoch, 7)
    assert not catalog.exists(manifest.id)
    catalog.commit(manifest)
    assert catalog.exists(manifest.id)
    assert catalog.get(manifest.id) == manifest == catalog.latest()


def test_a_commit_may_be_made_again(catalog: Catalog) -> None:
    manifest = make(catalog.claim().epoch, 7)
    catalog.commit(manifest)
    catalog.commit(manifest)


@pytest.mark.req(20)
def test_a_commit_whose_answer_was_lost_stands(catalog: Catalog, store: Any, clock: FakeClock) -> None:
    manifest = make(catalog.claim().epoch, 7)

    def lose_once(verb: str, _: str) -> None:
        if verb == "put":
            store.heal()
            raise TransientError("connection reset", op="put")

    store.after = lose_once
    Catalog(Retrying(store, Retry(), clock=clock, observer=lambda _: None), clock=clock).commit(manifest)
    assert catalog.get(manifest.id) == manifest


@pytest.mark.req(26)
def test_a_commit_after_a_newer_claim_is_fenced_by_name(catalog: Catalog, store: Any) -> None:
    mine = catalog.claim()
    newer = catalog.claim()
    with pytest.raises(FencedError, match=f"belongs to {newer.writer.host} .*epoch 2 is newer than ours, 1"):
        catalog.commit(make(mine.epoch, 7))
    store.put(layout.writer_key(2), b"damaged")
    with pytest.raises(FencedError, match="belongs to another writer"):
        catalog.commit(make(mine.epoch, 7))
    assert catalog.latest() is None


@pytest.mark.req(20, 26)
@pytest.mark.parametrize("there", [encode(make(1, 7, commit_id="another")), b"damaged"])
def test_another_manifest_under_the_key_is_never_overwritten(catalog: Catalog, store: Any, there: bytes) -> None:
    manifest = make(catalog.claim().epoch, 7)
    store.put(layout.manifest_key(manifest.id), there)
    with pytest.raises(FencedError, match="another writer committed"):
        catalog.commit(manifest)
    assert store.read(layout.manifest_key(manifest.id)) == there


# -- reading --------------------------------------------------------------------------------------------------------------


@pytest.mark.req(8)
def test_latest_is_of_the_newest_epoch_then_the_highest_step(catalog: Catalog) -> None:
    commit(catalog, (3, 900), (4, 300), (4, 200))
    assert [str(found.id) for found in catalog.listed()] == [
        make(*pair).snapshot for pair in ((4, 300), (4, 200), (3, 900))
    ]
    assert catalog.latest() == make(4, 300)
    assert [manifest.id.step for manifest in catalog.history()] == [300, 200, 900]


def test_an_empty_run_has_no_latest(catalog: Catalog) -> None:
    assert catalog.latest() is None
    assert list(catalog.history()) == []


def test_latest_costs_two_small_listings_and_one_get(catalog: Catalog, store: Any) -> None:
    commit(catalog, *((1, step) for step in range(50)))
    store.heal()
    assert catalog.latest() == make(1, 49)
    assert store.count() == {"list": 2, "get": 1}
    assert [key for _, key in store.calls[:2]] == ["manifests/", "quarantine/"]


def test_quarantined_snapshots_are_passed_over(catalog: Catalog, store: Any) -> None:
    commit(catalog, (1, 10), (1, 20), (2, 5))
    store.put(layout.quarantine_key(make(2, 5).id), b"whatever it says")
    store.put("quarantine/notes.txt", b"foreign")
    assert catalog.quarantined() == {make(2, 5).id}
    assert catalog.is_quarantined(make(2, 5).id)
    assert not catalog.is_quarantined(make(1, 20).id)
    assert catalog.latest() == make(1, 20)
    for step in (10, 20):
        store.put(layout.quarantine_key(make(1, step).id), b"")
    assert catalog.latest() is None


@pytest.mark.req(1)
@pytest.mark.parametrize(
    "damaged",
    [b"", b"{", encode(make(1, 30)).replace(b'"pid":7', b'"pid":8'), encode(make(1, 31))],
)
def test_damaged_manifests_are_skipped(catalog: Catalog, store: Any, damaged: bytes) -> None:
    commit(catalog, (1, 10), (1, 20))
    store.put(layout.manifest_key(make(1, 30).id), damaged)
    assert catalog.latest() == make(1, 20)
    assert [manifest.id.step for manifest in catalog.history()] == [20, 10]
    with pytest.raises(ManifestError):
        catalog.get(make(1, 30).id)


def test_one_deleted_after_it_was_listed_is_skipped(catalog: Catalog, store: Any) -> None:
    commit(catalog, (1, 10), (1, 20))
    gone = layout.manifest_key(make(1, 20).id)
    store.before = lambda verb, key: store.inner.delete([gone]) if (verb, key) == ("get", gone) else None
    assert catalog.latest() == make(1, 10)


def test_foreign_objects_among_the_manifests_change_nothing(catalog: Catalog, store: Any) -> None:
    commit(catalog, (1, 10), (1, 20))
    for name in ("00000000-README.md", "0", "00000000-000000000000-abcdefgh.json.bak", "zzz/x.json"):
        store.put(f"manifests/{name}", b"hello")
    assert catalog.latest() == make(1, 20)
    assert [found.id.step for found in catalog.listed(limit=1)] == [20]
    assert [found.id.step for found in catalog.listed()] == [20, 10]


def test_one_too_large_is_refused_unread(catalog: Catalog, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(catalog, (1, 10))
    monkeypatch.setattr("ckptsync.catalog.MAX_MANIFEST_BYTES", 10)
    store.heal()
    with pytest.raises(ManifestError, match="more than 10"):
        catalog.load(next(catalog.listed()))
    assert store.count()["get"] == 0


@pytest.mark.req(1)
def test_what_is_not_committed_is_said_so(catalog: Catalog) -> None:
    with pytest.raises(NoSnapshotError, match="00000001-000000000007-abcdefgh is not committed"):
        catalog.get(make(1, 7).id)


@pytest.mark.req(32)
def test_other_failures_are_not_mistaken_for_an_empty_run(catalog: Catalog, store: Any) -> None:
    commit(catalog, (1, 10))
    store.fail("list", NotFoundError("no such bucket"))
    with pytest.raises(NotFoundError):
        catalog.latest()
    store.fail("get", TransientError("slow down"))
    with pytest.raises(TransientError):
        catalog.latest()


# -- launches ------------------------------------------------------------------------------------------------------------


def test_ranks_of_a_launch_share_one_claim(catalog: Catalog) -> None:
    first = catalog.join("job-1")
    assert catalog.join("job-1") == first
    assert catalog.newest_epoch() == first.epoch == 1


@pytest.mark.req(26)
def test_a_newer_launch_or_writer_fences_the_older_one(catalog: Catalog) -> None:
    catalog.join("job-1")
    assert catalog.join("job-2").epoch == 2
    with pytest.raises(FencedError, match="epoch 2"):
        catalog.join("job-1")
    catalog.claim()
    for launch in ("job-1", "job-2"):
        with pytest.raises(FencedError, match="epoch 3"):
            catalog.join(launch)
    assert catalog.newest_epoch() == 3


def test_many_ranks_that_begin_at_once_share_one_claim(catalog: Catalog) -> None:
    claims: list[int] = []
    threads = [threading.Thread(target=lambda: claims.append(catalog.join("job-1").epoch)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert claims == [1] * 16


def test_a_rank_that_loses_the_race_against_another_launch_goes_on(catalog: Catalog, store: Any) -> None:
    raced = []

    def race(verb: str, key: str) -> None:
        if verb == "put" and key == layout.writer_key(1) and not raced:
            raced.append(key)
            catalog.join("other")

    store.before = race
    assert catalog.join("job-1").epoch == 2


@pytest.mark.req(22)
def test_a_launch_is_not_begun_on_a_store_that_ignores_conditions(catalog: Catalog, store: Any) -> None:
    real = store.inner.put

    def careless(key: str, data: Buffer, **_: bool) -> Stat:
        return real(key, data)

    store.inner.put = careless
    with pytest.raises(UnsupportedError, match="ignores the condition"):
        catalog.join("job-1")
