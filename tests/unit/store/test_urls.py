"""Run URLs that are refused, and what is said."""

from __future__ import annotations

import pytest

from ckptsync.errors import ConfigError
from ckptsync.store import open_store


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("gs:///x", "gs URL names no bucket; write it like gs://bucket/run"),
        ("s3:///x", "s3 URL names no bucket; write it like s3://bucket/run"),
        ("s3:/bucket/r", "pass it as text: s3://bucket/r"),
        ("s3:bucket/r", "'s3:bucket/r' looks like a URL; write it like s3://bucket/run, or ./s3:bucket/r"),
        ("GS:bucket", "'GS:bucket' looks like a URL"),
        ("", "the run URL is empty"),
        ("a\0b", "has a NUL"),
    ],
)
def test_what_names_no_bucket_is_refused(url: str, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        open_store(url)
    assert said in str(refused.value)


def test_a_password_is_not_taken_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="like s3://bucket/run holds no user and no password") as refused:
        open_store("s3://user:secret@bucket/r")
    assert "secret" not in str(refused.value)
    assert "user:" not in str(refused.value)


def test_a_directory_may_be_called_anything() -> None:
    with open_store("./s3:bucket") as store:
        assert store.url.endswith("/s3%3Abucket")
