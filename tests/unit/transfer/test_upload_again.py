"""What of an earlier upload is used, and what becomes of one that vanishes: on a bucket in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckptsync.errors import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    SourceChangedError,
)
from ckptsync.events import Event, Kind
from ckptsync.options import MIB
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import Stat, Store, StoreWrapper, Upload
from ckptsync.transfer.journal import Progress
from ckptsync.transfer.source import SourceFile
from ckptsync.transfer.workbench import Leftovers, Tally

NEW = SnapshotId(2, 7, "bbbbbbbb")

Send = Callable[..., tuple[FileEntry, ...]]
Limited = Callable[..., Store]


def content(store: Any, entry: FileEntry) -> bytes:
    return store.inner.read(entry.key)


def change_part(source: Path, number: int) -> None:
    with source.open("r+b") as file:
        file.seek((number - 1) * MIB)
        file.write(b"changed")


# -- uploads that vanish --------------------------------------------------------------------------------------------------


@pytest.mark.req(29, 30)
@pytest.mark.parametrize("at", ["put_part", "finish"])
def test_an_upload_that_vanished_is_begun_anew(
    store: Any, send: Send, source: Path, events: list[Event], at: str
) -> None:
    once = threading.Lock()

    def vanish(verb: str, _: str) -> None:
        if verb == at and once.acquire(blocking=False):
            for upload in list(store.inner.uploads("")):
                store.inner.abort(upload)

    store.before = vanish
    (entry,) = send()
    assert content(store, entry) == source.read_bytes()
    assert store.count()["begin"] == 2
    assert len([event for event in events if event.kind == Kind.NOTICE]) == 1
    assert not list(store.inner.uploads(""))


@pytest.mark.parametrize("workers", [1, 4])
def test_one_that_vanishes_again_and_again_is_an_error(store: Any, send: Send, source: Path, workers: int) -> None:
    assert source.exists()
    store.fail("put_part", NotFoundError("the upload is gone"))
    with pytest.raises(NotFoundError):
        send(workers=workers)
    assert store.count()["begin"] <= 3


@pytest.mark.req(29)
def test_a_part_someone_else_replaced_is_sent_anew(store: Any, send: Send, source: Path) -> None:
    """A zombie still writes to the upload: its part has another tag."""

    def meddle(verb: str, _: str) -> None:
        if verb == "finish":
            store.before = lambda *_: None
            (upload,) = store.inner.uploads("")
            store.inner.put_part(upload, 2, b"z" * MIB)

    store.before = meddle
    (entry,) = send()
    assert content(store, entry) == source.read_bytes()
    assert store.count()["begin"] == 2


@pytest.mark.req(16)
def test_an_object_of_another_size_is_never_accepted(store: Any, send: Send, source: Path) -> None:
    assert source.exists()

    class Cuts(StoreWrapper):
        def finish(self, upload: Upload, parts: Any) -> Stat:
            return super().finish(upload, list(parts)[:-1])

    with pytest.raises(IntegrityError, match=r"a has 3145728 bytes in the bucket instead of 3670016"):
        send(on=Cuts(store))


def test_a_late_thread_leaves_no_trace_in_the_new_upload(store: Any, send: Send, source: Path, tally: Tally) -> None:
    """Its part went into the old upload while another thread began anew: the old tag must not be finished with."""
    late, go_on, gone = threading.Event(), threading.Event(), list[Upload]()

    class Slow(StoreWrapper):
        def put_part(self, upload: Upload, number: int, data: Any) -> Any:
            tag = super().put_part(upload, number, data) if number == 1 else None
            if number == 1 and not gone:
                late.set()
                go_on.wait(30)
            elif number == 2 and not gone:
                late.wait(30)
                gone.append(upload)
                self.inner.abort(upload)
            elif number == 4:
                go_on.set()
                while tally.parts_sent < 4:  # the late one's, and three of the new upload
                    time.sleep(0.001)
            return tag or super().put_part(upload, number, data)

    (entry,) = send(on=Slow(store), workers=2)
    assert content(store, entry) == source.read_bytes()
    assert store.count()["begin"] == 2


def test_a_late_thread_sends_nothing_into_the_new_upload(
    store: Any, send: Send, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else it would replace a part there, and the tag to finish with would be another's."""
    source.write_bytes(b"".join(bytes([number]) * MIB for number in (1, 2, 3, 4)))
    read_hashed = SourceFile.read_hashed
    holding, sent_again, numbers = threading.Event(), threading.Event(), list[int]()

    def slowly(file: SourceFile, view: memoryview, offset: int) -> str:
        digest = read_hashed(file, view, offset)
        if view[0] == 2 and not holding.is_set():
            holding.set()
            sent_again.wait(30)
        return digest

    class Vanishing(StoreWrapper):
        def put_part(self, upload: Upload, number: int, data: Any) -> Any:
            holding.wait(30)
            numbers.append(number)
            if len(numbers) == 1:
                self.inner.abort(upload)
            tag = super().put_part(upload, number, data)
            if number == 2:
                sent_again.set()
            return tag

    monkeypatch.setattr(SourceFile, "read_hashed", slowly)
    (entry,) = send(on=Vanishing(store), workers=2)
    assert content(store, entry) == source.read_bytes()
    assert numbers.count(2) == 1
    assert store.count()["begin"] == 2


