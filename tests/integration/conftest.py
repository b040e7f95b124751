"""Real servers on loopback, started once for all tests that ask for them."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import Worker, workers

from ckptsync.run import open_run
from ckptsync.testing.gcs import GcsServer
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
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A run nobody has written to, on each kind of store; emptied at the end, since the servers keep it in memory."""
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    if request.param == "directory":
        yield str(tmp_path / "bucket")
        shutil.rmtree(tmp_path / "bucket", ignore_errors=True)
        return
    environ: dict[str, str] = request.getfixturevalue(f"{'s3' if request.param == 's3' else 'gcs'}_environ")
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    found = f"{request.param}://{BUCKET}/run-{next(_numbers)}"
    yield found
    with open_run(found) as run:
        run.store.delete([stat.key for stat in run.store.list("")])
        for upload in run.store.uploads(""):
            run.store.abort(upload)


@pytest.fixture
def worker() -> Iterator[Worker]:
    """Start a verb in a process of its own; whatever still runs at the end is killed."""
    with workers() as start:
        yield start
