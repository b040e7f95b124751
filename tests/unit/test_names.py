"""Names for snapshots, and pins."""

from __future__ import annotations

from typing import Any

import pytest

from ckptsync import names
from ckptsync.catalog import Catalog
from ckptsync.errors import ConfigError, ConflictError, ManifestError, NoSnapshotError, TransientError
from ckptsync.names import find, promote
from ckptsync.options import Retry
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest, Writer, encode
from ckptsync.store.retry import Retrying
from ckptsync.testing.clock import FakeClock


@pytest.fixture
def catalog(store: Any, clock: FakeClock) -> Catalog:
    return Catalog(store, clock=clock)


def commit(catalog: Catalog, epoch: int, step: int, **metrics: float | None) -> SnapshotId:
    snapshot = SnapshotId(epoch, step, "abcdefgh")
    manifest = Manifest(
        snapshot=str(snapshot),
        commit_id="",
        created="",
        entries=(),
        metrics=metrics,
        writer=Writer(host="", pid=0),
    )
    catalog.store.put(layout.manifest_key(snapshot), encode(manifest))
    return snapshot


def test_latest_step_and_id(catalog: Catalog) -> None:
    old, new = commit(catalog, 1, 10), commit(catalog, 1, 20)
    assert find(catalog, "latest") == new
    assert find(catalog, "10") == find(catalog, "0010") == old
    assert find(catalog, str(old)) == old


def test_a_step_saved_by_several_epochs_means_the_newest(catalog: Catalog) -> None:
    commit(catalog, 1, 10)
    newest = commit(catalog, 3, 10)
    commit(catalog, 2, 10)
    assert find(catalog, "10") == newest


@pytest.mark.parametrize("name", ["latest", "7", "best:loss:min", "nobody", "best", str(10**13)])
def test_what_fits_nothing_is_said_so(catalog: Catalog, name: str) -> None:
    with pytest.raises(NoSnapshotError):
        find(catalog, name)


@pytest.mark.parametrize("name", ["²", "٣", "", "a b", "../x", "best:loss", "best::min", "best:loss:avg", "best:a:b:min", "9" * 5000])  # fmt: skip
def test_what_cannot_be_a_name_is_refused(catalog: Catalog, name: str) -> None:
    with pytest.raises((ConfigError, NoSnapshotError)):
        find(catalog, name)


def test_best_of_a_metric(catalog: Catalog) -> None:
    commit(catalog, 1, 10, loss=3.0)
    low = commit(catalog, 1, 20, loss=1.0, acc=0.5)
    commit(catalog, 1, 30, loss=2.0)
    commit(catalog, 1, 40, loss=None)
    assert find(catalog, "best:loss:min") == low
    assert find(catalog, "best:loss:max").step == 10
    assert find(catalog, "best:acc:max") == low


def test_the_newest_of_equals_is_the_best(catalog: Catalog) -> None:
    commit(catalog, 1, 10, loss=1.0)
    commit(catalog, 1, 20, loss=1.0)
    assert find(catalog, "best:loss:min").step == find(catalog, "best:loss:max").step == 20


def test_an_alias_stands_for_what_it_was_last_given(catalog: Catalog, store: Any) -> None:
    one, two = commit(catalog, 1, 10), commit(catalog, 1, 20)
    assert promote(catalog, one, "prod").version == 1
    assert find(catalog, "prod") == one
    assert promote(catalog, two, "prod").version == 2
    store.heal()
    assert find(catalog, "prod") == two
    assert store.count() == {"list": 1, "get": 1}
    assert {name: alias.snapshot for name, alias in names.all_aliases(catalog).items()} == {"prod": str(two)}


def test_promoting_again_changes_nothing(catalog: Catalog, store: Any) -> None:
    one = commit(catalog, 1, 10)
    first = promote(catalog, one, "prod")
    store.heal()
    assert promote(catalog, one, "prod") == first
    assert "put" not in store.count()


def test_only_committed_snapshots_are_promoted_or_pinned(catalog: Catalog) -> None:
    for act in (lambda one: promote(catalog, one, "prod"), lambda one: names.pin(catalog, one)):
        with pytest.raises(NoSnapshotError, match="is not committed"):
            act(SnapshotId(1, 7, "abcdefgh"))


def test_of_two_who_change_an_alias_at_once_one_is_told(catalog: Catalog, store: Any) -> None:
    one, two, three = (commit(catalog, 1, step) for step in (10, 20, 30))
    promote(catalog, one, "prod")

    def be_faster(verb: str, _: str) -> None:
        if verb == "put":
            store.heal()
            promote(Catalog(store), two, "prod")

    store.before = be_faster
    with pytest.raises(ConflictError, match=f"was set to {two} meanwhile"):
        promote(catalog, three, "prod")
    assert find(catalog, "prod") == two


