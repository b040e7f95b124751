"""Our signatures are the SDK's."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import botocore.auth
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials

from ckptsync.store.s3.sigv4 import Signer
from ckptsync.testing.clock import FakeClock

DAY_S = 86_400
UNSIGNED = Config(s3={"payload_signing_enabled": False})


def theirs(credentials: ReadOnlyCredentials, method: str, url: str, headers: dict[str, str]) -> dict[str, str]:
    request: Any = AWSRequest(method=method, url=url, headers=headers)
    request.context["client_config"] = UNSIGNED
    S3SigV4Auth(credentials, "s3", "eu-west-1").add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@pytest.mark.parametrize("token", [None, "token/of+some=length"])
@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/bucket/run/a%20b%2Bc", {"Range": "bytes=0-9", "If-Match": '"e  tag "'}),
        ("HEAD", "/gr%C3%B6%C3%9Fe", {"x-amz-checksum-mode": "ENABLED"}),
        ("PUT", "/k", {"If-None-Match": "*", "x-amz-checksum-crc64nvme": "AAAAAAAAAAA="}),
        ("PUT", "/k?partNumber=7&uploadId=u%2F1%2B%20x~", {}),
    ],
)
def test_a_signature_is_the_sdks(
    monkeypatch: pytest.MonkeyPatch, method: str, target: str, headers: dict[str, str], token: str | None
) -> None:
    clock, host = FakeClock(), "bucket.example.org:9000"
    signer = Signer(host, "eu-west-1", clock=clock)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda: datetime.fromtimestamp(clock.now(), UTC))
    path, _, query = target.partition("?")
    for day, secret in ((0, "one"), (0, "one"), (0, "other"), (1, "other"), (0, "one")):
        clock.advance(day * DAY_S)
        credentials = ReadOnlyCredentials("AKID", secret, token)
        signed = signer.signed(credentials, method, path, query, dict(headers))
        ours = {name.lower(): value for name, value in signed.items() if name != "Host"}
        assert ours == theirs(credentials, method, f"https://{host}{target}", headers)
        assert signed["Host"] == host
