"""Real services on loopback behind the fault proxy: MiniStack for S3, our own for Cloud Storage."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.wired import Wired, make_source

from ckptsync.testing.clock import FakeClock
from ckptsync.testing.gcs import GcsServer
from ckptsync.testing.proxy import Proxy
from ckptsync.testing.servers import Server, create_bucket, ministack

BUCKET = "wire"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Server]:
    with ministack() as server:
        create_bucket(server, BUCKET)
        yield server


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("wire") / "source", 1)


@pytest.fixture(scope="session")
def changed_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_source(tmp_path_factory.mktemp("wire") / "changed", 2)


def _emptied(wired: Wired) -> None:
    """MiniStack keeps everything in memory."""
    with wired.direct() as run:
        run.store.delete([stat.key for stat in run.store.list("")])
        for upload in run.store.uploads(""):
            run.store.abort(upload)


@pytest.fixture
def s3(s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wired]:
    """A run on S3."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_server.environ.items():
        if name != "AWS_ENDPOINT_URL_S3":
            monkeypatch.setenv(name, value)
    clock = FakeClock()
    with Proxy(s3_server.url, clock=clock) as proxy:
        url = f"s3://{BUCKET}/run-{next(_numbers)}"
        wired = Wired(cloud="s3", proxy=proxy, direct_url=s3_server.url, url=url, work=tmp_path, clock=clock)
        yield wired
        _emptied(wired)


@pytest.fixture
def gs(tmp_path: Path) -> Iterator[Wired]:
    """A run on Cloud Storage, where one name may change once a second of the test's own clock."""
    clock = FakeClock()
    with GcsServer(buckets=[BUCKET], clock=clock) as server, Proxy(server.url, clock=clock) as proxy:
        url = f"gs://{BUCKET}/run"
        yield Wired(cloud="gs", proxy=proxy, direct_url=server.url, url=url, work=tmp_path, clock=clock)


@pytest.fixture(params=["s3", "gs"])
def wired(request: pytest.FixtureRequest) -> Wired:
    found: Wired = request.getfixturevalue(request.param)
    return found
