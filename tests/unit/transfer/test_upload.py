"""How files are cut, and what of the previous snapshot is copied: one room below the verbs, on a bucket in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptsync.errors import (
    ConfigError,
    CredentialsError,
    DeniedError,
    StoreError,
)
from ckptsync.events import Event, Kind
from ckptsync.options import MIB
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import Store, Traits
from ckptsync.transfer.journal import Progress
from ckptsync.transfer.workbench import Tally, choose_part_bytes, fits

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


def test_a_copy_that_is_refused_is_sent_instead(
    store: Any, send: Send, previous: dict[str, FileEntry], source: Path
) -> None:
    store.fail("copy", DeniedError("no right to read"))
    (entry,) = send(previous=previous)
    assert content(store, entry) == source.read_bytes()


def test_what_sending_would_meet_as_well_is_not_hidden(store: Any, send: Send, previous: dict[str, FileEntry]) -> None:
    store.fail("copy", CredentialsError("expired"))
    with pytest.raises(CredentialsError):
        send(previous=previous)


def test_a_damaged_object_of_the_previous_snapshot_is_not_copied(
    store: Any, send: Send, previous: dict[str, FileEntry], source: Path, tally: Tally
) -> None:
    (before,) = previous.values()
    damaged = bytearray(source.read_bytes())
    damaged[0] ^= 1
    store.inner.put(before.key, bytes(damaged))
    (entry,) = send(previous=previous)
    assert content(store, entry) == source.read_bytes()
    assert tally.bytes_reused == 0


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


# -- what an error names --------------------------------------------------------------------------------------------------


@pytest.mark.req(10)
@pytest.mark.parametrize(
    ("verb", "size", "named"),
    [
        ("put_part", 7 * MIB // 2, "during put_part, file a, part "),
        ("finish", 7 * MIB // 2, "during finish, file a, key"),
        ("put", MIB, "during put, file a, part 1 of 1, key"),
        ("put", 0, "during put, file a, key"),
    ],
)
def test_an_error_names_file_and_part(send: Send, source: Path, store: Any, verb: str, size: int, named: str) -> None:
    source.write_bytes(bytes(size))
    fail_for_good(store, verb)
    with pytest.raises(DeniedError) as caught:
        send(workers=1)
    assert named in str(caught.value)
    assert "3 attempts, request R1" in str(caught.value)


@pytest.mark.req(10)
@pytest.mark.parametrize("verb", ["copy", "copy_part", "stat"])
def test_an_error_of_unchanged_content_names_the_file(
    send: Send, source: Path, store: Any, previous: dict[str, FileEntry], verb: str
) -> None:
    known = {}
    if verb == "copy_part":
        with source.open("r+b") as file:
            file.write(b"changed")
    if verb == "stat":
        known["a"] = Progress(entry=previous["a"])
    fail_for_good(store, verb, CredentialsError)
    with pytest.raises(CredentialsError) as caught:
        send(previous=previous, known=known, workers=1)
    assert f"during {verb}, file a, {'part ' if verb == 'copy_part' else 'key'}" in str(caught.value)


def fail_for_good(store: Any, verb: str, kind: type[StoreError] = DeniedError) -> None:
    """Let a verb fail as the store's retries leave it."""

    def before(called: str, key: str) -> None:
        if called == verb:
            raise kind("no", op=called, key=key, attempts=3, request_id="R1")

    store.before = before
