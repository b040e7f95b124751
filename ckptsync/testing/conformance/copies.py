"""Copies on the server; use `ckptsync.testing.conformance.StoreConformance`, which has it all."""

# ruff: noqa: S101, D102  a suite is made of asserts, and a test's name is its documentation

from __future__ import annotations

import pytest

from ckptsync.errors import CkptsyncError, ConflictError, NotFoundError, UnsupportedError
from ckptsync.store.base import Store, Tag, Upload
from ckptsync.testing.conformance.uploads import ODD_KEYS, UploadConformance, content, fetch, keys_of, need, part_bytes


class CopyConformance(UploadConformance):
    """What `copy` and `copy_part` must do.

    Attributes:
        copies_are_pinned: False for services that silently ignore the condition of `copy` and `copy_part`.
    """

    copies_are_pinned: bool = True

    # -- whole objects -----------------------------------------------------------------------------------------------

    def test_copy(self, store: Store) -> None:
        need_copy(store)
        data = content(10_000)
        source = store.put("source/object", data)
        made = store.copy("source/object", "copies/object", tag=source.tag)
        assert (made.key, made.size) == ("copies/object", len(data))
        assert made.tag == store.stat("copies/object").tag
        store.delete(["source/object"])
        assert store.read("copies/object") == data

    def test_copy_replaces_and_leaves_its_source_alone(self, store: Store) -> None:
        need_copy(store)
        source = store.put("source", content(100, 1))
        store.put("target", content(200, 2))
        store.copy("source", "target")
        store.put("target", content(300, 3))
        assert store.read("source") == content(100, 1)
        assert store.stat("source").tag == source.tag

    def test_copy_of_an_empty_object(self, store: Store) -> None:
        need_copy(store)
        store.put("source", b"")
        assert store.copy("source", "target").size == 0
        assert store.read("target") == b""

    def test_copy_of_odd_keys(self, store: Store) -> None:
        need_copy(store)
        for number, key in enumerate(ODD_KEYS):
            store.put(key, key.encode())
            store.copy(key, f"{number}/{key}")
            assert store.read(f"{number}/{key}") == key.encode()

    def test_copy_of_what_is_not_there(self, store: Store) -> None:
        need_copy(store)
        with pytest.raises(NotFoundError):
            store.copy("missing", "target")
        assert keys_of(store, "") == []

    def test_pinned_copy_fails_once_the_source_was_replaced(self, store: Store) -> None:
        need_copy(store)
        need(self.copies_are_pinned, "this service ignores conditions on copies")
        old = store.put("source", content(1000, 1))
        store.put("source", content(1000, 2))
        with pytest.raises(ConflictError):
            store.copy("source", "target", tag=old.tag)
        assert keys_of(store, "") == ["source"]

    def test_without_copies_says_so(self, store: Store) -> None:
        need(not store.traits.copy, "the store copies")
        store.put("source", b"")
        with pytest.raises(UnsupportedError):
            store.copy("source", "target")

    # -- parts copied on the server ----------------------------------------------------------------------------------

    def test_copied_ranges_and_sent_parts_make_one_object(self, store: Store) -> None:
        need_copy_part(store)
        size = part_bytes(store)
        source = content(2 * size + 1000, 1)
        tag = put_large(store, "source object", source)
        upload = store.begin("object")
        last = store.copy_part(upload, 3, "source object", 2 * size + 7, 500)
        parts = [
            store.copy_part(upload, 1, "source object", 5, size, tag=tag),
            store.put_part(upload, 2, content(size, 2)),
            last,
        ]
        assert [(part.number, part.size) for part in parts] == [(1, size), (2, size), (3, 500)]
        assert {number: part.tag for number, part in store.parts(upload).items()} == {
            part.number: part.tag for part in parts
        }
        store.finish(upload, parts)
        whole = source[5 : 5 + size] + content(size, 2) + source[2 * size + 7 : 2 * size + 507]
        assert fetch(store, "object", len(whole)) == whole

    def test_copy_part_of_what_is_not_there(self, store: Store) -> None:
        need_copy_part(store)
        store.put("source", content(1000))
        upload = store.begin("object")
        with pytest.raises(NotFoundError):
            store.copy_part(upload, 1, "missing", 0, 10)
        with pytest.raises(CkptsyncError):
            store.copy_part(upload, 1, "source", 900, 200)
        store.abort(upload)
        with pytest.raises(NotFoundError):
            store.copy_part(upload, 1, "source", 0, 10)

    def test_pinned_copy_part_fails_once_the_source_was_replaced(self, store: Store) -> None:
        need_copy_part(store)
        need(self.copies_are_pinned, "this service ignores conditions on copies")
        size = part_bytes(store)
        old = put_large(store, "source", content(size, 1))
        put_large(store, "source", content(size, 2))
        upload = store.begin("object")
        with pytest.raises(ConflictError):
            store.copy_part(upload, 1, "source", 0, size, tag=old)
        store.abort(upload)

    def test_without_copied_parts_says_so(self, store: Store) -> None:
        need(not store.traits.copy_part, "the store copies parts")
        with pytest.raises(UnsupportedError):
            store.copy_part(Upload(key="key", id="id"), 1, "source", 0, 1)


def need_copy(store: Store) -> None:
    """Skip where the store cannot copy."""
    need(store.traits.copy, "the store has no copies")


def need_copy_part(store: Store) -> None:
    """Skip where parts cannot be copied."""
    need(store.traits.multipart and store.traits.copy_part, "the store copies no parts")


def put_large(store: Store, key: str, data: bytes) -> Tag:
    """Put an object and return its version."""
    store.put(key, data)
    return store.stat(key).tag
