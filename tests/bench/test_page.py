"""What was measured becomes a page that hides nothing, and a gate that closes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench import page, quick, targets
from bench.chart import bars
from bench.measure import Sample
from bench.peers import CLOUDS, PEERS, chosen
from bench.run import listed
from bench.shapes import SHAPES


def table(*samples: Sample, shape: str = "loopback") -> dict[str, Any]:
    rows = [{name: getattr(sample, name) for name in Sample.__slots__} for sample in samples]
    return {"cloud": "s3", "shape": {"name": shape}, "size": 10**9, "rounds": 3, "samples": rows}


def sample(peer: str, direction: Any, cpu_s: float, error: str = "") -> Sample:
    return Sample(peer=peer, cloud="s3", direction=direction, size=10**9, cpu_s=cpu_s, wall_s=2.0, error=error)


def test_rows_are_medians_and_a_peer_that_failed_is_told() -> None:
    ours = [sample("ckptsync", direction, cpu_s) for direction in ("put", "get") for cpu_s in (1.0, 9.0, 2.0)]
    text = page.plain({"tables": [table(*ours, sample("s5cmd", "put", 0.0, "no | reason"))]})
    assert re.search(r"\*\*ckptsync\*\*.*\| 2\.00 \| 2\.00 \| 500 \| 500 \|", text)
    assert "| s5cmd | did not work: no / reason |" in text


def test_a_shape_that_cannot_be_had_is_told() -> None:
    found = {**table(shape="1 Gbit/s"), "missing": "a rate limit needs root"}
    assert "1 Gbit/s: a rate limit needs root" in page.plain({"tables": [found]})


def test_the_page_names_every_peer_and_shape() -> None:
    text = page.PAGE.read_text()
    for cloud in CLOUDS:
        for peer in chosen(cloud, ()):
            assert f"| {peer.name}" in text or f"| **{peer.name}" in text
    assert [shape.name for shape in SHAPES if shape.name not in text] == []


@pytest.mark.parametrize(("cpu_s", "holds"), [(0.7, True), (0.8, False)])
def test_a_target_holds_or_does_not(cpu_s: float, *, holds: bool) -> None:
    found = table(sample("ckptsync", "put", cpu_s), sample("ckptsync", "get", cpu_s))
    (up,) = [one for one in targets.verdicts([found]) if "up: at most 0.75" in one.target]
    assert (up.found, up.holds) == (f"{cpu_s:.2f}", holds)


def test_being_slower_than_a_peer_is_told() -> None:
    fast = {name: getattr(sample("s5cmd", "put", 1.0), name) for name in Sample.__slots__} | {"wall_s": 1.0}
    found = table(*(sample(peer, way, 1.0) for peer in ("ckptsync", "s5cmd") for way in ("put", "get")))
    found["samples"][2] = fast
    told = {one.target: one for one in targets.verdicts([found])}
    assert not told["S3, up: faster than s5cmd"].holds
    assert told["S3, down: faster than s5cmd"].holds


def test_every_client_is_there() -> None:
    clients = Path(quick.__file__).parent / "clients"
    assert [peer.name for peer in PEERS if peer.script and not (clients / peer.script).is_file()] == []


def test_peers_are_chosen_by_name_or_with_all_variants() -> None:
    assert listed("boto3,boto3, crt") == ["boto3", "boto3, crt"]
    assert [peer.name for peer in chosen("s3", ["obstore, memory"])] == ["obstore, memory"]
    assert [peer.name for peer in chosen("s3", ["boto3"])] == ["boto3", "boto3, crt"]
    with pytest.raises(SystemExit, match="no such peer: wget"):
        chosen("s3", ["wget"])


def test_the_gate_closes_when_a_ratio_is_worse_than_its_bound_and_margin() -> None:
    bounds = {"put": 0.5, "get": 1.0, "margin": 0.2}
    assert quick.verdict({"put": 0.6, "get": 1.19}, bounds) == []
    assert [line.partition(":")[0] for line in quick.verdict({"put": 0.61, "get": 1.21}, bounds)] == ["put", "get"]


def test_ratios_are_taken_round_by_round() -> None:
    samples = [sample("ckptsync", "put", 1.0), sample("boto3", "put", 4.0), sample("boto3", "put", 2.0)]
    samples.append(sample("ckptsync", "put", 1.0))
    assert quick.ratios(table(*samples)["samples"], "put") == [0.25, 0.5]


def test_a_plot_is_drawn_to_one_scale() -> None:
    drawn = ET.fromstring(  # noqa: S314  our own
        bars("t", ("up", "down"), {"ckptsync": (1.0, float("nan")), "a & b": (4.0, 2.0)}, ours="ckptsync")
    )
    widths = [float(node.get("width", "0")) for node in drawn.iterfind(".//{*}rect")]
    assert widths[2:] == [110, 440, 220]
