"""Parts larger than a buffer go through it in windows: memory follows our options, not the manifest."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptsync.errors import IntegrityError
from ckptsync.events import Event, Kind
from ckptsync.options import Transfer
from ckptsync.snapshot.digest import part_count, part_digest, part_span
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.transfer.budget import Buffers
from ckptsync.transfer.download import download_files
from ckptsync.transfer.reader import Reader, Received
from ckptsync.verbs.compare import same_content

PAGE = 1 << 14
KEY = "data/x/model"


def describe(content: bytes, part_bytes: int) -> FileEntry:
    spans = (
        part_span(number, len(content), part_bytes) for number in range(1, part_count(len(content), part_bytes) + 1)
    )
    parts = tuple(part_digest(content[offset : offset + size]) for offset, size in spans)
    return FileEntry(path="model", size=len(content), key=KEY, part_bytes=part_bytes, parts=parts)


@pytest.fixture
def reader(store: Any, events: list[Event], monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Buffers of four pages; no view may be larger."""
    monkeypatch.setattr(os, "fsync", lambda _: None)
    buffers = Buffers(2, PAGE)
    taken = buffers.take

    def take(size: int) -> Any:
        assert size <= PAGE
        return taken(size)

    monkeypatch.setattr(buffers, "take", take)
    return Reader(store=store, buffers=buffers, observer=events.append, received=Received())


@pytest.mark.parametrize("size", [PAGE - 1, PAGE, PAGE + 1, 5 * PAGE, 5 * PAGE + 7])
@pytest.mark.parametrize("part_bytes", [PAGE // 2, PAGE, PAGE + 1, 3 * PAGE, 1 << 40])
def test_what_comes_back_is_what_went_in(
    store: Any, reader: Reader, tmp_path: Path, size: int, part_bytes: int
) -> None:
    content = os.urandom(size)
    store.put(KEY, content)
    entry = describe(content, part_bytes)
    download_files([entry], tmp_path, reader, Transfer(workers=2))
    assert (tmp_path / "model").read_bytes() == content
    assert (reader.received.bytes_received, reader.received.parts_received) == (size, len(entry.parts))
    assert same_content(tmp_path / "model", entry)


def test_every_window_is_of_one_version(store: Any, reader: Reader, tmp_path: Path) -> None:
    """A file of one part that needs several requests is pinned like one of several parts."""
    content = os.urandom(3 * PAGE)
    store.put(KEY, content)

    def replace(verb: str, key: str) -> None:
        if verb == "get":
            store.heal()
            store.inner.put(key, os.urandom(3 * PAGE))

    store.after = replace
    with pytest.raises(IntegrityError, match="is not what was committed"):
        download_files([describe(content, 1 << 40)], tmp_path, reader, Transfer(workers=1))


@pytest.mark.parametrize("spoiled", [0, PAGE, 3 * PAGE - 1])
def test_a_bad_large_part_is_fetched_once_more_and_then_refused(
    store: Any, reader: Reader, tmp_path: Path, events: list[Event], spoiled: int
) -> None:
    content = bytearray(os.urandom(3 * PAGE))
    entry = describe(bytes(content), 1 << 40)
    content[spoiled] ^= 1
    store.put(KEY, bytes(content))
    with pytest.raises(IntegrityError, match="is not what was committed"):
        download_files([entry], tmp_path, reader, Transfer(workers=1))
    assert [event.kind for event in events] == [Kind.REFETCHED]
    assert not same_content(tmp_path / "model", entry)


def test_a_large_part_that_was_bad_once_is_mended(store: Any, reader: Reader, tmp_path: Path) -> None:
    content = os.urandom(3 * PAGE)
    store.put(KEY, content)
    get, calls = store.get, [0]

    def flip_once(key: str, into: memoryview, **given: Any) -> int:
        count: int = get(key, into, **given)
        calls[0] += 1
        if calls[0] == 2:
            into[5] ^= 1
        return count

    store.get = flip_once
    download_files([describe(content, 1 << 40)], tmp_path, reader, Transfer(workers=1))
    assert (tmp_path / "model").read_bytes() == content
    assert reader.received.parts_refetched == 1


def test_a_killed_restore_keeps_large_parts_that_are_whole(
    store: Any, reader: Reader, tmp_path: Path, killed: type[BaseException]
) -> None:
    content = os.urandom(6 * PAGE)
    store.put(KEY, content)
    entry = describe(content, 3 * PAGE)
    store.fail("get", killed, after=5)  # in the last window of the second part
    with pytest.raises(killed):
        download_files([entry], tmp_path, reader, Transfer(workers=1))
    store.heal()
    download_files([entry], tmp_path, reader, Transfer(workers=1))
    assert (tmp_path / "model").read_bytes() == content
    assert store.count()["get"] == 3
    assert (reader.received.bytes_kept, reader.received.bytes_received) == (3 * PAGE, 6 * PAGE)


def test_an_object_that_ends_early_is_told(store: Any, reader: Reader, tmp_path: Path) -> None:
    content = os.urandom(3 * PAGE)
    store.put(KEY, content[: PAGE + 1])
    entry = describe(content, 1 << 40)
    with pytest.raises(IntegrityError, match=f"has {PAGE + 1} bytes"):
        download_files([entry], tmp_path, reader, Transfer(workers=1))
    with reader.buffers.take(PAGE) as window, pytest.raises(IntegrityError, match=f"ends after {PAGE + 1} of"):
        reader.fetch(entry, 1, window, None)


@pytest.mark.parametrize("length", [3 * PAGE - 1, 3 * PAGE + 1])
def test_other_lengths_are_not_the_same_content(tmp_path: Path, length: int, make_small: Callable[[], None]) -> None:
    make_small()
    content = os.urandom(3 * PAGE + 1)
    entry = describe(content[: 3 * PAGE], 1 << 40)
    (tmp_path / "model").write_bytes(content[:length])
    assert not same_content(tmp_path / "model", entry)
    (tmp_path / "model").write_bytes(content[: 3 * PAGE])
    assert same_content(tmp_path / "model", entry)


@pytest.fixture
def make_small(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Compare in windows of a page."""
    return lambda: monkeypatch.setattr("ckptsync.verbs.compare._WINDOW_BYTES", PAGE)
