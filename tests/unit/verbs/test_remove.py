"""What `rm` deletes, what it leaves, and that it can be killed anywhere."""

from __future__ import annotations

from typing import Any

import pytest

from ckptsync import names
from ckptsync.errors import ConfigError, NoSnapshotError, StoreError
from ckptsync.events import Kind
from ckptsync.snapshot import layout
from ckptsync.verbs.gc import collect
from ckptsync.verbs.remove import remove

FILES = {"a": b"1234", "b/c": b"56"}


def test_one_goes_wholly_and_the_others_stay(run: Any, make: Any, events: Any) -> None:
    keep = make.snapshot(1)
    stays = make.there("data/") + make.there("journals/") + make.there("manifests/")
    gone = make.snapshot(2, FILES)
    found = remove(run, "2")
    assert (found.snapshot, found.objects, found.bytes) == (str(gone), 2, 6)
    assert make.there("data/") + make.there("journals/") + make.there("manifests/") == stays
    assert names.find(run.catalog, "latest") == keep
    assert sum(event.count for event in events if event.kind is Kind.DELETED) == 2


@pytest.mark.req(31)
def test_the_manifest_goes_first_and_the_journal_after_the_data(run: Any, make: Any, store: Any) -> None:
    snapshot = make.snapshot(2, FILES)
    store.heal()
    deleted: list[str] = []
    real = store.inner.delete
    store.inner.delete = lambda keys: deleted.extend(keys := list(keys)) or real(keys)
    remove(run, "2")
    order = [deleted.index(key) for key in (layout.manifest_key(snapshot), layout.data_key(snapshot, "a"))]
    order += [deleted.index(key) for key in (layout.journal_key(snapshot), layout.condemned_key(snapshot))]
    assert order == sorted(order)
    assert order[0] == 0


@pytest.mark.req(31)
def test_many_objects_go_in_batches(run: Any, make: Any, store: Any) -> None:
    make.snapshot(2, {f"f{n}": b"x" for n in range(2500)})
    store.heal()
    assert remove(run, "2").objects == 2500
    assert store.count()["delete"] == 1 + 3 + 2


def test_pinned_ones_stay_unless_forced(run: Any, make: Any) -> None:
    snapshot = make.snapshot(1)
    names.pin(run.catalog, snapshot)
    before = make.there()
    with pytest.raises(ConfigError, match="pinned"):
        remove(run, "1")
    assert make.there() == before
    remove(run, "1", force=True)
    assert make.there() == [layout.writer_key(1)]


def test_aliased_ones_stay_unless_forced_and_the_alias_is_named(run: Any, make: Any) -> None:
    names.promote(run.catalog, make.snapshot(1), "stable")
    with pytest.raises(ConfigError, match="'stable'"):
        remove(run, "stable")
    remove(run, "stable", force=True)
    with pytest.raises(NoSnapshotError):
        run.catalog.get(names.find(run.catalog, "stable"))


def test_an_alias_that_moved_on_protects_no_longer(run: Any, make: Any) -> None:
    first, second = make.snapshot(1), make.snapshot(2)
    names.promote(run.catalog, first, "stable")
    names.promote(run.catalog, second, "stable")
    remove(run, "1")
    with pytest.raises(ConfigError):
        remove(run, "2")


def test_what_is_not_committed_is_not_removed(run: Any, make: Any) -> None:
    attempt = make.attempt(1)
    with pytest.raises(NoSnapshotError, match="gc"):
        remove(run, str(attempt))
    with pytest.raises(NoSnapshotError):
        remove(run, "1")
    assert len(make.there("data/")) == 2


@pytest.mark.req(14)
def test_foreign_objects_stay(run: Any, make: Any) -> None:
    snapshot = make.snapshot(1, FILES)
    foreign = layout.data_key(snapshot, "notes.txt")
    run.store.put(foreign, b"mine")
    assert remove(run, "1").objects == 2
    assert make.there("data/") == [foreign]


def test_unfinished_uploads_go_too(run: Any, make: Any) -> None:
    snapshot = make.snapshot(1, FILES)
    upload, foreign = (run.store.begin(layout.data_key(snapshot, path)) for path in ("a", "foreign"))
    run.store.put_part(upload, 1, b"x")
    remove(run, "1")
    assert [found.id for found in run.store.uploads("")] == [foreign.id]


@pytest.mark.parametrize("damage", ["manifest", "journal"])
def test_either_record_is_enough(run: Any, make: Any, damage: str) -> None:
    snapshot = make.snapshot(1, FILES)
    run.store.put({"manifest": layout.manifest_key, "journal": layout.journal_key}[damage](snapshot), b"{}")
    assert remove(run, str(snapshot)).objects == 2
    assert make.there() == [layout.writer_key(1)]


