"""Files out of a bucket: every part hashed before it is written, what is there already not fetched."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.descriptors import open_below

from ckptsync.errors import DeniedError, DiskError, IntegrityError, TransientError
from ckptsync.events import Event, Kind
from ckptsync.options import Transfer
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.transfer.budget import Buffers
from ckptsync.transfer.download import download_files
from ckptsync.transfer.reader import Reader, Received

PART = 1 << 16
DATA = os.urandom(4 * PART + 100)

Fetch = Callable[..., Received]


def describe(path: str, data: bytes, **changed: Any) -> FileEntry:
    parts = tuple(part_digest(data[offset : offset + PART]) for offset in range(0, len(data), PART))
    facts: dict[str, Any] = {"size": len(data), "key": f"data/{path}", "part_bytes": PART, "parts": parts}
    return FileEntry(path=path, **(facts | changed))


@pytest.fixture
def entry(store: Any) -> FileEntry:
    """A file of 5 parts, in the bucket."""
    store.inner.put("data/model", DATA)
    return describe("model", DATA)


@pytest.fixture
def fetch(store: Any, events: list[Event], tmp_path: Path) -> Fetch:
    """Download into the folder `out`."""

    def call(*entries: FileEntry, workers: int = 3, buffer_bytes: int = PART) -> Received:
        received = Received()
        (tmp_path / "out").mkdir(exist_ok=True)
        reader = Reader(store=store, buffers=Buffers(workers, buffer_bytes), observer=events.append, received=received)
        download_files(entries, tmp_path / "out", reader, Transfer(workers=workers))
        return received

    return call


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def counts(received: Received) -> tuple[int, int, int, int]:
    return received.bytes_received, received.bytes_kept, received.parts_received, received.parts_refetched


def test_files_come_with_content_mode_and_time(store: Any, fetch: Fetch, entry: FileEntry, out: Path) -> None:
    store.inner.put("data/small", b"x")
    small = describe("small", b"x", mode=0o4755, mtime_ns=1_600_000_000_123_456_789)
    empty = describe("empty", b"", part_bytes=0, mode=0o400)
    received = fetch(entry, small, empty)
    assert counts(received) == (len(DATA) + 1, 0, 6, 0)
    assert (out / "model").read_bytes() == DATA
    assert (out / "empty").read_bytes() == b""
    found = (out / "small").stat()
    assert (found.st_mode & 0o7777, found.st_mtime_ns) == (0o755, 1_600_000_000_123_456_789)
    assert (out / "empty").stat().st_mode & 0o7777 == 0o400
    assert open_below(out) == []


@pytest.mark.req(33)
def test_all_parts_come_from_one_version(store: Any, fetch: Fetch, entry: FileEntry) -> None:
    store.inner.put("data/small", b"x")
    fetch(entry, describe("small", b"x"))
    assert store.count() == {"stat": 1, "get": 6}


@pytest.mark.req(33)
def test_the_version_that_was_committed_is_expected_without_asking(store: Any, fetch: Fetch, entry: FileEntry) -> None:
    fetch(msgspec.structs.replace(entry, tag=store.inner.stat(entry.key).tag))
    assert store.count() == {"get": 5}


@pytest.mark.req(33)
def test_in_a_bucket_that_was_moved_versions_are_looked_up_once(
    store: Any, fetch: Fetch, entry: FileEntry, out: Path
) -> None:
    moved = msgspec.structs.replace(entry, tag="of another bucket")
    fetch(moved, workers=1)
    assert (out / "model").read_bytes() == DATA
    assert store.count() == {"get": 6, "stat": 1}


@pytest.mark.req(17)
def test_in_a_bucket_that_was_moved_a_bad_part_is_fetched_once_more(
    store: Any, fetch: Fetch, entry: FileEntry, events: list[Event]
) -> None:
    good = store.inner.get
    bad = [True]

    def flipped(key: str, into: memoryview, **options: Any) -> int:
        count: int = good(key, into, **options)
        if bad:
            into[0] ^= bad.pop()
        return count

    store.inner.get = flipped
    received = fetch(msgspec.structs.replace(entry, tag="of another bucket"), workers=1)
    assert received.parts_refetched == 1
    assert len([event for event in events if event.kind == Kind.REFETCHED]) == 1


@pytest.mark.parametrize("tag", ["a\r\nx-injected: 1", "größe", "x" * 300])
def test_what_cannot_be_a_version_is_not_sent_as_one(store: Any, fetch: Fetch, entry: FileEntry, tag: str) -> None:
    fetch(msgspec.structs.replace(entry, tag=tag))
    assert store.count() == {"stat": 1, "get": 5}


@pytest.mark.req(33)
def test_an_object_replaced_meanwhile_is_found_out(store: Any, fetch: Fetch, entry: FileEntry, out: Path) -> None:
    def replace(verb: str, _: str) -> None:
        if verb == "get" and store.count()["get"] == 2:
            store.inner.put("data/model", DATA[::-1])

    store.before = replace
    with pytest.raises(IntegrityError, match="part 2 of 5 of model is not what was committed"):
        fetch(entry, workers=1)
    assert (out / "model").read_bytes()[:PART] == DATA[:PART]
    assert open_below(out) == []


def test_an_object_replaced_meanwhile_by_the_same_content_is_as_good(
    store: Any, fetch: Fetch, entry: FileEntry, out: Path
) -> None:
    def replace(verb: str, key: str) -> None:
        if verb == "get" and store.count()["get"] == 2:
            store.inner.put(key, DATA)

    store.before = replace
    fetch(entry, workers=1)
    assert (out / "model").read_bytes() == DATA


def test_an_object_replaced_again_and_again_is_found_out(store: Any, fetch: Fetch, entry: FileEntry) -> None:
    def replace(verb: str, key: str) -> None:
        if verb == "get":
            store.inner.put(key, DATA)

    store.before = replace
    with pytest.raises(IntegrityError, match="model was replaced in the bucket"):
        fetch(entry, workers=1)


@pytest.mark.parametrize("parts", [1, 5])
def test_a_missing_object_is_named(store: Any, fetch: Fetch, entry: FileEntry, parts: int) -> None:
    if parts == 1:
        entry = describe("model", b"x")
    store.inner.delete(["data/model"])
    with pytest.raises(IntegrityError, match=r"model is missing from the bucket \(key 'data/model'\)"):
        fetch(entry)


def test_one_that_disappears_meanwhile_is_named(store: Any, fetch: Fetch, entry: FileEntry) -> None:
    store.before = lambda verb, _: store.inner.delete(["data/model"]) if verb == "get" else None
    with pytest.raises(IntegrityError, match="model is missing"):
        fetch(entry)


@pytest.mark.parametrize("data", [DATA[:-1], DATA + b"x", b""])
def test_an_object_of_another_size_is_named(store: Any, fetch: Fetch, entry: FileEntry, data: bytes) -> None:
    store.inner.put("data/model", data)
    with pytest.raises(IntegrityError, match=rf"model has {len(data)} bytes in the bucket instead of {len(DATA)}"):
        fetch(entry)
    assert store.count()["get"] == 0


def test_a_short_object_of_one_part_is_named(store: Any, fetch: Fetch) -> None:
    store.inner.put("data/small", b"abc")
    with pytest.raises(IntegrityError, match="part 1 of 1 of small ends after 3 of 5 bytes"):
        fetch(describe("small", b"abcde"))


@pytest.mark.parametrize("there", [b"abcdefgh", b"xyz", b"abcde", b""])
def test_a_small_file_that_is_there_already_ends_as_it_should(
    store: Any, fetch: Fetch, out: Path, there: bytes
) -> None:
    store.inner.put("data/small", b"abcde")
    out.mkdir()
    (out / "small").write_bytes(there)
    fetch(describe("small", b"abcde"))
    assert (out / "small").read_bytes() == b"abcde"


def flip(store: Any, *, times: int) -> None:
    """Let a bit of the first bytes read be another, so many times."""
    real, left = store.inner.get, [times]

    def get(key: str, into: memoryview, *, offset: int = 0, tag: Any = None) -> int:
        count: int = real(key, into, offset=offset, tag=tag)
        if left[0] and offset == PART:
            left[0] -= 1
            into[0] ^= 1
        return count

    store.inner.get = get


@pytest.mark.req(17)
def test_a_part_flipped_on_the_wire_is_fetched_once_more(
    store: Any, fetch: Fetch, entry: FileEntry, out: Path, events: list[Event]
) -> None:
    flip(store, times=1)
    assert counts(fetch(entry)) == (len(DATA), 0, 5, 1)
    assert (out / "model").read_bytes() == DATA
    (told,) = [event for event in events if event.kind == Kind.REFETCHED]
    assert told.message == "part 2 of model is not what was committed; it is fetched once more"


@pytest.mark.req(17)
def test_one_bad_twice_is_named_and_never_written(store: Any, fetch: Fetch, entry: FileEntry, out: Path) -> None:
    flip(store, times=2)
    with pytest.raises(IntegrityError, match=r"part 2 of 5 of model is not what was committed \(key 'data/model'\)"):
        fetch(entry, workers=1)
    assert (out / "model").read_bytes()[PART : 2 * PART] == bytes(PART)
    assert store.count()["get"] == 3


@pytest.mark.req(32)
def test_refusals_are_not_mistaken_for_damage(store: Any, fetch: Fetch, entry: FileEntry) -> None:
    for verb in ("stat", "get"):
        store.fail(verb, DeniedError("no right to read"))
        with pytest.raises(DeniedError):
            fetch(entry)


# -- continued ------------------------------------------------------------------------------------------------------------


@pytest.mark.req(33)
@pytest.mark.parametrize("after", [0, 1, 4])
def test_after_a_kill_only_the_rest_is_fetched(
    store: Any, fetch: Fetch, entry: FileEntry, out: Path, killed: type[BaseException], after: int
) -> None:
    store.fail("get", killed, after=after)
    with pytest.raises(killed):
        fetch(entry, workers=1)
    store.heal()
    received = fetch(entry)
    assert store.count()["get"] == 5 - after
    assert (received.bytes_kept, received.parts_received) == (after * PART, 5 - after)
    assert (out / "model").read_bytes() == DATA


def test_a_file_that_is_there_is_not_fetched_again(
    store: Any, fetch: Fetch, entry: FileEntry, events: list[Event]
) -> None:
    fetch(entry)
    store.heal()
    events.clear()
    assert counts(fetch(entry)) == (0, len(DATA), 0, 0)
    assert store.count()["get"] == 0
    assert sum(event.bytes for event in events if event.kind == Kind.SKIPPED) == len(DATA)


def test_holes_are_recognised_without_reading_them(
    store: Any,
    fetch: Fetch,
    entry: FileEntry,
    out: Path,
    killed: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.fail("get", killed, after=2)
    with pytest.raises(killed):
        fetch(entry, workers=1)
    store.heal()
    read: list[int] = []
    preadv = os.preadv

    def noted(descriptor: int, views: list[memoryview], offset: int) -> int:
        read.append(offset)
        return preadv(descriptor, views, offset)

    monkeypatch.setattr(os, "preadv", noted)
    fetch(entry, workers=1)
    assert read == [0, PART]
    assert (out / "model").read_bytes() == DATA


def test_where_holes_cannot_be_told_parts_are_read(
    fetch: Fetch, entry: FileEntry, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> int:
        raise OSError(22, "Invalid argument")

    out.mkdir()
    (out / "model").write_bytes(DATA[:PART])
    monkeypatch.setattr(os, "lseek", unknown)
    assert counts(fetch(entry)) == (len(DATA) - PART, PART, 4, 0)


@pytest.mark.parametrize("there", [b"x" * (5 * PART), DATA[:PART] + b"y" * PART, DATA + b"tail", b""])
def test_whatever_is_there_already_ends_as_it_should(fetch: Fetch, entry: FileEntry, out: Path, there: bytes) -> None:
    out.mkdir()
    (out / "model").write_bytes(there)
    (out / "model").chmod(0o400)
    fetch(entry)
    assert (out / "model").read_bytes() == DATA
    assert (out / "model").stat().st_mode & 0o777 == 0o644


def test_a_link_in_the_way_is_not_followed(fetch: Fetch, entry: FileEntry, out: Path, tmp_path: Path) -> None:
    out.mkdir()
    (tmp_path / "precious").write_bytes(b"precious")
    (out / "model").symlink_to(tmp_path / "precious")
    with pytest.raises(DiskError, match="symbolic link"):
        fetch(entry)
    assert (tmp_path / "precious").read_bytes() == b"precious"


# -- the disk -------------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_a_disk_error_and_nothing_stays_open(
    fetch: Fetch, entry: FileEntry, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskError, match=r"cannot write .*model: No space left on device"):
        fetch(entry)
    assert open_below(out) == []


def test_writes_that_come_up_short_are_continued(
    fetch: Fetch, entry: FileEntry, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, view, offset: pwrite(fd, view[:1000], offset))
    fetch(entry)
    assert (out / "model").read_bytes() == DATA


def test_files_are_durable_when_it_returns(fetch: Fetch, entry: FileEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    fetch(entry, describe("empty", b"", part_bytes=0))
    assert sorted(synced) == ["empty", "model"]


def test_parts_larger_than_a_buffer_are_fetched_all_the_same(fetch: Fetch, entry: FileEntry, out: Path) -> None:
    fetch(entry, buffer_bytes=PART // 8)
    assert (out / "model").read_bytes() == DATA


def test_after_an_interrupt_late_threads_write_into_nobodys_file(
    store: Any, fetch: Fetch, entry: FileEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C does not wait for them: the number they hold must not come to mean another file."""
    began, go_on, workers = threading.Event(), threading.Event(), list[threading.Thread]()
    join = threading.Thread.join

    def wait(verb: str, _: str) -> None:
        if verb == "get":
            began.set()
            go_on.wait(30)

    def interrupted(thread: threading.Thread, timeout: float | None = None) -> None:
        if not workers:
            workers.append(thread)
            began.wait(30)
            raise KeyboardInterrupt
        join(thread, timeout)

    store.before = wait
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(entry, workers=1)
    with (tmp_path / "precious").open("wb") as precious:
        numbers = [os.dup(precious.fileno()) for _ in range(8)]
        go_on.set()
        join(workers[0], 30)
        for number in numbers:
            os.close(number)
    assert (tmp_path / "precious").read_bytes() == b""


