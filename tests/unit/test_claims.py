"""Who may write a run, one after the other, and what is made of lost answers."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from ckptsync.catalog import Catalog
from ckptsync.claims import Claims
from ckptsync.errors import (
    FencedError,
    TransientError,
    UnsupportedError,
)
from ckptsync.options import Retry
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest, Writer
from ckptsync.store.base import Buffer, Stat, Store, StoreWrapper
from ckptsync.store.memory import MemoryStore
from ckptsync.store.retry import Retrying
from ckptsync.testing.clock import FakeClock


@pytest.fixture
def claims(store: Any, clock: FakeClock) -> Claims:
    return Claims(store, clock=clock)


def make(epoch: int, step: int, **changed: Any) -> Manifest:
    facts: dict[str, Any] = {"commit_id": f"{epoch}-{step}", "created": "", "entries": ()}
    snapshot = str(SnapshotId(epoch, step, "abcdefgh"))
    return Manifest(snapshot=snapshot, writer=Writer(host="node-1", pid=7), **(facts | changed))


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


def test_each_claim_takes_the_next_epoch(claims: Claims) -> None:
    assert claims.newest_epoch() == 0
    assert [claims.claim().epoch for _ in range(3)] == [1, 2, 3]
    assert claims.newest_epoch() == 3
    writer = claims.writer(2)
    assert writer is not None
    assert (writer.epoch, writer.created) == (2, "2023-11-14T22:13:20.000Z")
    assert claims.writer(4) is None


def test_a_damaged_claim_still_counts_as_claimed(claims: Claims, store: Any) -> None:
    claims.claim()
    for damaged in (b"{", b"\xff", b"[" * 100_000, b""):
        store.put(layout.writer_key(1), damaged)
        assert claims.writer(1) is None
    assert claims.claim().epoch == 2


def test_writers_who_race_get_distinct_epochs(clock: FakeClock) -> None:
    store, start, taken = MemoryStore(), threading.Barrier(6), list[int]()

    def work() -> None:
        start.wait()
        for _ in range(5):
            taken.append(Claims(store, clock=clock).claim().epoch)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == list(range(1, 31))


def test_a_claim_taken_between_look_and_put_is_left_to_its_owner(claims: Claims, store: Any) -> None:
    other = Claims(store.inner)
    store.before = lambda verb, _: other.claim() if verb == "put" and other.newest_epoch() < 3 else None
    mine = claims.claim()
    assert mine.epoch == 4
    assert claims.writer(4) == mine


@pytest.mark.req(20)
def test_a_claim_whose_answer_was_lost_is_ours(claims: Claims, store: Any, clock: FakeClock) -> None:
    def lose_once(verb: str, key: str) -> None:
        if verb == "put" and key == layout.writer_key(1):
            store.heal()
            raise TransientError("connection reset", op="put")

    store.after = lose_once
    retrying = Claims(Retrying(store, Retry(), clock=clock, observer=lambda _: None), clock=clock)
    claim = retrying.claim()
    assert claim.epoch == 1
    assert claims.writer(1) == claim


def test_a_store_that_ignores_conditions_is_refused(store: Any) -> None:
    for _ in range(2):  # also the second time, when there is a first claim's key to be mistaken for proof
        with pytest.raises(UnsupportedError, match="ignores the condition"):
            Claims(IgnoresConditions(store)).claim()


@pytest.mark.req(21)
def test_a_claim_is_proven_once_the_service_takes_the_same_key_again(store: Any, clock: FakeClock) -> None:
    store.traits = replace(store.traits, rewrite_pause_s=1.0)
    claims = Claims(store, clock=clock)
    claims.claim()
    assert clock.slept_s == [1.0]
    claims.claim()
    assert clock.slept_s == [1.0]


def test_unless_the_caller_vouches_for_a_single_writer(store: Any) -> None:
    catalog = Catalog(IgnoresConditions(store), single_writer=True)
    assert [catalog.claims.claim().epoch for _ in range(3)] == [1, 2, 3]
    catalog.commit(make(3, 7))
    assert catalog.exists(make(3, 7).id)


def test_a_store_without_conditions_is_asked_nothing(store: Any) -> None:
    with pytest.raises(UnsupportedError, match="--single-writer"):
        Claims(Unconditional(store)).claim()
    assert not store.calls


def test_a_store_without_conditions_serves_a_single_writer(store: Any) -> None:
    catalog = Catalog(Unconditional(store), single_writer=True)
    assert [catalog.claims.claim().epoch for _ in range(2)] == [1, 2]
    catalog.commit(make(2, 7))
    catalog.commit(make(2, 7))
    assert catalog.get(make(2, 7).id) == make(2, 7)


@pytest.mark.parametrize("key", ["writers/00000000.txt", "writers/0-notes.md", "writers/00000000/x.json"])
def test_foreign_objects_among_the_claims_change_nothing(claims: Claims, store: Any, key: str) -> None:
    store.put(key, b"hello")
    assert claims.newest_epoch() == 0
    assert claims.claim().epoch == 1
    assert claims.newest_epoch() == 1


# -- commits --------------------------------------------------------------------------------------------------------------


# -- launches ------------------------------------------------------------------------------------------------------------


def test_ranks_of_a_launch_share_one_claim(claims: Claims) -> None:
    first = claims.join("job-1")
    assert claims.join("job-1") == first
    assert claims.newest_epoch() == first.epoch == 1


@pytest.mark.req(26)
def test_a_newer_launch_or_writer_fences_the_older_one(claims: Claims) -> None:
    claims.join("job-1")
    assert claims.join("job-2").epoch == 2
    with pytest.raises(FencedError, match="epoch 2"):
        claims.join("job-1")
    claims.claim()
    for launch in ("job-1", "job-2"):
        with pytest.raises(FencedError, match="epoch 3"):
            claims.join(launch)
    assert claims.newest_epoch() == 3


def test_many_ranks_that_begin_at_once_share_one_claim(claims: Claims) -> None:
    epochs: list[int] = []
    threads = [threading.Thread(target=lambda: epochs.append(claims.join("job-1").epoch)) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert epochs == [1] * 16


def test_a_rank_that_loses_the_race_against_another_launch_goes_on(claims: Claims, store: Any) -> None:
    raced = []

    def race(verb: str, key: str) -> None:
        if verb == "put" and key == layout.writer_key(1) and not raced:
            raced.append(key)
            claims.join("other")

    store.before = race
    assert claims.join("job-1").epoch == 2


@pytest.mark.req(22)
def test_a_launch_is_not_begun_on_a_store_that_ignores_conditions(claims: Claims, store: Any) -> None:
    real = store.inner.put

    def careless(key: str, data: Buffer, **_: bool) -> Stat:
        return real(key, data)

    store.inner.put = careless
    with pytest.raises(UnsupportedError, match="ignores the condition"):
        claims.join("job-1")
