"""Parsers of what strangers may send: only our own errors come out, quickly, whatever goes in."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from fuzz.strategies import mutated
from fuzz.targets import TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.scripted_s3 import HTTP, Says, Service

from ckptsync.errors import CkptsyncError
from ckptsync.options import S3
from ckptsync.store.base import Upload
from ckptsync.store.s3 import S3Store

SLOW_S = 5.0


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_taken(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].feed(seed)


@pytest.mark.parametrize("name", TARGETS)
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(data=st.data())
def test_only_our_own_errors_come_out(name: str, data: st.DataObject) -> None:
    target = TARGETS[name]
    sent = data.draw(mutated(target.seeds))
    begun_s = time.process_time()
    target.feed(sent)
    assert time.process_time() - begun_s < SLOW_S


# -- what S3's SDK makes of listings --------------------------------------------------------------------------------------

LISTINGS = (
    (
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>run/x/a</Key><Size>5</Size><ETag>e</ETag>"
        b"<LastModified>2026-01-02T03:04:05Z</LastModified></Contents></ListBucketResult>"
    ),
    (
        b"<ListPartsResult><IsTruncated>false</IsTruncated><Part><PartNumber>1</PartNumber><Size>5</Size><ETag>e</ETag></Part>"
        b"</ListPartsResult>"
    ),
    (
        b"<ListMultipartUploadsResult><IsTruncated>false</IsTruncated><Upload><Key>run/x/a</Key><UploadId>u</UploadId>"
        b"<Initiated>2026-01-02T03:04:05Z</Initiated></Upload></ListMultipartUploadsResult>"
    ),
    b"<Error><Code>SlowDown</Code><Message>no</Message></Error>",
)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    made = Service()
    yield made
    made.close()


@pytest.fixture(scope="module")
def store(service: Service) -> Iterator[S3Store]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "k")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        with S3Store("bucket", "run", S3(endpoint_url=service.url, region="us-east-1"), HTTP, connections=1) as store:
            yield store


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(answer=mutated(LISTINGS))
def test_listings_of_s3(service: Service, store: S3Store, answer: bytes) -> None:
    service.script = [
        Says(200, answer, {"Content-Type": "application/xml"}),
        Says(200, LISTINGS[0]),
        Says(200, LISTINGS[0]),
    ]
    for ask in (
        lambda: list(store.list("x/")),
        lambda: list(store.uploads("x/")),
        lambda: store.parts(Upload(key="x/a", id="u")),
    ):
        service.script = [Says(200, answer, {"Content-Type": "application/xml"}), Says(500, LISTINGS[3])]
        try:
            found = ask()
        except CkptsyncError:
            continue
        assert len(str(found)) < 1_000_000