# -- earlier attempts -----------------------------------------------------------------------------------------------------


def test_a_file_an_earlier_attempt_finished_is_named_where_it_is(
    store: Any, send: Send, previous: dict[str, FileEntry], tally: Tally
) -> None:
    (entry,) = send(known={"a": Progress(entry=previous["a"])})
    assert entry.key == previous["a"].key
    assert store.count() == {"stat": 1}
    assert (tally.bytes_sent, tally.bytes_reused) == (0, entry.size)


@pytest.mark.parametrize("change", ["delete", "cut"])
def test_unless_it_is_no_longer_there(
    store: Any, send: Send, previous: dict[str, FileEntry], tally: Tally, source: Path, change: str
) -> None:
    if change == "delete":
        store.inner.delete([previous["a"].key])
    else:
        store.inner.put(previous["a"].key, b"cut")
    (entry,) = send(known={"a": Progress(entry=previous["a"])})
    assert entry.key == f"data/{NEW}/a"
    assert tally.bytes_sent == entry.size
    assert content(store, entry) == source.read_bytes()


@pytest.mark.req(7)
def test_parts_of_an_upload_that_the_journal_knows_are_kept(
    store: Any, send: Send, source: Path, tally: Tally, previous: dict[str, FileEntry]
) -> None:
    """Though the bucket tells no hash."""
    begun = store.inner.begin("data/old/a")
    data = source.read_bytes()
    tags = [replace(store.inner.put_part(begun, number, data[(number - 1) * MIB : number * MIB]), hashes={}) for number in (1, 3)]  # fmt: skip
    known = {tag.number: (previous["a"].parts[tag.number - 1], tag) for tag in tags}
    store.heal()
    (entry,) = send(known={"a": Progress(begun, MIB, known)})
    assert entry.key == "data/old/a"
    assert (tally.bytes_sent, tally.bytes_reused, tally.parts_sent) == (3 * MIB // 2, 2 * MIB, 2)
    assert content(store, entry) == data


def test_a_part_that_differs_from_what_was_noted_is_sent(
    store: Any, send: Send, source: Path, tally: Tally, previous: dict[str, FileEntry]
) -> None:
    """Somebody replaced it in the bucket; or the file's part changed since."""
    begun = store.inner.begin("data/old/a")
    data = source.read_bytes()
    tags = [store.inner.put_part(begun, number, data[(number - 1) * MIB : number * MIB]) for number in (1, 2, 3)]
    known = {tag.number: (previous["a"].parts[tag.number - 1], tag) for tag in tags}
    store.inner.put_part(begun, 1, b"z" * MIB)
    change_part(source, 2)
    (entry,) = send(known={"a": Progress(begun, MIB, known)})
    assert tally.parts_sent == 3
    assert content(store, entry) == source.read_bytes()


def test_leftovers_are_trusted_only_where_the_bucket_vouches(
    store: Any, send: Send, source: Path, tally: Tally
) -> None:
    begun = store.inner.begin("data/old/a")
    data = source.read_bytes()
    store.inner.put_part(begun, 1, data[:MIB])
    store.inner.put_part(begun, 2, b"z" * MIB)
    (entry,) = send(leftovers=Leftovers(uploads={"a": begun}, objects={}))
    assert entry.key == "data/old/a"
    assert tally.parts_sent == 3
    assert content(store, entry) == data


def test_an_upload_without_parts_or_that_is_gone_is_not_continued(
    store: Any, send: Send, source: Path, tally: Tally
) -> None:
    empty, gone = store.inner.begin("data/old/a"), Upload(key="data/old/a", id="gone")
    for upload in (empty, gone):
        (entry,) = send(leftovers=Leftovers(uploads={"a": upload}, objects={}))
        assert entry.key == f"data/{NEW}/a"
        assert tally.parts_sent == 4
        assert content(store, entry) == source.read_bytes()


@pytest.mark.parametrize(("there", "sent"), [("same", 0), ("other", 4), ("longer", 4)])
def test_a_finished_object_is_named_only_when_it_is_proven(
    store: Any, send: Send, source: Path, tally: Tally, there: str, sent: int
) -> None:
    data = source.read_bytes()
    found = store.inner.put("data/old/a", {"same": data, "other": b"z" * len(data), "longer": data + b"z"}[there])
    (entry,) = send(leftovers=Leftovers(uploads={}, objects={"a": found}))
    assert tally.parts_sent == sent
    assert (entry.key == "data/old/a") == (there == "same")
    assert content(store, entry) == data


@pytest.mark.req(11)
def test_a_source_that_changes_is_never_sent_as_a_mixture(store: Any, send: Send, source: Path) -> None:
    def change(verb: str, _: str) -> None:
        if verb == "put_part" and store.count()["put_part"] == 2:
            source.write_bytes(b"y" * (7 * MIB // 2))

    store.before = change
    with pytest.raises(SourceChangedError):
        send(workers=1)
    assert "finish" not in store.count()


def test_a_conflict_of_a_copy_means_another_object(store: Any, send: Send, previous: dict[str, FileEntry]) -> None:
    store.fail("copy", ConflictError("replaced"))
    (entry,) = send(previous=previous)
    assert entry.key == f"data/{NEW}/a"
    assert store.count()["put_part"] == 4