def test_a_promotion_whose_answer_was_lost_stands(store: Any, clock: FakeClock) -> None:
    catalog = Catalog(Retrying(store, Retry(), clock=clock, observer=lambda _: None), clock=clock)
    one = commit(catalog, 1, 10)

    def lose_once(verb: str, _: str) -> None:
        if verb == "put":
            store.heal()
            raise TransientError("connection reset")

    store.after = lose_once
    assert promote(catalog, one, "prod").version == 1
    assert find(catalog, "prod") == one


def test_a_damaged_alias_is_no_other_snapshot(catalog: Catalog, store: Any) -> None:
    store.put(layout.alias_key("prod", 1), b"{")
    with pytest.raises(ManifestError, match="alias 'prod' is damaged"):
        find(catalog, "prod")


def test_an_alias_to_rubbish_stands_for_nothing(catalog: Catalog, store: Any) -> None:
    store.put(layout.alias_key("prod", 1), b'{"name":"prod","snapshot":"../x","version":1,"created":""}')
    with pytest.raises(NoSnapshotError):
        find(catalog, "prod")


def test_foreign_objects_among_the_aliases_are_no_aliases(catalog: Catalog, store: Any) -> None:
    one = commit(catalog, 1, 10)
    promote(catalog, one, "prod")
    for key in ("README", "my notes/x.json", "123/99999998.json", "prod/0-notes.txt", "empty/x"):
        store.put(f"aliases/{key}", b"hello")
    assert {name: alias.snapshot for name, alias in names.all_aliases(catalog).items()} == {"prod": str(one)}
    assert find(catalog, "prod") == one
    assert promote(catalog, commit(catalog, 1, 20), "prod").version == 2


def test_pins_are_put_and_taken_away(catalog: Catalog, store: Any) -> None:
    one, two = commit(catalog, 1, 10), commit(catalog, 1, 20)
    for _ in range(2):
        names.pin(catalog, one)
        names.pin(catalog, two)
    store.put("pins/README", b"")
    assert names.pins(catalog) == {one, two}
    for _ in range(2):
        names.unpin(catalog, one)
    assert names.pins(catalog) == {two}


def test_who_only_shows_names_sees_those_that_are_whole(catalog: Catalog, store: Any) -> None:
    snapshot = commit(catalog, 1, 10)
    promote(catalog, snapshot, "good")
    store.put(layout.alias_key("bad", 1), b"{}")
    assert list(names.all_aliases(catalog, skip_damaged=True)) == ["good"]
    with pytest.raises(ManifestError, match="'bad' is damaged"):
        names.all_aliases(catalog)


def test_a_name_that_could_not_be_set_is_told_with_the_commit(catalog: Catalog, store: Any) -> None:
    snapshot = commit(catalog, 1, 10)
    store.put(layout.alias_key("bad", 1), b"{}")
    with pytest.raises(ManifestError, match=f"snapshot {snapshot} is committed, but its name is not set"):
        names.name_committed(catalog, snapshot, "bad")
    names.name_committed(catalog, snapshot, None)


def test_a_snapshot_whose_manifest_cannot_be_read_gets_no_name_unless_forced(catalog: Catalog, store: Any) -> None:
    snapshot = commit(catalog, 1, 10)
    store.put(layout.manifest_key(snapshot), b"{}")
    with pytest.raises(ManifestError):
        promote(catalog, snapshot, "best")
    assert promote(catalog, snapshot, "best", force=True).snapshot == str(snapshot)


@pytest.mark.parametrize(
    ("text", "run", "name"),
    [
        ("s3://bucket/run", "s3://bucket/run", "latest"),
        ("s3://bucket/run@100", "s3://bucket/run", "100"),
        ("s3://bucket/run@best:val/loss:min", "s3://bucket/run", "best:val/loss:min"),
        ("s3://bucket/me@home/run", "s3://bucket/me@home/run", "latest"),
        ("s3://bucket/me@home/run@best", "s3://bucket/me@home/run", "best"),
        ("s3://bucket/run@2024@latest", "s3://bucket/run@2024", "latest"),
        ("ssh://me@host/run", "ssh://me@host/run", "latest"),
        ("ssh://me@host", "ssh://me@host", "latest"),
        ("ssh://me@host/run@7", "ssh://me@host/run", "7"),
        ("run@100", "run", "100"),
        ("/data/me@home/run", "/data/me@home/run", "latest"),
        ("@100", "@100", "latest"),
        ("run@", "run@", "latest"),
        ("", "", "latest"),
    ],
)
def test_a_run_and_a_name_in_one(text: str, run: str, name: str) -> None:
    assert names.split(text) == (run, name)
