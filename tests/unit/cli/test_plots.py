"""Plots: what is drawn where."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from ckptsync.cli.plots import Bar, lines, round_step, round_time_step, thinned, ticks, timeline


def drawn(svg: str) -> ET.Element:
    """It is well-formed, or this fails; no number in it is none."""
    assert not re.search(r"\b(nan|inf)\b", svg)
    return ET.fromstring(svg)  # noqa: S314  our own


def places(svg: str) -> list[tuple[float, float]]:
    line = drawn(svg).find("polyline")
    assert line is not None
    return [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]  # type: ignore[misc]


def test_a_line_goes_from_left_to_right_and_up_where_values_do() -> None:
    (x0, y0), (x1, y1), (x2, y2) = places(lines("loss", {"loss": [(0, 1.0), (50, 3.0), (100, 2.0)]}, x_name="step"))
    assert (x1 - x0) == pytest.approx(x2 - x1)
    assert y0 > y2 > y1
    assert (y0 - y2) == pytest.approx(y2 - y1, abs=0.2)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [(5.0, 0.0)],
        [(1, 2.0), (2, 2.0)],
        [(0, -1e308), (1, 1e308)],
        [(0, 0.0), (1, 5e-324)],
        [(0, 1.0), (1e12, 1 + 2e-16)],
    ],
)
def test_whatever_the_values_it_can_be_drawn(values: list[tuple[float, float]]) -> None:
    drawn(lines("x", {"x": values}, x_name="step"))
    drawn(lines("x", {"x": values}, x_name="step", x_is_time=True, y_is_time=True))


@pytest.mark.parametrize("span", [1e-9, 0.7, 1, 3.2, 99, 12345, 1e15])
def test_ticks_are_few_and_round(span: float) -> None:
    found = list(ticks(0, span, round_step(span)))
    assert 3 <= len(found) <= 7
    assert all(f"{at:.1e}"[0] in "0123456789" for at in found)


@pytest.mark.parametrize(
    ("span_s", "step_s"),
    [(0.6, 0.1), (6, 1), (60, 10), (600, 120), (7200, 1800), (86_400, 21_600), (86_400 * 60, 864_000)],
)
def test_ticks_of_time_are_round_as_clocks_are(span_s: float, step_s: float) -> None:
    assert round_time_step(span_s) == pytest.approx(step_s)


def test_what_stands_out_of_very_many_is_kept() -> None:
    many = [(float(at), float(at % 7)) for at in range(100_000)]
    many[54_321] = (54_321.0, 99.0)
    many[54_399] = (54_399.0, -99.0)
    kept = thinned(many, 800)
    assert len(kept) <= 810
    assert {many[54_321], many[54_399]} <= set(kept)
    assert kept == sorted(kept)
    assert thinned(many[:800], 800) == many[:800]


def test_bars_stand_where_their_time_was() -> None:
    svg = timeline(
        "t",
        [
            Bar(name="<a>", words="w", begin_s=0, end_s=10, moments_s=[5, 5.001]),
            Bar(name="b", words="w", begin_s=20, end_s=40, moments_s=[]),
        ],
        marks=[10],
    )
    found = drawn(svg)
    first, second = found.findall("rect")
    assert float(second.attrib["width"]) == pytest.approx(2 * float(first.attrib["width"]), abs=0.2)
    assert float(second.attrib["y"]) > float(first.attrib["y"])
    assert "<a>" in [text.text for text in found.findall("text")]
    assert sum(path.attrib.get("class") == "mark" for path in found.findall("path")) == 1
