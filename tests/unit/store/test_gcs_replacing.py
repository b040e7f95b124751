"""Google Cloud Storage for whoever may create objects and not replace them: a request whose answer was lost may be sent again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ckptsync.errors import ConflictError, DeniedError
from ckptsync.options import Gcs, Http
from ckptsync.store.gcs import GcsStore
from ckptsync.testing.gcs import GcsServer


@pytest.fixture
def server() -> Iterator[GcsServer]:
    with GcsServer(buckets=["bkt"], deny=["storage.objects.delete"], writes_per_s=None) as started:
        yield started


@pytest.fixture
def store(server: GcsServer) -> Iterator[GcsStore]:
    with GcsStore("bkt", "run", Gcs(endpoint_url=server.url), Http(), connections=2) as opened:
        yield opened


def test_the_same_again_is_done_already(store: GcsStore) -> None:
    first = store.put("k", b"content")
    assert store.put("k", b"content") == first
    assert store.put("empty", b"") == store.put("empty", b"")


@pytest.mark.parametrize("other", [b"CONTENT", b"content, and more", b""])
def test_other_content_is_refused_and_the_right_named(store: GcsStore, other: bytes) -> None:
    store.put("k", b"content")
    with pytest.raises(DeniedError, match=r"storage\.objects\.delete to replace an object"):
        store.put("k", other)
    assert store.read("k") == b"content"


@pytest.mark.parametrize("rights_first", [False, True])
def test_a_condition_is_kept_whichever_is_looked_at_first(
    server: GcsServer,
    store: GcsStore,
    rights_first: bool,  # noqa: FBT001  parametrized
) -> None:
    server._objects.rights_first = rights_first
    store.put("k", b"content", if_absent=True)
    with pytest.raises(ConflictError):
        store.put("k", b"content", if_absent=True)


def test_the_same_copy_again_is_done_already(store: GcsStore) -> None:
    source = store.put("source", b"content")
    first = store.copy("source", "k", tag=source.tag)
    assert store.copy("source", "k", tag=source.tag) == first
    assert store.copy("source", "k") == first


def test_another_copy_is_refused(store: GcsStore) -> None:
    store.put("k", b"content")
    store.put("source", b"CONTENT")
    with pytest.raises(DeniedError):
        store.copy("source", "k")
    assert store.read("k") == b"content"


@pytest.mark.parametrize("denied", ["storage.objects.create", "storage.objects.get"])
def test_other_rights_that_are_missing_are_told(server: GcsServer, store: GcsStore, denied: str) -> None:
    store.put("k", b"content")
    server._objects.deny = frozenset({denied, "storage.objects.delete"})
    with pytest.raises(DeniedError):
        store.put("new" if denied.endswith("create") else "k", b"content")
    with pytest.raises(DeniedError):
        store.copy("k", "copied" if denied.endswith("create") else "k")
