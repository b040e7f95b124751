"""Numbers, tables and JSON."""

from __future__ import annotations

import json

import pytest

from ckptsync.cli.output import count, duration, facts, metrics, one_line, print_json, printable, size, table, when


@pytest.mark.parametrize(
    ("count_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (12 << 20, "12.0 MiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (3 << 29, "1.5 GiB"),
        (5 << 60, "5120.0 PiB"),
    ],
)
def test_size(count_bytes: int, text: str) -> None:
    assert size(count_bytes) == text


@pytest.mark.parametrize(
    ("seconds_s", "text"),
    [
        (0, "0 ms"),
        (0.0891, "89 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3600, "1 h 0 min"),
        (18_120, "5 h 2 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_duration(seconds_s: float, text: str) -> None:
    assert duration(seconds_s) == text


def test_words() -> None:
    assert (count(1, "file"), count(0, "file"), count(3, "file")) == ("1 file", "0 files", "3 files")
    assert when("2026-01-02T03:04:05.678Z") == "2026-01-02 03:04:05Z"
    assert when("") == "-"
    assert metrics({"loss": 0.1234567, "bad": None}) == "loss=0.123457 bad=nan"


def test_table_is_aligned_and_ends_no_line_with_spaces() -> None:
    assert list(table(("A", "NUMBER", "LAST"), [("x", "7", ""), ("long", "1000000", "z")], right=(1,))) == [
        "A      NUMBER  LAST",
        "x           7",
        "long  1000000  z",
    ]
    assert list(facts({"one": "1", "nothing": "", "three": "3"})) == ["one    1", "three  3"]
    assert list(facts({})) == []


def test_names_cannot_drive_the_terminal() -> None:
    assert printable("ünï \x1b[2J\r\u202e") == "ünï \\x1b[2J\\r\\u202e"
    assert one_line(" two\n lines ") == "two lines"


def test_json_is_ascii_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"name": "ünï\n", "tuple": ("a",), "none": None})
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isascii()
    assert json.loads(line) == {"name": "ünï\n", "tuple": ["a"], "none": None}