def test_without_a_journal_the_manifest_says_what_to_delete(run: Any, make: Any) -> None:
    snapshot = make.snapshot(1, FILES)
    run.store.delete([layout.journal_key(snapshot)])
    remove(run, "1")
    assert make.there() == [layout.writer_key(1)]


def test_when_both_records_are_damaged_no_data_is_guessed_at(run: Any, make: Any, events: Any) -> None:
    snapshot = make.snapshot(1, FILES)
    run.store.put(layout.manifest_key(snapshot), b"{}")
    run.store.put(layout.journal_key(snapshot), b"{}")
    assert remove(run, str(snapshot)).objects == 0
    assert len(make.there("data/")) == 2
    assert make.there("manifests/") == []
    assert any(event.kind is Kind.NOTICE and "journal" in event.message for event in events)


class TestContinued:
    """One attempt finished what an earlier one began, and names its objects."""

    def test_the_earlier_ones_objects_go_with_the_last_that_names_them(self, run: Any, make: Any) -> None:
        earlier = make.attempt(1, FILES)
        later = make.commit(make.attempt(1, {"d": b"7"}, adopts=[earlier]), borrows=make.there("data/"))
        found = remove(run, "1")
        assert (found.snapshot, found.objects, found.bytes) == (str(later), 3, 7)
        assert make.left() == []

    def test_objects_that_another_snapshot_names_stay(self, run: Any, make: Any) -> None:
        earlier = make.attempt(1, FILES)
        shared = make.there("data/")
        first = make.commit(make.attempt(1, {"d": b"7"}, adopts=[earlier]), borrows=shared)
        second = make.commit(make.attempt(1, {"e": b"8"}, adopts=[earlier, first]), borrows=shared[:1])
        assert remove(run, str(first)).objects == 2
        assert all(run.store.stat(file.key).size == file.size for file in run.catalog.get(second).files)
        assert set(make.there("data/")) == {shared[0], layout.data_key(second, "e")}
        assert remove(run, str(second)).objects == 2
        assert make.left() == []

    def test_a_snapshot_whose_own_objects_are_named_by_a_later_one(self, run: Any, make: Any) -> None:
        first = make.snapshot(1, FILES)
        second = make.commit(make.attempt(1, {}, adopts=[first]), borrows=[layout.data_key(first, "a")])
        assert remove(run, str(first)).objects == 1
        assert make.there("data/") == [layout.data_key(first, "a")]
        assert not run.catalog.exists(first)
        remove(run, str(second))
        assert make.left() == []

    def test_a_snapshot_that_somebody_is_continuing_now(self, run: Any, make: Any) -> None:
        first = make.snapshot(1, FILES)
        second = make.attempt(1, {}, adopts=[first])
        assert remove(run, str(first)).objects == 0
        make.commit(second, borrows=[layout.data_key(first, "a")])
        assert all(run.store.stat(file.key).size == file.size for file in run.catalog.get(second).files)

    def test_what_a_damaged_manifest_may_name_stays(self, run: Any, make: Any) -> None:
        first = make.snapshot(1, FILES)
        second = make.commit(make.attempt(1, {}, adopts=[first]), borrows=[layout.data_key(first, "a")])
        run.store.put(layout.manifest_key(second), b"{}")
        assert remove(run, str(first)).objects == 0
        assert len(make.there("data/")) == 2


@pytest.mark.req(28)
@pytest.mark.parametrize("how", ["again", "gc"])
def test_killed_anywhere_it_is_finished_later(
    how: str, run: Any, make: Any, store: Any, killed: Any, clock: Any
) -> None:
    for after in range(40):
        earlier = make.attempt(1, FILES)
        snapshot = make.commit(make.attempt(1, {"d": b"7"}, adopts=[earlier]), borrows=make.there("data/"))
        clock.advance(100)
        writes = [0]

        def kill(verb: str, key: str, after: int = after, writes: list[int] = writes) -> None:
            del key
            writes[0] += verb in {"put", "delete"}
            if writes[0] > after:
                raise killed

        store.before = kill
        try:
            remove(run, str(snapshot))
        except killed:
            store.heal()
        else:
            assert after > 4
            return
        if run.catalog.exists(snapshot):
            assert all(run.store.stat(file.key) for file in run.catalog.get(snapshot).files)
            remove(run, str(snapshot))
        elif how == "again":
            try:
                remove(run, str(snapshot))
            except NoSnapshotError:  # nothing of it is left but perhaps of the earlier one
                collect(run, None, grace_s=10, dry_run=False)
        run.catalog.claims.claim()
        clock.advance(100)
        collect(run, None, grace_s=10, dry_run=False)
        assert make.left() == []
    pytest.fail("it never came to an end")


def test_a_failure_surfaces(run: Any, make: Any, store: Any) -> None:
    make.snapshot(1)
    store.fail("delete", StoreError("no"), after=1)
    with pytest.raises(StoreError):
        remove(run, "1")
