"""What a verb costs does not grow with what it does not use."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

HERE = Path(__file__).parent
PAGE_ENTRIES = 1000
Figures = Mapping[tuple[str, str, str], Mapping[int, Any]]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("growth"),
    pytest.mark.skipif(sys.platform != "linux", reason="measured through /proc"),
]


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    """Figures by growing thing, store and verb; then by size. In a process of its own, which forks."""
    told = tmp_path_factory.mktemp("growth") / "figures.json"
    subprocess.run([sys.executable, HERE / "growth.py", "--short", "--json", told], check=True)
    found: dict[tuple[str, str, str], dict[int, Any]] = {}
    for one in json.loads(told.read_text())["figures"]:
        found.setdefault((one["growing"], one["store"], one["verb"]), {})[one["size"]] = SimpleNamespace(**one)
    return found


STORES = ("memory", "directory", "gcs")


@pytest.mark.parametrize("store", STORES)
def test_latest_is_two_listings_and_one_get_however_many_there_are(figures: Figures, store: str) -> None:
    for growing in ("snapshots", "files") if store != "gcs" else ("snapshots",):
        for found in figures[growing, store, "latest"].values():
            assert {kind: count for kind, count in found.requests.items() if kind != "http"} == {"list": 2, "get": 1}
            assert found.requests.get("http", 3) == 3


@pytest.mark.parametrize("verb", ["save", "restore", "status", "latest"])
@pytest.mark.parametrize("store", STORES)
def test_requests_do_not_depend_on_the_number_of_snapshots(figures: Figures, store: str, verb: str) -> None:
    few, *more = figures["snapshots", store, verb].values()
    assert more
    for many in more:
        assert many.requests == few.requests


@pytest.mark.parametrize("store", STORES)
def test_gc_reads_the_manifests_it_needs_and_lists_in_pages(figures: Figures, store: str) -> None:
    few, *more = figures["snapshots", store, "gc"].values()
    for many in more:
        # to see everything once, journals and manifests twice
        pages = 9 * many.size / PAGE_ENTRIES + few.requests["list"]
        assert many.requests["list"] <= pages
        assert {**many.requests, "list": 0, "http": 0} == {**few.requests, "list": 0, "http": 0}
        assert many.requests["get"] <= 4
        assert many.memory_mb < 100


@pytest.mark.parametrize("store", STORES)
def test_ls_reads_each_manifest_once_and_keeps_none(figures: Figures, store: str) -> None:
    for size, found in figures["snapshots", store, "ls"].items():
        assert found.requests["get"] == size
        assert found.requests["list"] <= 5 + 2 * size / PAGE_ENTRIES
        assert found.memory_mb < 32


@pytest.mark.parametrize("store", ["memory", "directory"])
def test_a_file_costs_one_request(figures: Figures, store: str) -> None:
    for verb, beside in (("save", 11), ("save again", 11), ("restore", 5)):
        for size, found in figures["files", store, verb].items():
            assert sum(found.requests.values()) <= size + beside
    for size, found in figures["files", store, "gc"].items():
        assert sum(found.requests.values()) <= 20 + size / PAGE_ENTRIES


def test_a_manifest_of_a_million_parts_is_read_fast_and_in_little_memory(figures: Figures) -> None:
    for of_a_file, most_cpu_s in (
        (10_000, 1),
        (10, 2),
    ):  # the latter takes 0.8 s, which leaves too little for a busy machine
        for verb in ("decode", "latest"):
            found = figures["parts", "", f"{verb}, {of_a_file} a file"][1_000_000]
            assert found.cpu_s < most_cpu_s
            assert found.memory_mb < 300


def test_the_page_is_made_of_figures(figures: Figures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = importlib.util.spec_from_file_location("growth_page", HERE / "growth_page.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, page)  # where its dataclass looks for itself
    spec.loader.exec_module(page)
    copy = tmp_path / "growth.md"
    copy.write_text(page.PAGE.read_text())
    monkeypatch.setattr(page, "PAGE", copy)
    page.write([one for by_size in figures.values() for one in by_size.values()], "Measured on a machine.\n")
    text = copy.read_text()
    assert "| snapshots | 10 | 1\N{NARROW NO-BREAK SPACE}000 | 10\N{NARROW NO-BREAK SPACE}000 |" in text
    assert "| `latest` | 3 | 3 | 3 |" in text
    assert "Measured on a machine." in text
    assert {path.name for path in tmp_path.glob("*.svg")} == {
        f"growth-{name}.svg" for name in ("snapshots", "files", "parts")
    }
