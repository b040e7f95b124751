"""Which snapshots exist, who may add to them, and what is made of lost answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from ckptsync.catalog import Catalog
from ckptsync.errors import (
    FencedError,
    ManifestError,
    NoSnapshotError,
    NotFoundError,
    TransientError,
)
from ckptsync.options import Retry
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest, Writer, encode
from ckptsync.store.base import Stat, Store, StoreWrapper
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


def test_a_commit_makes_a_snapshot_exist(catalog: Catalog) -> None:
    manifest = make(catalog.claims.claim().epoch, 7)
    assert not catalog.exists(manifest.id)
    catalog.commit(manifest)
    assert catalog.exists(manifest.id)
    assert catalog.get(manifest.id) == manifest == catalog.latest()


def test_a_commit_may_be_made_again(catalog: Catalog) -> None:
    manifest = make(catalog.claims.claim().epoch, 7)
    catalog.commit(manifest)
    catalog.commit(manifest)


@pytest.mark.req(20)
def test_a_commit_whose_answer_was_lost_stands(catalog: Catalog, store: Any, clock: FakeClock) -> None:
    manifest = make(catalog.claims.claim().epoch, 7)

    def lose_once(verb: str, _: str) -> None:
        if verb == "put":
            store.heal()
            raise TransientError("connection reset", op="put")

    store.after = lose_once
    Catalog(Retrying(store, Retry(), clock=clock, observer=lambda _: None), clock=clock).commit(manifest)
    assert catalog.get(manifest.id) == manifest


@pytest.mark.req(26)
def test_a_commit_after_a_newer_claim_is_fenced_by_name(catalog: Catalog, store: Any) -> None:
    mine = catalog.claims.claim()
    newer = catalog.claims.claim()
    with pytest.raises(FencedError, match=f"belongs to {newer.writer.host} .*epoch 2 is newer than ours, 1"):
        catalog.commit(make(mine.epoch, 7))
    store.put(layout.writer_key(2), b"damaged")
    with pytest.raises(FencedError, match="belongs to another writer"):
        catalog.commit(make(mine.epoch, 7))
    assert catalog.latest() is None


@pytest.mark.req(20, 26)
@pytest.mark.parametrize("there", [encode(make(1, 7, commit_id="another")), b"damaged"])
def test_another_manifest_under_the_key_is_never_overwritten(catalog: Catalog, store: Any, there: bytes) -> None:
    manifest = make(catalog.claims.claim().epoch, 7)
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


class Shown(StoreWrapper):
    """Notes which listings were asked for, up to how many entries, and how many they showed."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.asked: list[tuple[str, int | None]] = []
        self.entries = 0

    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        self.asked.append((prefix, limit))
        for found in super().list(prefix, limit=limit, after=after):
            self.entries += 1
            yield found


@pytest.mark.parametrize("size", [1, 10, 10_000])
def test_latest_lists_one_manifest_and_reads_one_however_many_there_are(store: Any, size: int) -> None:
    commit(Catalog(store), *((1, step) for step in range(1, size + 1)))
    shown, begun = Shown(store), store.count()
    assert Catalog(shown).latest() == make(1, size)
    assert shown.asked == [("manifests/", 1), ("quarantine/", None)]  # the latter of nothing, in a run without damage
    assert shown.entries == 1
    assert store.count() - begun == {"list": 2, "get": 1}


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
