"""How files are cut, and what of an earlier upload is used: one room below the verbs, on a bucket in memory."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ckptsync.config import MIB, Transfer
from ckptsync.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    SourceChangedError,
)
from ckptsync.events import Event, Kind
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import Stat, Store, StoreWrapper, Traits, Upload
from ckptsync.transfer.budget import Buffers
from ckptsync.transfer.journal import Journal, Progress
from ckptsync.transfer.source import scan
from ckptsync.transfer.upload import (
    NOTHING_LEFT,
    Bench,
    Leftovers,
    Tally,
    choose_part_bytes,
    fits,
    upload_files,
)

GIB = 1 << 30
S3 = Traits(min_part_bytes=5 * MIB, max_part_bytes=5 * GIB, max_parts=10_000)
NEW = SnapshotId(2, 7, "bbbbbbbb")

Send = Callable[..., tuple[FileEntry, ...]]
Limited = Callable[..., Store]


# -- where files are cut --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "wanted", "chosen"),
    [
        (0, 16 * MIB, 16 * MIB),
        (1, 16 * MIB, 16 * MIB),
        (10_000 * 16 * MIB, 16 * MIB, 16 * MIB),
        (10_000 * 16 * MIB + 1, 16 * MIB, 17 * MIB),
        (53 * 10**12, 16 * MIB, 5055 * MIB),
        (10_000 * 5 * GIB, 16 * MIB, 5 * GIB),
        (1, 5 * GIB, 5 * GIB),
        (1, 1, 5 * MIB),
    ],
)
def test_parts_are_as_wanted_or_as_large_as_the_store_needs(size: int, wanted: int, chosen: int) -> None:
    assert choose_part_bytes(size, wanted, S3, "a") == chosen


@pytest.mark.parametrize("size", [10_000 * 5 * GIB + 1, 54 * 10**12, 1 << 60])
def test_a_file_larger_than_any_object_is_refused_by_name(size: int) -> None:
    with pytest.raises(ConfigError, match=rf"big\.pt has {size} bytes, more than this store takes"):
        choose_part_bytes(size, 16 * MIB, S3, "big.pt")


def test_a_store_without_multipart_takes_a_file_in_one_put_or_not_at_all() -> None:
    single = Traits(multipart=False, copy=False, copy_part=False, max_put_bytes=100 * MIB)
    assert choose_part_bytes(100 * MIB, 16 * MIB, single, "a") >= 100 * MIB
    assert not fits(16 * MIB, 100 * MIB, single)
    with pytest.raises(ConfigError, match="more than this store takes"):
        choose_part_bytes(100 * MIB + 1, 16 * MIB, single, "a")


@pytest.mark.parametrize(
    ("part_bytes", "size", "ok"),
    [
        (5 * MIB, 1, True),
        (5 * MIB - 1, 1, False),
        (0, 1, False),
        (5 * GIB, 1, True),
        (5 * GIB + 1, 1, False),
        (5 * MIB, 5 * MIB * 10_000, True),
        (5 * MIB, 5 * MIB * 10_000 + 1, False),
    ],
)
def test_an_earlier_part_size_need_not_fit(part_bytes: int, size: int, ok: bool) -> None:  # noqa: FBT001  a column
    assert fits(part_bytes, size, S3) is ok


# -- what is sent ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def tally() -> Tally:
    return Tally()


@pytest.fixture
def send(store: Any, tally: Tally, tmp_path: Path, events: list[Event]) -> Send:
    """Upload `src` as a new attempt."""

    def upload(
        *,
        on: Store = store,
        previous: Mapping[str, FileEntry] | None = None,
        leftovers: Leftovers = NOTHING_LEFT,
        known: Mapping[str, Progress] | None = None,
        snapshot: SnapshotId = NEW,
        **transfer: Any,
    ) -> tuple[FileEntry, ...]:
        journal = Journal(None, tmp_path)
        journal.files.update(known or {})
        tally.bytes_sent = tally.bytes_reused = tally.parts_sent = 0
        options = Transfer(**({"part_bytes": MIB, "workers": 4} | transfer))
        bench = Bench(
            store=on,
            snapshot=snapshot,
            transfer=options,
            buffers=Buffers(options.workers, options.part_bytes),
            journal=journal,
            observer=events.append,
            tally=tally,
        )
        tree = scan(tmp_path / "src", now_ns=0)
        return upload_files(tree.files, bench, previous=previous or {}, leftovers=leftovers)

    return upload


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Where the file to be sent lies: `a`, 3.5 MiB."""
    file = tmp_path / "src" / "a"
    file.parent.mkdir()
    file.write_bytes(os.urandom(7 * MIB // 2))
    return file


def content(store: Any, entry: FileEntry) -> bytes:
    return store.inner.read(entry.key)


def by_path(entries: tuple[FileEntry, ...]) -> dict[str, FileEntry]:
    return {entry.path: entry for entry in entries}


def test_a_file_is_cut_sent_and_described(store: Any, send: Send, source: Path, tally: Tally) -> None:
    source.chmod(0o640)
    (entry,) = send()
    assert (entry.path, entry.size, entry.part_bytes, len(entry.parts)) == ("a", 7 * MIB // 2, MIB, 4)
    assert (entry.mode, entry.mtime_ns) == (0o640, source.stat().st_mtime_ns)
    assert entry.key == f"data/{NEW}/a"
    assert content(store, entry) == source.read_bytes()
    assert (tally.bytes_sent, tally.bytes_reused, tally.parts_sent) == (entry.size, 0, 4)


def test_small_and_empty_files_take_one_put_each(store: Any, send: Send, source: Path) -> None:
    source.write_bytes(b"x" * MIB)
    (source.parent / "empty").touch()
    entries = by_path(send())
    assert store.count() == {"put": 2}
    assert entries["empty"].parts == ()
    assert entries["empty"].part_bytes == 0
    assert content(store, entries["empty"]) == b""
    assert content(store, entries["a"]) == b"x" * MIB


def test_entries_come_sorted_whatever_finished_first(send: Send, source: Path) -> None:
    for name in ("z", "b", "c/d"):
        (source.parent / name).parent.mkdir(exist_ok=True)
        (source.parent / name).write_bytes(name.encode())
    assert [entry.path for entry in send()] == ["a", "b", "c/d", "z"]


def test_a_store_without_multipart_is_sent_whole_files(store: Any, send: Send, source: Path, limited: Limited) -> None:
    (entry,) = send(on=limited(multipart=False, copy=False, copy_part=False))
    assert store.count() == {"put": 1}
    assert len(entry.parts) == 1
    assert content(store, entry) == source.read_bytes()


# -- unchanged content ----------------------------------------------------------------------------------------------------


@pytest.fixture
def previous(send: Send, source: Path, store: Any) -> dict[str, FileEntry]:  # noqa: ARG001  the source is there first
    """The file as an earlier snapshot has it."""
    entries = by_path(send(snapshot=SnapshotId(1, 6, "aaaaaaaa")))
    store.heal()
    return entries


def change_part(source: Path, number: int) -> None:
    with source.open("r+b") as file:
        file.seek((number - 1) * MIB)
        file.write(b"changed")


def test_an_unchanged_file_is_copied_whole(
    store: Any, send: Send, previous: dict[str, FileEntry], tally: Tally, source: Path
) -> None:
    (entry,) = send(previous=previous)
    assert store.count() == {"copy": 1}
    assert entry.key == f"data/{NEW}/a"
    assert (tally.bytes_sent, tally.bytes_reused) == (0, entry.size)
    assert content(store, entry) == source.read_bytes()


def test_unchanged_parts_are_copied(
    store: Any, send: Send, previous: dict[str, FileEntry], tally: Tally, source: Path
) -> None:
    change_part(source, 2)
    (entry,) = send(previous=previous)
    assert store.count() == {"begin": 1, "put_part": 1, "copy_part": 3, "finish": 1}
    assert (tally.bytes_sent, tally.bytes_reused, tally.parts_sent) == (MIB, entry.size - MIB, 1)
    assert content(store, entry) == source.read_bytes()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("size", [3 * MIB, MIB])
def test_a_file_that_lost_whole_parts_has_the_rest_copied(
    store: Any, send: Send, previous: dict[str, FileEntry], tally: Tally, source: Path, size: int
) -> None:
    """All its parts are unchanged, and yet it is not the same file."""
    os.truncate(source, size)
    (entry,) = send(previous=previous)
    assert content(store, entry) == source.read_bytes()
    assert (tally.bytes_sent, tally.bytes_reused) == (0, size)


def test_a_file_that_grew_is_sent_from_where_it_did(
    store: Any, send: Send, previous: dict[str, FileEntry], tally: Tally, source: Path
) -> None:
    with source.open("ab") as file:
        file.write(b"x" * MIB)
    (entry,) = send(previous=previous)
    assert content(store, entry) == source.read_bytes()
    assert (tally.bytes_sent, tally.bytes_reused) == (3 * MIB // 2, 3 * MIB)


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    ("traits", "verbs", "sent"),
    [
        ({"copy": False}, {"begin": 1, "copy_part": 4, "finish": 1}, 0),
        ({"max_copy_bytes": MIB}, {"begin": 1, "copy_part": 4, "finish": 1}, 0),
        ({"copy": False, "copy_part": False}, {"begin": 1, "put_part": 4, "finish": 1}, 4),
        ({"copy": False, "min_part_bytes": 4 * MIB}, {"put": 1}, 1),
    ],
)
def test_a_store_that_copies_less(
    store: Any,
    send: Send,
    previous: dict[str, FileEntry],
    tally: Tally,
    source: Path,
    limited: Limited,
    *,
    traits: dict[str, Any],
    verbs: dict[str, int],
    sent: int,
) -> None:
    (entry,) = send(on=limited(**traits), previous=previous)
    assert store.count() == verbs
    assert tally.parts_sent == sent
    assert content(store, entry) == source.read_bytes()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("copy_part", [True, False])
def test_an_unchanged_file_of_one_part_where_objects_cannot_be_copied(
    store: Any,
    send: Send,
    source: Path,
    tally: Tally,
    limited: Limited,
    *,
    copy_part: bool,
) -> None:
    source.write_bytes(b"x" * 100)
    previous = by_path(send(snapshot=SnapshotId(1, 6, "aaaaaaaa")))
    (entry,) = send(on=limited(copy=False, copy_part=copy_part), previous=previous)
    assert content(store, entry) == b"x" * 100
    assert tally.bytes_sent == (0 if copy_part else 100)


def test_a_changed_part_is_sent_where_parts_cannot_be_copied(
    store: Any, send: Send, previous: dict[str, FileEntry], tally: Tally, source: Path, limited: Limited
) -> None:
    change_part(source, 2)
    (entry,) = send(on=limited(copy_part=False), previous=previous)
    assert (tally.bytes_sent, tally.bytes_reused, tally.parts_sent) == (entry.size, 0, 4)
    assert content(store, entry) == source.read_bytes()


def test_nothing_is_copied_when_that_is_not_wanted(
    store: Any, send: Send, previous: dict[str, FileEntry], tally: Tally
) -> None:
    send(previous=previous, copy_unchanged=False)
    assert store.count() == {"begin": 1, "put_part": 4, "finish": 1}
    assert tally.bytes_reused == 0


def test_nor_when_a_killed_upload_is_continued(
    store: Any, send: Send, previous: dict[str, FileEntry], tally: Tally
) -> None:
    begun = store.begin(f"data/{NEW}/a")
    send(previous=previous, copy_unchanged=False, known={"a": Progress(begun, MIB)})
    assert "copy_part" not in store.count()
    assert tally.parts_sent == 4


@pytest.mark.parametrize("at", ["copy", "copy_part"])
def test_what_was_deleted_meanwhile_is_sent(
    store: Any, send: Send, previous: dict[str, FileEntry], tally: Tally, source: Path, events: list[Event], at: str
) -> None:
    if at == "copy_part":
        change_part(source, 2)
    store.before = lambda verb, _: store.inner.delete([previous["a"].key]) if verb == at else None
    (entry,) = send(previous=previous)
    assert content(store, entry) == source.read_bytes()
    assert tally.bytes_sent >= entry.size
    assert any(event.kind == Kind.NOTICE and "sent anew" in event.message for event in events)
    assert not list(store.inner.uploads(""))


def test_other_refusals_of_a_copy_are_not_hidden(store: Any, send: Send, previous: dict[str, FileEntry]) -> None:
    store.fail("copy", DeniedError("no right to read"))
    with pytest.raises(DeniedError):
        send(previous=previous)


def test_the_previous_snapshots_part_size_is_kept(
    store: Any, send: Send, source: Path, tally: Tally, previous: dict[str, FileEntry]
) -> None:
    """Else nothing could be compared with it."""
    change_part(source, 1)
    (entry,) = send(previous=previous, part_bytes=2 * MIB)
    assert entry.part_bytes == MIB
    assert (tally.bytes_sent, tally.bytes_reused) == (MIB, entry.size - MIB)
    assert content(store, entry) == source.read_bytes()


def test_a_part_size_this_store_does_not_take_is_not_kept(
    store: Any, send: Send, source: Path, tally: Tally, previous: dict[str, FileEntry], limited: Limited
) -> None:
    strict = limited(min_part_bytes=2 * MIB)
    (entry,) = send(on=strict, previous=previous)
    assert entry.part_bytes == 2 * MIB
    assert (tally.bytes_sent, tally.bytes_reused) == (entry.size, 0)
    assert content(store, entry) == source.read_bytes()


def test_times_and_sizes_decide_nothing(store: Any, send: Send, previous: dict[str, FileEntry], source: Path) -> None:
    before = source.stat()
    change_part(source, 3)
    os.utime(source, ns=(before.st_mtime_ns, before.st_mtime_ns))
    (entry,) = send(previous=previous)
    assert content(store, entry) == source.read_bytes()


# -- uploads that vanish --------------------------------------------------------------------------------------------------


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
