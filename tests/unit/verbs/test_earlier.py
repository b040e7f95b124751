"""What an earlier, killed attempt at the same step left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ckptsync.errors import ConflictError
from ckptsync.events import Event
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest, Writer, encode
from ckptsync.transfer.journal import Journal, open_journal
from ckptsync.verbs.earlier import check_still_there, continue_earlier

NEW = SnapshotId(9, 7, "zzzzzzzz")


def attempt(store: Any, epoch: int, step: int = 7, *files: str, committed: bool = False) -> SnapshotId:
    """What a save leaves in the bucket."""
    snapshot = SnapshotId(epoch, step, "abcdefgh")
    store.inner.put(layout.journal_key(snapshot), b"{}")
    for path in files:
        store.inner.put(layout.data_key(snapshot, path), path.encode())
    if committed:
        writer = Writer(host="", pid=0)
        manifest = Manifest(snapshot=str(snapshot), commit_id="", created="", entries=(), writer=writer)
        store.inner.put(layout.manifest_key(snapshot), encode(manifest))
    return snapshot


@pytest.fixture
def nothing(tmp_path: Path) -> Journal:
    """No journal on this disk."""
    return Journal(None, tmp_path)


def adopted(store: Any, snapshot: SnapshotId) -> list[str]:
    prefix = layout.journal_prefix(snapshot)
    return [found.key.removeprefix(prefix) for found in store.inner.list(f"{prefix}adopted-by/")]


def test_without_any_earlier_attempt_nothing_is_left(run: Run, nothing: Journal, store: Any) -> None:
    found = continue_earlier(run, NEW, nothing)
    assert (found.uploads, found.objects) == ({}, {})
    assert "put" not in store.count()


def test_objects_and_uploads_of_uncommitted_attempts_are_found_by_path(run: Run, nothing: Journal, store: Any) -> None:
    one = attempt(store, 1, 7, "a", "sub/b")
    two = attempt(store, 2, 7, "a")
    upload = store.inner.begin(layout.data_key(two, "c"))
    found = continue_earlier(run, NEW, nothing)
    assert {path: stat.key for path, stat in found.objects.items()} == {
        "a": layout.data_key(two, "a"),
        "sub/b": layout.data_key(one, "sub/b"),
    }
    assert found.uploads == {"c": upload}
    assert adopted(store, one) == adopted(store, two) == [f"adopted-by/{NEW}"]


def test_other_steps_newer_epochs_and_committed_ones_are_left_alone(run: Run, nothing: Journal, store: Any) -> None:
    others = [attempt(store, 1, 6, "a"), attempt(store, 10, 7, "a"), attempt(store, 3, 7, "a", committed=True)]
    store.inner.put("journals/README", b"")
    found = continue_earlier(run, NEW, nothing)
    assert found.objects == {}
    assert [adopted(store, other) for other in others] == [[], [], []]


def test_a_condemned_attempt_is_left_to_gc(run: Run, nothing: Journal, store: Any) -> None:
    one, two = attempt(store, 1, 7, "a"), attempt(store, 2, 7, "b")
    store.inner.put(layout.condemned_key(two), b"")
    found = continue_earlier(run, NEW, nothing)
    assert list(found.objects) == ["a"]
    assert (adopted(store, one), adopted(store, two)) == ([f"adopted-by/{NEW}"], [])


def test_gc_that_condemns_between_marker_and_look_is_seen(run: Run, nothing: Journal, store: Any) -> None:
    one = attempt(store, 1, 7, "a")
    store.after = lambda verb, key: (
        store.inner.put(layout.condemned_key(one), b"") if verb == "put" and "adopted-by" in key else None
    )
    assert continue_earlier(run, NEW, nothing).objects == {}
    assert adopted(store, one) == []


def test_the_bucket_is_asked_though_there_is_a_journal(
    run: Run, store: Any, tmp_path: Path, events: list[Event]
) -> None:
    """The journal may be younger than an attempt whose own journal was lost."""
    one, two = attempt(store, 1, 7, "a"), attempt(store, 2, 7, "b", committed=True)
    with open_journal(tmp_path / "x.jsonl", observer=events.append) as journal:
        journal.attempts = [two, two]
        assert sorted(continue_earlier(run, NEW, journal).objects) == ["a", "b"]
        assert journal.attempts == [two, two]
    assert adopted(store, one) == adopted(store, two) == [f"adopted-by/{NEW}"]


def test_a_journal_of_another_step_is_forgotten_and_the_bucket_asked(
    run: Run, store: Any, tmp_path: Path, events: list[Event]
) -> None:
    other, one = attempt(store, 1, 6, "a"), attempt(store, 2, 7, "b")
    with open_journal(tmp_path / "x.jsonl", observer=events.append) as journal:
        journal.attempt(other)
        journal.attempts = [other]
        assert list(continue_earlier(run, NEW, journal).objects) == ["b"]
        assert journal.attempts == []
    assert (tmp_path / "x.jsonl").read_bytes() == b""
    assert adopted(store, one) == [f"adopted-by/{NEW}"]


def test_a_journal_of_which_gc_took_a_part_is_forgotten(
    run: Run, store: Any, tmp_path: Path, events: list[Event]
) -> None:
    one, two = attempt(store, 1, 7, "a"), attempt(store, 2, 7, "b")
    store.inner.put(layout.condemned_key(one), b"")
    with open_journal(tmp_path / "x.jsonl", observer=events.append) as journal:
        journal.attempts = [one, two]
        assert list(continue_earlier(run, NEW, journal).objects) == ["b"]
        assert (journal.attempts, journal.files) == ([], {})


def test_only_recent_records_are_looked_at(run: Run, nothing: Journal, store: Any) -> None:
    old = attempt(store, 1, 7, "a")
    for step in range(1000):
        attempt(store, 5, 1000 + step)
    store.heal()
    assert continue_earlier(run, NEW, nothing).objects == {}
    assert store.count() == {"list": 1}
    assert adopted(store, old) == []


def test_what_was_deleted_meanwhile_is_noticed(run: Run, store: Any) -> None:
    one = attempt(store, 1, 7, "a", "b")
    keys = [layout.data_key(one, path) for path in ("a", "b")]
    check_still_there(run, keys)
    store.inner.delete([keys[1]])
    with pytest.raises(ConflictError, match="deleted meanwhile; save again") as caught:
        check_still_there(run, keys)
    assert caught.value.key == keys[1]
