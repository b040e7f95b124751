"""What fuzzing found once, one line each: it stays mended."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz.targets import TARGETS

from ckptsync.config import resolve
from ckptsync.errors import ConfigError
from ckptsync.options import Config
from ckptsync.store import open_store
from ckptsync.store.gcs import json_api, xml_api
from ckptsync.store.gcs.errors import UNREADABLE, read_refusal

PART = "<ListPartsResult><Part><PartNumber>1</PartNumber><ETag>e</ETag><Size>{}</Size></Part></ListPartsResult>"
ENCODED = '<?xml version="1.0" encoding="{}"?><ListPartsResult/>'
OBJECT = '{{"name":"n","size":{},"generation":"7","updated":"{}"}}'


@pytest.mark.parametrize(
    "body",
    [
        PART.format("9" * 5000),
        *(ENCODED.format(name) for name in ("nosuch", "utf-7", "idna", "hex")),
        "<a>" * 300_000,
        '<!DOCTYPE a [<!ENTITY b "cccccccccc"><!ENTITY d "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><ListPartsResult>&e;</ListPartsResult>',
    ],
)
def test_answers_in_xml_that_are_none(body: str) -> None:
    with pytest.raises(xml_api.MalformedError) as refused:
        xml_api.parts_page(body.encode())
    assert len(str(refused.value)) < 300
    assert read_refusal(500, {}, body.encode()).status == 500


@pytest.mark.parametrize(
    "body",
    [
        OBJECT.format(5, "0001-01-01T00:00:00"),
        OBJECT.format(-5, "2026-01-01T00:00:00Z"),
        OBJECT.format("9" * 5000, "2026-01-01T00:00:00Z"),
        '{"x":' + "[" * 100_000,
    ],
)
def test_answers_in_json_that_are_none(body: str) -> None:
    with pytest.raises(UNREADABLE):
        json_api.read_resource(body.encode())


def test_times_at_the_ends_of_the_calendar() -> None:
    for moment in ("0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00Z"):
        json_api.read_resource(OBJECT.format(5, moment).encode()).stat("key")


def test_a_pause_nobody_lives_to_see_the_end_of() -> None:
    assert read_refusal(429, {"retry-after": "9" * 500}, b"").retry_after_s is None
    assert read_refusal(429, {"retry-after": "30"}, b"").retry_after_s == 30


@pytest.mark.parametrize("text", ["a=" + "[" * 100_000, "[transfer]\nworkers=" + "9" * 5000])
def test_options_files_that_break_their_parser(tmp_path: Path, text: str) -> None:
    (tmp_path / "options.toml").write_text(text)
    with pytest.raises(ConfigError, match="configuration file"):
        resolve(environ={}, file=str(tmp_path / "options.toml"))


def test_variables_that_are_no_text() -> None:
    with pytest.raises(ConfigError, match="not valid Unicode"):
        resolve(environ={"CKPTSYNC_RETRY_\udc80": "1"})
    with pytest.raises(ConfigError):
        resolve(environ={"CKPTSYNC_CONFIG": "a\0b"})


@pytest.mark.req(35)
@pytest.mark.parametrize(
    "url", ["a\0b", "file:///a\0b", "file:///%00", "s3://b\0/x", "https://[::1", "ftp://h:99999/x"]
)
def test_urls_that_none_can_be(url: str) -> None:
    with pytest.raises(ConfigError):
        open_store(url, Config())


def test_deep_lines_of_a_journal_on_the_disk() -> None:
    TARGETS["disk_journal"].feed(b'{"type":"attempt","x":' + b"[" * 200_000 + b"\n")
