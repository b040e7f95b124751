from __future__ import annotations

import uuid

import pytest

from ckptsync.errors import ConfigError, NotFoundError, StoreError
from ckptsync.store import open_store
from ckptsync.store.base import Store
from ckptsync.store.memory import MemoryStore
from ckptsync.testing.clock import FakeClock


def test_a_store_without_a_name_is_private() -> None:
    one, other = MemoryStore(), MemoryStore()
    one.put("key", b"")
    assert list(other.list("")) == []


def test_stores_of_one_name_share_a_bucket() -> None:
    name = uuid.uuid4().hex
    one, same, other = (MemoryStore.named(text) for text in (name, f"/{name}/", f"{name}/run"))
    upload = one.begin("key")
    assert list(same.uploads("")) == [upload]
    same.finish(upload, [one.put_part(upload, 1, b"part")])
    assert one.read("key") == b"part"
    assert list(other.list("")) == []
    assert (one.url, other.url) == (f"memory://{name}", f"memory://{name}/run")


def test_a_url_opens_the_named_bucket() -> None:
    name = uuid.uuid4().hex
    with open_store(f"memory://{name}") as store:
        store.put("key", b"content")
    assert MemoryStore.named(name).read("key") == b"content"


def test_objects_and_uploads_are_dated_by_the_clock() -> None:
    clock = FakeClock(1000.0)
    store = MemoryStore(clock=clock)
    assert store.put("key", b"").modified_s == 1000.0
    clock.advance(5.0)
    assert store.begin("key").begun_s == 1005.0
    assert store.stat("key").modified_s == 1000.0


@pytest.mark.parametrize("key", ["", "/", "/key", "key/"])
def test_keys_no_bucket_should_have_are_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="cannot be used"):
        MemoryStore().put(key, b"")


def test_an_object_made_of_parts_has_the_md5_of_the_whole() -> None:
    store = MemoryStore()
    upload = store.begin("key")
    parts = [store.put_part(upload, number, data) for number, data in ((2, b"world"), (1, b"hello "))]
    assert store.vouches(parts[0].hashes, [b"world"])
    assert store.vouches(store.finish(upload, parts).hashes, [b"hello ", b"world"])


def test_repeated_finish_is_not_settled_by_what_somebody_put_since() -> None:
    store = MemoryStore()
    upload = store.begin("key")
    sent = [store.put_part(upload, 1, b"part")]
    store.finish(upload, sent)
    store.put("key", b"part")
    with pytest.raises(NotFoundError):
        store.finish(upload, sent)


def test_upload_of_another_key_is_unknown() -> None:
    store: Store = MemoryStore()
    upload = store.begin("key")
    wrong = type(upload)(key="other", id=upload.id)
    with pytest.raises(NotFoundError):
        store.put_part(wrong, 1, b"part")


@pytest.mark.parametrize(("offset", "size"), [(-1, 2), (5, 3), (8, 1), (2, -1)])
def test_copied_range_must_lie_within_the_source(offset: int, size: int) -> None:
    store = MemoryStore()
    store.put("source", b"1234567")
    with pytest.raises(StoreError, match="not all within"):
        store.copy_part(store.begin("key"), 1, "source", offset, size)
