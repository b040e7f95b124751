"""What `ls`, `show` and `diff` tell."""

from __future__ import annotations

from typing import Any

import pytest

from ckptsync import names
from ckptsync.errors import ManifestError, NoSnapshotError
from ckptsync.snapshot import layout
from ckptsync.verbs.listing import compare, rows, show


def test_an_empty_run_has_no_rows(run: Any) -> None:
    assert list(rows(run)) == []


def test_newest_first_with_everything_known(run: Any, make: Any) -> None:
    first, second = make.snapshot(900, loss=0.5), make.snapshot(300, {"w": b"12345"}, loss=float("nan"))
    names.pin(run.catalog, first)
    names.promote(run.catalog, second, "stable")
    names.promote(run.catalog, second, "best")
    newest, oldest = rows(run)
    assert (newest.snapshot, newest.step, newest.epoch) == (str(second), 300, 2)
    assert (newest.bytes, newest.files, newest.metrics, newest.state) == (5, 1, {"loss": None}, "committed")
    assert (newest.pinned, newest.aliases) == (False, ("best", "stable"))
    assert newest.created == "2023-11-14T22:13:20.000Z"
    assert (oldest.snapshot, oldest.pinned, oldest.aliases, oldest.problem) == (str(first), True, (), "")


def test_an_attempt_without_manifest_is_incomplete(run: Any, make: Any) -> None:
    make.snapshot(1)
    attempt = make.attempt(2, {"w": b"1234567"})
    newest, _ = rows(run)
    assert (newest.snapshot, newest.state, newest.bytes, newest.files) == (str(attempt), "incomplete", 7, 1)


def test_an_attempt_that_another_continues_is_not_shown(run: Any, make: Any) -> None:
    earlier = make.attempt(2)
    later = make.attempt(2, {}, adopts=[earlier])
    assert [row.snapshot for row in rows(run)] == [str(later)]
    make.commit(later, borrows=make.there(layout.data_prefix(earlier)))
    (row,) = rows(run)
    assert (row.snapshot, row.state, row.files) == (str(later), "committed", 2)


def test_an_attempt_whose_continuation_is_gone_is_shown_again(run: Any, make: Any) -> None:
    earlier = make.attempt(2)
    later = make.attempt(2, {}, adopts=[earlier])
    run.store.delete([layout.journal_key(later)])
    assert [row.snapshot for row in rows(run)] == [str(earlier)]


def test_what_is_being_deleted_is_not_shown(run: Any, make: Any) -> None:
    run.store.put(layout.condemned_key(make.attempt(2)), b"")
    assert list(rows(run)) == []


def test_damage_is_quarantined_and_said(run: Any, make: Any) -> None:
    good, bad, torn = make.snapshot(1), make.snapshot(2), make.attempt(3)
    run.store.put(layout.manifest_key(bad), b'{"format":')
    run.store.put(layout.journal_key(torn), b"[]")
    incomplete, quarantined, committed = rows(run)
    assert (incomplete.snapshot, incomplete.state) == (str(torn), "incomplete")
    assert "journal is damaged" in incomplete.problem
    assert (quarantined.snapshot, quarantined.state, quarantined.step) == (str(bad), "quarantined", 2)
    assert "manifest is damaged" in quarantined.problem
    assert quarantined.created == "2023-11-14T22:13:20.000Z"
    assert (committed.snapshot, committed.state) == (str(good), "committed")


def test_a_later_format_is_not_called_damage(run: Any, make: Any) -> None:
    run.store.put(layout.manifest_key(make.snapshot(1)), b'{"format":"ckptsync-manifest","version":3}')
    (row,) = rows(run)
    assert row.state == "newer-format"
    assert "install a newer ckptsync" in row.problem


def test_foreign_objects_are_no_rows(run: Any, make: Any) -> None:
    make.snapshot(1)
    for key in ("journals/notes.txt", "journals/x/journal.json", "manifests/readme", "manifests/x.json", "top"):
        run.store.put(key, b"foreign")
    assert len(list(rows(run))) == 1


def test_a_manifest_deleted_since_it_was_listed_is_left_out(run: Any, make: Any, store: Any) -> None:
    first, second = make.snapshot(1), make.snapshot(2)

    def vanish(verb: str, key: str) -> None:
        if verb == "get" and key == layout.manifest_key(first):
            store.inner.delete([key])

    store.before = vanish
    assert [row.snapshot for row in rows(run)] == [str(second)]


def test_rows_come_in_order_and_reading_stays_close_to_the_reader(run: Any, make: Any, store: Any) -> None:
    steps = list(range(40))
    for step in steps:
        make.snapshot(step, {})
    store.heal()
    found = rows(run)
    assert [next(found).step for _ in range(3)] == [39, 38, 37]
    assert store.count()["get"] <= 3 + run.config.transfer.parts_in_flight
    assert [row.step for row in found] == steps[:37][::-1]


def test_a_reader_may_stop_early(run: Any, make: Any) -> None:
    for step in range(10):
        make.snapshot(step, {})
    found = rows(run)
    next(found)
    found.close()


def test_show_by_any_name(run: Any, make: Any) -> None:
    first, second = make.snapshot(1, loss=0.1), make.snapshot(2, loss=0.2)
    names.promote(run.catalog, first, "good")
    for name, expected in (("latest", second), ("1", first), ("good", first), ("best:loss:min", first)):
        assert show(run, name).id == expected
    assert show(run, str(second)).id == second


def test_show_what_is_not_there(run: Any, make: Any) -> None:
    make.snapshot(1)
    with pytest.raises(NoSnapshotError):
        show(run, "2")
    with pytest.raises(NoSnapshotError):
        show(run, "00000009-000000000001-abcdefgh")


def test_compare_names_what_changed(run: Any, make: Any) -> None:
    make.snapshot(1, {"a": b"same", "b": b"old", "c": b"gone"}, loss=1.0)
    make.snapshot(2, {"a": b"same", "b": b"new!", "d": b"more"}, loss=2.0)
    found = compare(run, "1", "2")
    assert (found.added, found.removed, found.changed, found.unchanged) == (("d",), ("c",), ("b",), ("a",))
    assert (found.bytes_changed, found.metrics) == (8, {"loss": (1.0, 2.0)})


def test_compare_with_a_damaged_one(run: Any, make: Any) -> None:
    make.snapshot(1)
    run.store.put(layout.manifest_key(make.snapshot(2)), b"{}")
    with pytest.raises(ManifestError):
        compare(run, "1", "2")
