"""Real servers on loopback, started once for all tests that ask for them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import Worker, workers

from ckptsync.testing.gcs_server import GcsServer
from ckptsync.testing.servers import create_bucket, ministack

BUCKET = "checkpoints"
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3_environ() -> Iterator[dict[str, str]]:
    """Variables that lead boto3 to a loopback S3 with a bucket."""
    with ministack() as server:
        create_bucket(server, BUCKET)
        yield dict(server.environ)


@pytest.fixture(scope="session")
def gcs_environ() -> Iterator[dict[str, str]]:
    """Variables that lead google-cloud-storage to a loopback GCS with a bucket."""
    with GcsServer(buckets=[BUCKET]) as server:
        yield {"STORAGE_EMULATOR_HOST": server.url}


@pytest.fixture(params=["directory", "s3", "gs"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run nobody has written to, on each kind of store."""
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    if request.param == "directory":
        return str(tmp_path / "bucket")
    environ: dict[str, str] = request.getfixturevalue(f"{'s3' if request.param == 's3' else 'gcs'}_environ")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return f"{request.param}://{BUCKET}/run-{next(_numbers)}"


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Start a verb in a process of its own; whatever still runs at the end is killed."""
    with workers() as start:
        yield start
