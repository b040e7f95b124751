"""Whatever goes wrong, and however much is asked for: no secret is in what people read or programs log."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import ckptsync
from ckptsync.cli.main import cli
from ckptsync.config import resolve
from ckptsync.options import Config

SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrSECRETwJalrSECRETwJalrSECRETwJalrSE",
    "AWS_SESSION_TOKEN": "IQoTOKENIQoTOKENIQoTOKENIQoTOKENIQoTOKEN",
    "HTTPS_PROXY": "http://proxyuser:proxyhunter2@127.0.0.1:9",
    "HTTP_PROXY": "http://proxyuser:proxyhunter2@127.0.0.1:9",
}
LEAKS = ("wJalrSECRET", "IQoTOKEN", "hunter2", "MIIE", "SIGNED00")
QUERY = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIASIGNED00&X-Amz-Signature=SIGNED00&X-Amz-Security-Token=SIGNED00"

CREDENTIALED = [
    "s3://user:hunter2@bucket/run",
    "S3://user:hunter2@bucket/run",
    "gs://user:hunter2@bucket/run",
    "file://user:hunter2@host/run",
    "s3:/user:hunter2@bucket/run",
    "ftp://user:hunter2@127.0.0.1:9/run",
    "sftp://user:hunter2@127.0.0.1:9/run",
    "http://user:hunter2@127.0.0.1:9/run",
    "nosuch://user:hunter2@127.0.0.1/run",
    "https://user:hunter2@[::1/run",
    f"https://127.0.0.1:9/run?{QUERY}",
    f"http://127.0.0.1:9/run?{QUERY}",
    f"s3://bucket/run?{QUERY}",
    f"s3://?{QUERY}",
    f"gs://?{QUERY}",
    f"nosuch://host/run?{QUERY}",
    "ftp://user:hun/ter2hunter2@127.0.0.1:9/run",
    "https://user:p@hunter2@127.0.0.1:9/run",
]
ENDPOINTS = [
    "http://user:hunter2@127.0.0.1:9",
    "https://user:hunter2@127.0.0.1:9",
    f"http://127.0.0.1:9/?{QUERY}",
    "user:hunter2@127.0.0.1:9",
    "http://user:hunter2@[::1",
    "http://user:hunter2@host name:9",
    "nosuch://user:hunter2@127.0.0.1",
]
VERBS = [
    ("save", "folder", "RUN", "--step", "1"),
    ("restore", "RUN", "back"),
    ("ls", "RUN"),
    ("show", "RUN"),
    ("verify", "RUN"),
    ("gc", "RUN", "--keep-last", "1"),
    ("status", "RUN"),
    ("doctor", "RUN"),
    ("adopt", "RUN", "exported", "--step", "1"),
    ("promote", "RUN", "latest", "best"),
]


@pytest.fixture(autouse=True)
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine full of them, from which nothing can be reached."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
        if "PROXY" in name:
            monkeypatch.setenv(name.lower(), value)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CKPTSYNC_RETRY_ATTEMPTS", "2")
    monkeypatch.setenv("CKPTSYNC_RETRY_BASE_S", "0.001")
    monkeypatch.setenv("CKPTSYNC_RETRY_CAP_S", "0.001")
    monkeypatch.setenv("CKPTSYNC_HTTP_CONNECT_TIMEOUT_S", "1")
    key = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "hunter2id",
        "private_key": key,
        "client_email": "a@p.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "http://127.0.0.1:9/token",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    Path("folder").mkdir()
    (Path("folder") / "x").write_text("x")


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[object]:
    """Run a verb with -vv; everything it says, and everything our logger says at DEBUG."""
    caplog.set_level(logging.DEBUG, logger="ckptsync")

    def run(*arguments: str) -> str:
        caplog.clear()
        result = CliRunner().invoke(cli, ["-vv", *arguments], prog_name="ckptsync")
        text = (
            result.output
            + result.stderr
            + "".join(
                record.getMessage() + str(record.args)
                for record in caplog.records
                if record.name.startswith("ckptsync")
            )
        )
        assert text
        return text

    return run


def assert_clean(text: str) -> None:
    found = [secret for secret in LEAKS if secret in text]
    assert not found, text


@pytest.mark.req(35)
@pytest.mark.parametrize("url", CREDENTIALED)
@pytest.mark.parametrize("verb", [VERBS[0], VERBS[2], VERBS[7]], ids=lambda verb: verb[0])
def test_urls_that_carry_credentials(told: object, url: str, verb: tuple[str, ...]) -> None:
    assert_clean(told(*[url if word == "RUN" else word for word in verb]))


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("verb", [VERBS[0], VERBS[7]], ids=lambda verb: verb[0])
def test_endpoints_that_carry_credentials(told: object, endpoint: str, scheme: str, verb: tuple[str, ...]) -> None:
    url = f"{scheme}://bucket/run"
    assert_clean(told(*[url if word == "RUN" else word for word in verb], "--endpoint-url", endpoint))


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
def test_a_service_that_cannot_be_reached_through_a_proxy_with_a_password(
    told: object, scheme: str, verb: tuple[str, ...]
) -> None:
    assert_clean(told(*[f"{scheme}://bucket/run" if word == "RUN" else word for word in verb]))


@pytest.mark.parametrize(
    "setting",
    [
        "s3.endpoint_url.deeper=http://user:hunter2@h",
        "s3.endpoint=http://user:hunter2@h",
        "transfer.workers=http://user:hunter2@h",
        "transfer.part_bytes=http://user:hunter2@h",
        f"nosuch.option=https://h/?{QUERY}",
    ],
)
def test_options_that_cannot_be_used(told: object, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_clean(told("ls", "run", "--set", setting))
    monkeypatch.setenv("CKPTSYNC_TRANSFER_PART_BYTES", "http://user:hunter2@h")
    assert_clean(told("ls", "run"))


@pytest.mark.parametrize("url", CREDENTIALED)
def test_the_library_tells_no_more(url: str) -> None:
    """Sentences of our errors, whichever way they are printed."""
    with pytest.raises(ckptsync.CkptsyncError) as raised:
        ckptsync.save("folder", url, step=1, config=resolve())
    assert_clean(f"{raised.value} {raised.value!r} {raised.value.args}")
    assert_clean(str(Config()))
