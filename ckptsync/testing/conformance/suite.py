"""The suite every store must pass, for stores of other people too.

    # conftest.py: pytest shows the values of a failed assert only in modules it is told about
    pytest.register_assert_rewrite("ckptsync.testing")

    # test_mine.py
    class TestMine(StoreConformance):
        @pytest.fixture
        def make_store(self):
            place = fresh_empty_place()
            yield lambda: MyStore(place)
            place.remove()

Every sentence of `ckptsync.store.base` is tested here, or in the modules of copies and uploads, which this includes.
"""

# ruff: noqa: S101, D102  a suite is made of asserts, and a test's name is its documentation

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from ckptsync.errors import ConflictError, NotFoundError, TransientError
from ckptsync.store.base import Buffer, Stat, Store, Tag
from ckptsync.testing.conformance.copies import CopyConformance
from ckptsync.testing.conformance.uploads import ODD_KEYS, content, fetch, keys_of, need

DAY_S = 86_400.0


class StoreConformance(CopyConformance):
    """Subclass it, override `make_store`, and set what differs for your service.

    Attributes:
        many_keys: objects put to see listings and deletions of several pages; 0 leaves those tests out.
        race_threads: how many writers race for one key.
        race_rounds: how often they do.
    """

    many_keys: int = 1005
    race_threads: int = 16
    race_rounds: int = 5

    # -- whole objects -----------------------------------------------------------------------------------------------

    def test_says_what_it_is(self, store: Store) -> None:
        assert store.url
        traits = store.traits
        assert 1 <= traits.min_part_bytes <= traits.max_part_bytes
        assert traits.max_parts >= 1
        assert traits.max_put_bytes >= 1

    def test_put_then_stat_then_get(self, store: Store) -> None:
        data = content(10_000)
        put = store.put("folder/object", data)
        found = store.stat("folder/object")
        assert (put.key, put.size) == ("folder/object", len(data))
        assert (found.key, found.size) == ("folder/object", len(data))
        assert found.tag
        assert found.tag == put.tag
        assert abs(found.modified_s - time.time()) < DAY_S
        assert fetch(store, "folder/object", len(data)) == data

    def test_tells_only_true_hashes(self, store: Store) -> None:
        data = content(10_000)
        hashes = store.put("object", data).hashes or store.stat("object").hashes
        if "md5" in hashes:
            assert hashes["md5"] == hashlib.md5(data, usedforsecurity=False).hexdigest()
            assert store.vouches(hashes, [data])
        assert not store.vouches(hashes, [content(10_000, 1)])

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: memoryview(b"xx" + data)[2:]])
    def test_put_takes_any_buffer(self, store: Store, kind: Callable[[bytes], Buffer]) -> None:
        store.put("object", kind(content(1000)))
        assert store.read("object") == content(1000)

    def test_put_keeps_no_view_of_its_data(self, store: Store) -> None:
        buffer = bytearray(content(1000))
        store.put("object", memoryview(buffer))
        buffer[:] = bytes(1000)
        assert store.read("object") == content(1000)
        buffer.extend(b"resizable, so nobody holds a view")

    def test_put_replaces(self, store: Store) -> None:
        old = store.put("object", content(1000, 1))
        new = store.put("object", content(700, 2))
        assert new.tag != old.tag
        assert store.read("object") == content(700, 2)
        assert [found.size for found in store.list("")] == [700]

    def test_empty_object(self, store: Store) -> None:
        assert store.put("empty", b"").size == 0
        assert store.stat("empty").size == 0
        assert fetch(store, "empty", 10) == b""
        assert store.read("empty") == b""
        assert [found.key for found in store.list("")] == ["empty"]

    @pytest.mark.parametrize("key", ODD_KEYS, ids=lambda key: ascii(key[:24]))
    def test_odd_keys(self, store: Store, key: str) -> None:
        data = key.encode()
        store.put(key, data)
        assert store.stat(key).key == key
        assert store.read(key) == data
        assert [found.key for found in store.list("")] == [key]
        assert [found.key for found in store.list(key)] == [key]
        store.delete([key])
        assert list(store.list("")) == []

    def test_keys_that_differ_only_when_decoded(self, store: Store) -> None:
        keys = ["a b", "a%20b", "a+b", "a%2Bb", "a%b"]
        for key in keys:
            store.put(key, key.encode())
        assert [found.key for found in store.list("a")] == sorted(keys)
        assert [store.read(key).decode() for key in keys] == keys

    def test_second_client_sees_what_the_first_wrote(self, store: Store, make_store: Callable[[], Store]) -> None:
        store.put("object", b"one")
        with make_store() as other:
            assert other.read("object") == b"one"
            other.put("object", b"other")
        assert store.read("object") == b"other"

    def test_close_may_be_called_again(self, make_store: Callable[[], Store]) -> None:
        with make_store() as store:
            store.put("object", b"one")
        store.close()
        store.close()

    # -- ranges and versions -----------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("offset", "size", "count"),
        [(0, 1000, 1000), (0, 10, 10), (500, 100, 100), (999, 1, 1), (990, 100, 10), (1000, 10, 0), (5000, 10, 0)],
    )
    def test_get_of_a_range(self, store: Store, offset: int, size: int, count: int) -> None:
        data = content(1000)
        tag = store.put("object", data).tag
        for pin in (None, tag, Tag("")):
            buffer = bytearray(b"\xee" * (size + 20))
            assert store.get("object", memoryview(buffer)[10 : 10 + size], offset=offset, tag=pin) == count
            assert buffer[10 : 10 + count] == data[offset : offset + count]
            assert buffer[:10] == b"\xee" * 10
            assert buffer[10 + size :] == b"\xee" * 10

    def test_get_keeps_no_view(self, store: Store) -> None:
        store.put("object", content(1000))
        buffer = bytearray(1000)
        store.get("object", memoryview(buffer))
        buffer.extend(b"resizable, so nobody holds a view")

    def test_pinned_get_fails_once_the_object_was_replaced(self, store: Store) -> None:
        old = store.put("object", content(1000, 1))
        store.put("object", content(1000, 2))
        with pytest.raises(ConflictError):
            store.get("object", memoryview(bytearray(1000)), tag=old.tag)

    def test_pinned_get_fails_once_the_object_is_gone(self, store: Store) -> None:
        old = store.put("object", content(1000))
        store.delete(["object"])
        with pytest.raises((NotFoundError, ConflictError)):
            store.get("object", memoryview(bytearray(1000)), tag=old.tag)

    def test_what_is_not_there(self, store: Store) -> None:
        store.put("folder/object", b"here")
        for key in ("missing", "folder", "folder/missing", "folder/object/below", "folder/obj"):
            with pytest.raises(NotFoundError):
                store.stat(key)
            with pytest.raises(NotFoundError):
                store.get(key, memoryview(bytearray(10)))
            with pytest.raises(NotFoundError):
                store.read(key)

    # -- conditional puts --------------------------------------------------------------------------------------------

    def test_put_if_absent(self, store: Store) -> None:
        need(store.traits.conditional_put, "the store has no conditional puts")
        store.put("object", b"first", if_absent=True)
        for attempt in (b"first", b"second"):
            with pytest.raises(ConflictError):
                store.put("object", attempt, if_absent=True)
        assert store.read("object") == b"first"
        store.delete(["object"])
        store.put("object", b"third", if_absent=True)
        assert store.read("object") == b"third"

    def test_put_if_absent_has_one_winner(self, store: Store) -> None:
        need(store.traits.conditional_put, "the store has no conditional puts")
        for number in range(self.race_rounds):
            key, start = f"race/{number}", threading.Barrier(self.race_threads)

            def run(racer: int, key: str = key, start: threading.Barrier = start) -> int | None:
                start.wait()
                try:
                    persist(partial(store.put, key, f"racer {racer}".encode(), if_absent=True))
                except ConflictError:
                    return None
                return racer

            with ThreadPoolExecutor(self.race_threads) as threads:
                winners = [racer for racer in threads.map(run, range(self.race_threads)) if racer is not None]
            assert len(winners) == 1
            assert store.read(key) == f"racer {winners[0]}".encode()

    # -- listings ----------------------------------------------------------------------------------------------------

    def test_list_of_nothing(self, store: Store) -> None:
        assert list(store.list("")) == []
        assert list(store.list("folder/")) == []
        assert list(store.list("", limit=5, after="a")) == []

    def test_list_is_in_order_of_utf8(self, store: Store) -> None:
        keys = ["a-b", "a.b", "a/b", "a/b-c", "a/c/d", "a0", "aA", "aé", "b/z", "b/ü", "b/\uffe6", "b/🙂"]
        for key in reversed(keys):
            store.put(key, b"")
        assert keys == sorted(keys, key=str.encode)
        assert [found.key for found in store.list("")] == keys
        for index, key in enumerate(keys):
            assert [found.key for found in store.list("", after=key)] == keys[index + 1 :]
            assert [found.key for found in store.list("", limit=index + 1)] == keys[: index + 1]

    def test_list_tells_what_stat_tells(self, store: Store) -> None:
        store.put("folder/one", content(10))
        store.put("folder/two", content(2000))
        for found in store.list("folder/"):
            known = store.stat(found.key)
            assert found.size == known.size
            assert found.tag in {"", known.tag}
            assert abs(found.modified_s - known.modified_s) < 1.0

    def test_prefixes_keep_runs_apart(self, store: Store) -> None:
        for key in ("run-1/a", "run-1/b/c", "run-10/a", "run-1-old/a", "run"):
            store.put(key, b"")
        assert keys_of(store, "run-1/") == ["run-1/a", "run-1/b/c"]
        assert keys_of(store, "run-1") == ["run-1-old/a", "run-1/a", "run-1/b/c", "run-10/a"]
        assert keys_of(store, "run-1/b") == ["run-1/b/c"]
        assert keys_of(store, "run-2/") == []
        assert keys_of(store, "un-1/") == []
        store.delete(["run-1/a"])
        assert keys_of(store, "run-10/") == ["run-10/a"]

    @pytest.mark.parametrize(
        ("limit", "after", "expected"),
        [
            (2, "", ["p/a", "p/b/1"]),
            (2, "p/a", ["p/b/1", "p/b/2"]),
            (1, "p/b/1", ["p/b/2"]),
            (None, "p/b", ["p/b/1", "p/b/2", "p/c"]),
            (None, "p/b/", ["p/b/1", "p/b/2", "p/c"]),
            (None, "p/b/15", ["p/b/2", "p/c"]),
            (9, "p/b0", ["p/c"]),
            (9, "p/c", []),
            (9, "q", []),
            (1, "a", ["p/a"]),
        ],
    )
    def test_list_limit_and_after(self, store: Store, limit: int | None, after: str, expected: list[str]) -> None:
        for key in ("o", "p/a", "p/b/1", "p/b/2", "p/c", "q/a"):
            store.put(key, b"")
        assert [found.key for found in store.list("p/", limit=limit, after=after)] == expected

    def test_more_keys_than_a_page(self, store: Store) -> None:
        need(self.many_keys > 0, "left out for this store")
        keys = [f"many/{number:05d}" for number in range(self.many_keys)]
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda key: persist(partial(store.put, key, b"")), keys))
        store.put("other", b"stays")
        assert keys_of(store, "many/") == keys
        assert [found.key for found in store.list("many/", limit=len(keys) - 2)] == keys[:-2]
        assert [found.key for found in store.list("many/", after=keys[2])] == keys[3:]
        assert next(iter(store.list("many/"))).key == keys[0]
        store.delete(key for key in [*keys, "many/missing"])
        assert keys_of(store, "") == ["other"]

    # -- deletions ---------------------------------------------------------------------------------------------------

    def test_delete_is_idempotent(self, store: Store) -> None:
        store.put("a", b"")
        store.put("folder/b", b"")
        store.put("folder/c", b"")
        store.delete([])
        for _ in range(2):
            store.delete(["a", "missing", "folder/b", "folder/missing/deeper"])
        assert keys_of(store, "") == ["folder/c"]

    def test_delete_of_a_folder_deletes_nothing(self, store: Store) -> None:
        store.put("folder/object", b"here")
        store.delete(["folder"])
        assert store.read("folder/object") == b"here"

    def test_deleted_key_can_be_used_again(self, store: Store) -> None:
        store.put("folder/object", b"one")
        store.delete(["folder/object"])
        with pytest.raises(NotFoundError):
            store.stat("folder/object")
        store.put("folder/object", b"two")
        assert store.read("folder/object") == b"two"

    # -- many threads ------------------------------------------------------------------------------------------------

    def test_many_threads_at_once(self, store: Store) -> None:
        def work(worker: int) -> None:
            for turn in range(3):
                key, data = f"worker-{worker}/{turn}", content(20_000, worker * 10 + turn)
                tag = persist(partial(store.put, key, data)).tag
                buffer = bytearray(len(data))
                assert store.get(key, memoryview(buffer), tag=tag) == len(data)
                assert buffer == data
                assert keys_of(store, f"worker-{worker}/") == [key]
                store.delete([key])

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(work, range(8)))
        assert keys_of(store, "") == []


def persist(request: Callable[[], Stat]) -> Stat:
    """Ask again while the service says that it may help, for stores that are tested without `Retrying` around them."""
    for _ in range(50):
        try:
            return request()
        except TransientError as error:
            time.sleep(error.retry_after_s or 0.02)
    return request()