def test_a_reader_counts_for_many_threads() -> None:
    received = Received()
    threads = [
        threading.Thread(target=lambda: [received.add(received=1, kept=2) for _ in range(1000)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts(received) == (4000, 8000, 4000, 0)


def test_trouble_of_the_network_keeps_what_was_fetched(store: Any, fetch: Fetch, entry: FileEntry, out: Path) -> None:
    store.fail("get", TransientError("reset"), after=3)
    with pytest.raises(TransientError):
        fetch(entry, workers=1)
    assert (out / "model").read_bytes()[: 3 * PART] == DATA[: 3 * PART]


@pytest.mark.req(10)
def test_an_error_names_file_and_part(store: Any, fetch: Fetch, entry: FileEntry) -> None:
    def before(verb: str, key: str) -> None:
        if store.count()["get"] == 2:
            raise TransientError("slow", op=verb, key=key, attempts=10, request_id="R1")

    store.before = before
    with pytest.raises(TransientError) as caught:
        fetch(entry, workers=1)
    assert str(caught.value) == (
        "slow (during get, file model, part 2 of 5, key 'data/model', 10 attempts, request R1)"
    )


@pytest.mark.req(10)
def test_an_error_before_the_first_part_names_the_file(store: Any, fetch: Fetch, entry: FileEntry) -> None:
    store.fail("stat", DeniedError("no", op="stat"))
    with pytest.raises(DeniedError, match=r"during stat, file model\)"):
        fetch(entry)
