"""Every store of ours, through the suite we ship.

CKPTSYNC_TEST_URLS, run URLs with commas between, adds real buckets; each test works below a prefix of its own there, and
cleans up.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from ckptsync.options import S3, Gcs, Http
from ckptsync.store import open_store
from ckptsync.store.base import Store
from ckptsync.store.fsspec import FsspecStore
from ckptsync.store.gcs import GcsStore
from ckptsync.store.local import LocalStore
from ckptsync.store.memory import MemoryStore
from ckptsync.store.s3 import S3Store
from ckptsync.testing.conformance import StoreConformance
from ckptsync.testing.gcs import GcsServer
from ckptsync.testing.servers import Server, ceph_rgw, create_bucket, localstack, ministack

Opener = Callable[[], Store]

BUCKET = "conformance"
CONNECTIONS = 20
URLS = [url for url in os.environ.get("CKPTSYNC_TEST_URLS", "").split(",") if url]


class TestMemory(StoreConformance):
    @pytest.fixture
    def make_store(self) -> Opener:
        return partial(MemoryStore.named, uuid.uuid4().hex)


class TestLocal(StoreConformance):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Opener:
        return partial(LocalStore, tmp_path / "not" / "yet")


class TestFsspecMemory(StoreConformance):
    many_keys = 300
    many_parts = 100

    @pytest.fixture
    def make_store(self) -> Opener:
        return partial(FsspecStore, f"memory://{uuid.uuid4().hex}/run")


class TestFsspecFile(StoreConformance):
    many_keys = 300
    many_parts = 100

    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Opener:
        return partial(FsspecStore, f"local://{tmp_path}/run")


@pytest.fixture(scope="module")
def s3_server() -> Iterator[Server]:
    with ministack() as server:
        create_bucket(server, BUCKET)
        yield server


@pytest.mark.xdist_group("conformance-s3")
class TestS3(StoreConformance):
    race_rounds = 3

    @pytest.fixture
    def make_store(self, s3_server: Server, monkeypatch: pytest.MonkeyPatch) -> Opener:
        for name, value in s3_server.environ.items():
            monkeypatch.setenv(name, value)
        return partial(S3Store, BUCKET, f"run {uuid.uuid4().hex}", S3(), Http(), connections=CONNECTIONS)


@pytest.fixture(scope="module")
def localstack_server() -> Iterator[Server]:
    with localstack() as server:
        create_bucket(server, BUCKET)
        yield server


@pytest.mark.slow
class TestLocalStack(StoreConformance):
    """The loopback service that is right about all checksums."""

    many_keys = 0
    many_parts = 0
    race_rounds = 1

    @pytest.fixture
    def make_store(self, localstack_server: Server, monkeypatch: pytest.MonkeyPatch) -> Opener:
        for name, value in localstack_server.environ.items():
            monkeypatch.setenv(name, value)
        # it compares markers with encoded keys, so a prefix that needs encoding breaks its listings
        return partial(S3Store, BUCKET, f"run-{uuid.uuid4().hex}", S3(), Http(), connections=CONNECTIONS)

    @pytest.mark.xfail(
        reason="LocalStack compares markers with encoded keys, so other than ASCII keys are out of order"
    )
    def test_list_is_in_order_of_utf8(self, store: Store) -> None:
        super().test_list_is_in_order_of_utf8(store)


@pytest.fixture(scope="module")
def ceph_server() -> Iterator[Server]:
    with ceph_rgw() as server:
        create_bucket(server, BUCKET)
        yield server


@pytest.mark.slow
class TestCeph(StoreConformance):
    """A production store that speaks an older S3."""

    many_keys = 0
    many_parts = 0
    race_rounds = 1

    @pytest.fixture
    def make_store(self, ceph_server: Server, monkeypatch: pytest.MonkeyPatch) -> Opener:
        for name, value in ceph_server.environ.items():
            monkeypatch.setenv(name, value)
        return partial(S3Store, BUCKET, f"run {uuid.uuid4().hex}", S3(), Http(), connections=CONNECTIONS)

    @pytest.mark.xfail(reason="Ceph 16 refuses to finish an upload unless every part it holds is named")
    def test_finish_leaves_out_parts_it_is_not_given(self, store: Store) -> None:
        super().test_finish_leaves_out_parts_it_is_not_given(store)


@pytest.fixture(scope="module")
def gcs_server() -> Iterator[GcsServer]:
    # the suite may write one name twice within a second; Retrying is what a user has around it
    with GcsServer(buckets=[BUCKET], writes_per_s=None) as server:
        yield server


@pytest.mark.xdist_group("conformance-gcs")
class TestGcs(StoreConformance):
    race_rounds = 3

    @pytest.fixture
    def make_store(self, gcs_server: GcsServer) -> Opener:
        options = Gcs(endpoint_url=gcs_server.url, anonymous=True)
        return partial(GcsStore, BUCKET, f"run {uuid.uuid4().hex}", options, Http(), connections=CONNECTIONS)


class TestRealBuckets(StoreConformance):
    __test__ = bool(URLS)
    many_parts = 0

    @pytest.fixture(params=URLS)
    def make_store(self, request: pytest.FixtureRequest) -> Iterator[Opener]:
        make = partial(open_store, f"{request.param.rstrip('/')}/conformance-{uuid.uuid4().hex}")
        yield make
        with make() as store:
            store.delete([found.key for found in store.list("")])
            for upload in store.uploads("") if store.traits.multipart else ():
                store.abort(upload)
