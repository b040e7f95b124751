"""The report, as table, JSON and page."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Call = Callable[..., Result]
Ask = Callable[..., list[dict[str, Any]]]

HOSTILE = '<script>alert(1)</script>"&\x1b[2J'


class Page(HTMLParser):
    """What a browser would make of it: elements, and text by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_people_are_told_what_happened(call: Call, saved: Path) -> None:
    printed = call("report", saved).stdout
    assert "snapshots      2, steps 100 to 200" in printed
    assert "interruptions  0" in printed
    assert "no price is known" in printed
    assert re.search(r"^ +200 .*loss=0.25", printed, re.MULTILINE)


def test_programs_are_told_all(ask: Ask, call: Call, source: Path, saved: Path) -> None:
    call("save", source, saved, "--step", 150)
    (found,) = ask("report", saved, "--set", "prices.gib_month=1024", "--set", "prices.writes_per_1000=1000")
    assert [point["step"] for point in found["snapshots"]] == [100, 200, 150]
    (stop,) = found["interruptions"]
    assert (stop["last_step"], stop["resumed_step"], stop["steps_lost"]) == (200, 100, 100)
    bill = found["bill"]
    assert bill["storage_month"] == pytest.approx(bill["bytes_stored"] / (1 << 20))
    assert bill["requests"] == pytest.approx(bill["writes"])
    assert found["url"].endswith("/run")


def test_an_empty_run_is_no_error(call: Call, ask: Ask) -> None:
    Path("run").mkdir()
    assert "snapshots  none" in call("report", "run", "--html", "page.html").stdout
    assert "<svg" not in Path("page.html").read_text()
    assert ask("report", "run")[0]["share"]["percent"] is None


def test_the_page_needs_nothing_else(call: Call, saved: Path) -> None:
    call("report", saved, "--html", "page.html")
    page = Page(Path("page.html").read_text())
    assert sum(tag == "svg" for tag, _ in page.elements) == 4  # time line, exposure, saves, loss
    assert not [tag for tag, _ in page.elements if tag in {"script", "link", "img", "iframe", "object", "image", "use"}]
    assert not [attrs for _, attrs in page.elements if {"src", "href", "xlink:href", "srcset"} & attrs.keys()]
    assert "url(" not in Path("page.html").read_text()
    policy = next(attrs["content"] for tag, attrs in page.elements if attrs.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert "loss" in page.text


def test_names_from_strangers_stay_text(call: Call, source: Path) -> None:
    call("save", source, "run", "--step", 1, "--metric", f"{HOSTILE}=1")
    call("save", source, "run", "--step", 2, "--metric", f"{HOSTILE}=2")
    assert "\x1b" not in call("report", "run", "--html", "page.html").stdout
    text = Path("page.html").read_text()
    page = Page(text)
    assert "\x1b" not in text
    assert not [tag for tag, _ in page.elements if tag == "script"]
    assert any('<script>alert(1)</script>"&\\x1b[2J' in words for words in page.text)
    assert not [attrs for _, attrs in page.elements for name in attrs if name.startswith("on")]


def test_a_page_that_cannot_be_written_says_so(call: Call, saved: Path) -> None:
    said = call("report", saved, "--html", "nowhere/page.html", exit_code=8).stderr
    assert "cannot write nowhere/page.html: No such file or directory" in said


def test_a_bad_price_is_refused(call: Call, saved: Path) -> None:
    assert "prices.gib_month" in call("report", saved, "--set", "prices.gib_month=-1", exit_code=2).stderr


def test_hosts_of_strangers_stay_text_too(call: Call, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptsync.records.socket.gethostname", lambda: HOSTILE)
    call("save", "source", saved, "--step", 300)
    assert "\x1b" not in call("report", saved, "--html", "page.html").stdout
    page = Page(Path("page.html").read_text())
    assert not [tag for tag, _ in page.elements if tag == "script"]
    assert sum("<script>alert(1)" in words for words in page.text) >= 3  # two tables, and the time line
