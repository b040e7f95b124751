"""Settings, credentials that expire, and what is without which library."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from botocore.awsrequest import AWSPreparedRequest
from support.scripted_s3 import ETAG, HTTP, Asked, Open, Says, Service, head, refusal

from ckptsync.errors import (
    ConfigError,
    CredentialsError,
    TransientError,
)
from ckptsync.options import S3
from ckptsync.store.base import Upload
from ckptsync.store.s3 import S3Store
from ckptsync.store.s3 import answers as s3_answers
from ckptsync.store.s3 import client as s3_client

UPLOAD = Upload(key="k", id="u")


def test_without_boto3_the_extra_is_named() -> None:
    code = "import sys; sys.modules['boto3'] = None\nfrom ckptsync.store import open_store\nopen_store('s3://b/run')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError: s3:// needs boto3: pip install 'ckptsync[s3]'" in done.stderr


def test_without_awscrt_auto_sends_none_and_a_demand_is_refused(
    open_s3: Open, service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(s3_answers, "AVAILABLE", False)
    monkeypatch.setattr(s3_answers, "checksums", None)
    service.script = [Says(headers={"ETag": ETAG})]
    with caplog.at_level(logging.DEBUG, "ckptsync"):
        open_s3().put("k", b"x")
    assert [record.name for record in caplog.records if "awscrt" in record.message] == ["ckptsync"]
    assert not [name for name in service.asked[0].headers if "checksum" in name]
    with pytest.raises(ConfigError, match=r"pip install 'ckptsync\[s3\]'"):
        open_s3(checksum="crc64nvme")


def test_an_endpoint_from_the_environment_is_addressed_by_path(
    open_s3: Open, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", service.url.replace("127.0.0.1", "localhost"))
    service.script = [head(1)]
    open_s3(endpoint_url=None).stat("k")
    assert service.asked[0].path == "/bucket/run/k"
    assert service.asked[0].headers["host"].startswith("localhost:")
    assert "/us-east-1/s3/" in service.asked[0].headers["authorization"]


def test_a_profile_of_the_aws_files_is_honoured(
    open_s3: Open, service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    config = tmp_path / "config"
    config.write_text("[profile work]\nregion = eu-north-1\naws_access_key_id = worker\naws_secret_access_key = s\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    service.script = [head(1)]
    open_s3(profile="work").stat("k")
    assert "Credential=worker/" in service.asked[0].headers["authorization"]
    assert "/eu-north-1/s3/" in service.asked[0].headers["authorization"]
    with pytest.raises(CredentialsError, match="play"):
        open_s3(profile="play").stat("k")


def test_amazon_is_addressed_by_host() -> None:
    seen: list[str] = []

    def stop(request: AWSPreparedRequest, **_: object) -> None:
        seen.append(request.url)
        raise ConnectionResetError

    connection = s3_client.Connection("bucket", S3(region="eu-west-1"), HTTP, connections=1)
    connection.call("get", "k", lambda client: client.meta.events.register("before-send.s3", stop))
    with pytest.raises(TransientError):
        connection.call("list", "", lambda client: client.list_objects_v2(Bucket="bucket"))
    assert connection.call("get", "k", s3_client.is_amazon)
    connection.close()
    assert seen == ["https://bucket.s3.eu-west-1.amazonaws.com/?list-type=2&encoding-type=url"]


@pytest.mark.parametrize(
    ("bucket", "options"),
    [("Not A Bucket", {}), ("bucket", {"endpoint_url": "no-scheme"}), ("bucket", {"region": "no region"})],
)
def test_what_cannot_be_used_is_a_config_error(bucket: str, options: dict[str, str], open_s3: Open) -> None:
    with pytest.raises(ConfigError):
        open_s3(bucket, **options).put("k", b"x")


def test_no_credentials_says_so(open_s3: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(CredentialsError, match="no usable credentials"):
        open_s3().put("k", b"x")


def write_credentials(path: Path, name: str) -> None:
    path.write_text(f"[default]\naws_access_key_id = {name}\naws_secret_access_key = s\n")


@pytest.mark.req(18)
def test_expired_credentials_are_read_afresh_once_for_all_threads(
    store: S3Store,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    write_credentials(tmp_path / "credentials", "old")
    together = threading.Barrier(4, timeout=10)

    def answer(asked: Asked) -> Says:
        if "Credential=old/" in asked.headers["authorization"]:
            together.wait()
            return refusal("ExpiredToken", 400)
        return Says(headers={"ETag": ETAG})

    service.script = [answer]
    outcomes: list[str] = []

    def send(number: int) -> None:
        try:
            store.put_part(UPLOAD, number, b"part")
        except TransientError:
            outcomes.append("transient")

    threads = [threading.Thread(target=send, args=(number,)) for number in range(1, 5)]
    with caplog.at_level(logging.WARNING, "ckptsync"):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert outcomes == ["transient"] * 4
    assert len(caplog.records) == 1
    write_credentials(tmp_path / "credentials", "new")
    store.close()  # what was read meanwhile may be the old file
    assert store.put_part(UPLOAD, 1, b"part").tag == ETAG
    assert service.asked[-1].query["uploadId"] == ["u"]
    assert "Credential=new/" in service.asked[-1].headers["authorization"]


@pytest.mark.req(18)
@pytest.mark.parametrize("verb", ["put", "stat"])
def test_credentials_that_stay_expired_fail_for_good_until_they_work_again(
    verb: str, store: S3Store, service: Service
) -> None:
    service.script = [refusal("ExpiredToken", 400)]
    ask: Callable[[], object] = (lambda: store.put("k", b"x")) if verb == "put" else (lambda: store.stat("k"))
    for _ in range(s3_client.MAX_RENEWALS):
        with pytest.raises(TransientError):
            ask()
    with pytest.raises(CredentialsError, match="expired"):
        ask()
    service.script = [head(0)]
    ask()
    service.script = [refusal("ExpiredToken", 400)]
    with pytest.raises(TransientError):
        ask()
