from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError

import pytest

from ckptsync.errors import ConflictError, NotFoundError, TransientError
from ckptsync.store.base import Tag
from ckptsync.store.memory import MemoryStore
from ckptsync.store.meter import Metered, pages


def filled(keys: Iterable[str]) -> Metered:
    store = MemoryStore()
    for key in keys:
        store.put(key, b"")
    return Metered(store)


def test_counts_every_verb_and_the_payload() -> None:
    store = Metered(MemoryStore())
    store.put("a", b"12345")
    store.get("a", memoryview(bytearray(10)), offset=1)
    store.stat("a")
    assert store.read("a") == b"12345"
    store.copy("a", "b")
    upload = store.begin("c")
    sent = [store.put_part(upload, 1, memoryview(b"123")), store.copy_part(upload, 2, "a", 0, 2)]
    assert list(store.parts(upload)) == [1, 2]
    assert [found.key for found in store.uploads("")] == ["c"]
    store.finish(upload, sent)
    store.abort(upload)
    assert [found.key for found in store.list("")] == ["a", "b", "c"]
    store.delete(iter(["a", "b"]))
    counts = store.counts()
    verbs = "put get stat read copy begin put_part copy_part parts uploads finish abort list delete"
    assert counts.requests == dict.fromkeys(verbs.split(), 1)
    assert counts.total == 14
    assert counts.sent_bytes == 5 + 3
    assert counts.received_bytes == 4 + 5


def test_payload_is_counted_in_bytes_whatever_the_items() -> None:
    store = Metered(MemoryStore())
    store.put("a", memoryview(bytes(8)).cast("I"))
    assert store.counts().sent_bytes == 8


def test_counts_are_frozen_and_of_one_moment() -> None:
    store = Metered(MemoryStore())
    before = store.counts()
    store.put("a", b"1")
    assert (before.total, before.sent_bytes) == (0, 0)
    assert store.counts().requests == {"put": 1}
    with pytest.raises(FrozenInstanceError):
        before.sent_bytes = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        before.requests["put"] = 3  # type: ignore[index]


def test_failed_requests_count_but_move_nothing() -> None:
    store = filled(["a"])
    with pytest.raises(ConflictError):
        store.put("a", b"123", if_absent=True)
    with pytest.raises(NotFoundError):
        store.get("missing", memoryview(bytearray(3)))
    counts = store.counts()
    assert counts.requests == {"put": 1, "get": 1}
    assert (counts.sent_bytes, counts.received_bytes) == (0, 0)


def test_bytes_of_a_broken_get_count() -> None:
    class Broken(MemoryStore):
        def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
            raise TransientError("reset", received=super().get(key, into, offset=offset, tag=tag))

    store = Metered(Broken())
    store.put("a", b"12345")
    with pytest.raises(TransientError):
        store.get("a", memoryview(bytearray(3)))
    assert store.counts().received_bytes == 3


@pytest.mark.parametrize(("entries", "requests"), [(0, 1), (1, 1), (1000, 1), (1001, 2), (2000, 2), (2001, 3)])
def test_listings_and_deletions_count_per_thousand(entries: int, requests: int) -> None:
    assert pages(entries) == requests
    keys = [f"{number:05d}" for number in range(entries)]
    store = filled(keys)
    assert [found.key for found in store.list("")] == keys
    store.delete(keys)
    assert store.counts().requests == {"list": requests, "delete": requests}


def test_a_listing_that_is_left_early_counts_what_was_asked() -> None:
    store = filled(f"{number:05d}" for number in range(3000))
    found = store.list("")
    assert store.counts().total == 0
    for _ in range(1001):
        next(found)
    assert store.counts().requests == {"list": 2}


def test_counts_of_many_threads_add_up() -> None:
    store = Metered(MemoryStore())
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: store.put(f"{number}", b"12"), range(400)))
    assert (store.counts().requests["put"], store.counts().sent_bytes) == (400, 800)
