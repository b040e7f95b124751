"""S3 stores that talk to a service the test scripts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.scripted_s3 import HTTP, Open, Service

from ckptsync.options import S3
from ckptsync.store.s3 import S3Store


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service()
    yield service
    service.close()


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")


@pytest.fixture
def open_s3(service: Service) -> Iterator[Open]:
    opened: list[S3Store] = []

    def make(bucket: str = "bucket", prefix: str = "run", **options: object) -> S3Store:
        settings = S3(**{"endpoint_url": service.url, **options})  # type: ignore[arg-type]
        opened.append(S3Store(bucket, prefix, settings, HTTP, connections=4))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_s3: Open) -> S3Store:
    return open_s3()
