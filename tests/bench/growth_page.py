"""The figures of growth.py as tables, and as plots that are small enough to be committed."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "growth.md"
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f6000", "#56b4e9", "#333333")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 340, 64, 150, 36, 48
_FEW = 100
"""Below so many of something, decimals are shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What one verb took.

    Attributes:
        growing: what there are many of: `snapshots`, `files` or `parts`.
        size: how many.
        store: `memory`, `directory` or `gcs`; empty where none is asked.
        verb: what was done.
        requests: by kind, as the service counts them.
        wall_s: seconds.
        cpu_s: of all threads.
        memory_mb: the most it held beyond what it began with, MiB.
    """

    growing: str
    size: int
    store: str
    verb: str
    requests: Mapping[str, int]
    wall_s: float
    cpu_s: float
    memory_mb: float


Cell = Callable[[Figure], str]


def asked(figure: Figure) -> int:
    """Requests, as the service counts them."""
    return figure.requests.get("http", sum(figure.requests.values()))


def line(figure: Figure) -> str:
    """One figure for a terminal."""
    what = f"{figure.size} {figure.growing} {figure.store}"
    kinds = " ".join(f"{kind}={count}" for kind, count in sorted(figure.requests.items()))
    return f"{what:28} {figure.verb:24} {figure.wall_s:9.3f} s {figure.cpu_s:9.3f} CPU-s {figure.memory_mb:7.1f} MiB  {kinds}"


# -- tables --------------------------------------------------------------------------------------------------------------


def table(figures: Iterable[Figure], cell: Cell) -> str:
    """A row for each verb, a column for each size."""
    rows: dict[str, dict[int, str]] = {}
    growing = ""
    for figure in figures:
        growing = figure.growing
        rows.setdefault(figure.verb, {})[figure.size] = cell(figure)
    sizes = sorted({size for row in rows.values() for size in row})
    head = f"| {growing} | {' | '.join(_grouped(size) for size in sizes)} |\n|---|{'--:|' * len(sizes)}\n"
    return head + "".join(
        f"| `{verb.partition(',')[0]}`{verb.partition(',')[2]} | {' | '.join(row.get(size, '') for size in sizes)} |\n"
        for verb, row in rows.items()
    )


def _requests(figure: Figure) -> str:
    return _grouped(asked(figure))


def _cost(figure: Figure) -> str:
    return f"{_seconds(figure.cpu_s)} · {_seconds(figure.wall_s)} · {figure.memory_mb:.0f}"


def _bytes(figure: Figure) -> str:
    return f"{_cost(figure)} · {figure.requests['bytes'] / 1e6:.1f}"


def _seconds(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.1f}" if value < _FEW else f"{value:.0f}"


def _grouped(number: int) -> str:
    """With thin gaps, as people read it."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


# -- plots ---------------------------------------------------------------------------------------------------------------


def plot(title: str, below: str, lines: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Lines over two logarithmic axes, as an SVG group for `sheet`.

    Args:
        title: says what the upright axis shows.
        below: what the other shows.
        lines: points by name.
    """
    points = [point for line in lines.values() for point in line]
    across, up = (_powers([point[axis] for point in points]) for axis in (0, 1))

    def place(point: tuple[float, float]) -> tuple[float, float]:
        share = [
            (math.log10(value) - low) / max(1, high - low)
            for value, (low, high) in zip(point, (across, up), strict=True)
        ]
        return (
            _LEFT + share[0] * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - share[1] * (_HEIGHT - _TOP - _BOTTOM),
        )

    drawn = [
        f'<text x="{_LEFT}" y="20" font-size="14">{escape(title)}</text>',
        f'<text x="{(_LEFT + _WIDTH - _RIGHT) / 2}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(below)}</text>',
    ]
    for power in range(across[0], across[1] + 1):
        x, y = place((10.0**power, 10.0 ** up[0]))
        drawn.append(f'<path d="M{x:.0f} {_TOP}V{y:.0f}" stroke="#ddd"/>')
        drawn.append(f'<text x="{x:.0f}" y="{y + 16:.0f}" text-anchor="middle">{_power(power)}</text>')
    for power in range(up[0], up[1] + 1):
        x, y = place((10.0 ** across[0], 10.0**power))
        drawn.append(f'<path d="M{x:.0f} {y:.0f}H{_WIDTH - _RIGHT}" stroke="#ddd"/>')
        drawn.append(f'<text x="{x - 6:.0f}" y="{y + 4:.0f}" text-anchor="end">{_power(power)}</text>')
    drawn += _curves(lines, place)
    return "\n".join(drawn)


def sheet(plots: Sequence[str]) -> str:
    """Plots below each other, as one SVG."""
    size = f'viewBox="0 0 {_WIDTH} {_HEIGHT * len(plots)}" font-family="sans-serif" font-size="12"'
    drawn = [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', '<rect width="100%" height="100%" fill="#fff"/>']
    drawn += [f'<g transform="translate(0 {_HEIGHT * row})">\n{one}\n</g>' for row, one in enumerate(plots)]
    return "\n".join([*drawn, "</svg>"]) + "\n"


def _curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], place: Callable[[tuple[float, float]], tuple[float, float]]
) -> list[str]:
    """Each line, with its name at its end; names keep out of each other's way."""
    drawn, used = [], [float(_HEIGHT)]
    by_end = sorted(enumerate(lines.items()), key=lambda item: -place(item[1][1][-1])[1])
    for number, (name, line) in by_end:
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [place(point) for point in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        used.append(min(placed[-1][1] + 4, used[-1] - 13))
        drawn.append(f'<text x="{placed[-1][0] + 8:.0f}" y="{used[-1]:.0f}" fill="{colour}">{escape(name)}</text>')
    return drawn


def _powers(values: Iterable[float]) -> tuple[int, int]:
    """The powers of ten that lie around some values."""
    logs = [math.log10(value) for value in values]
    return math.floor(min(logs) + 1e-9), math.ceil(max(logs) - 1e-9)


def _power(power: int) -> str:
    return _grouped(10**power) if power >= 0 else f"{10.0**power:g}"


# -- the page ------------------------------------------------------------------------------------------------------------


def machine() -> str:
    """On what is measured, when, and how busy that is with other things."""
    return (
        f"Measured on {datetime.now(UTC):%Y-%m-%d} with Python {platform.python_version()} on {platform.system()} "
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} processors; load average {os.getloadavg()[2]:.1f} in the last quarter of an hour of it.\n"
    )


def write(figures: Sequence[Figure], measured_on: str) -> None:
    """Renew what was measured in the page, and its plots."""

    def some(growing: str, store: str = "") -> list[Figure]:
        return [figure for figure in figures if (figure.growing, figure.store) == (growing, store)]

    blocks = {
        "machine": measured_on,
        "requests": table(some("snapshots", "memory"), _requests),
        "gcs": table(some("snapshots", "gcs"), _requests),
        "run-memory": table(some("snapshots", "memory"), _cost),
        "run-directory": table(some("snapshots", "directory"), _cost),
        "file-requests": table(some("files", "memory"), _requests),
        "files-memory": table(some("files", "memory"), _cost),
        "files-directory": table(some("files", "directory"), _cost),
        "parts": table(some("parts"), _bytes),
    }
    text = PAGE.read_text()
    for name, block in blocks.items():
        before, begin, rest = text.partition(f"<!-- measured: {name} -->\n")
        if not begin:
            raise ValueError(f"{PAGE} has no place for {name}")
        text = f"{before}{begin}\n{block}\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    PAGE.write_text(text)
    run, files, parts = some("snapshots", "directory"), some("files", "directory"), some("parts")
    plots = {
        "snapshots": [
            plot("requests", "snapshots in the run", _lines(some("snapshots", "memory"), asked)),
            plot("processor seconds, on a directory", "snapshots in the run", _lines(run, _cpu_s)),
            plot("MiB of memory, on a directory", "snapshots in the run", _lines(run, _memory_mb)),
        ],
        "files": [
            plot("requests", "files in the snapshot", _lines(some("files", "memory"), asked)),
            plot("processor seconds, on a directory", "files in the snapshot", _lines(files, _cpu_s)),
            plot("MiB of memory, on a directory", "files in the snapshot", _lines(files, _memory_mb)),
        ],
        "parts": [
            plot("processor seconds", "parts in the manifest", _lines(parts, _cpu_s)),
            plot("MiB of memory", "parts in the manifest", _lines(parts, _memory_mb)),
        ],
    }
    for name, drawn in plots.items():
        PAGE.with_name(f"growth-{name}.svg").write_text(sheet(drawn))


def _cpu_s(figure: Figure) -> float:
    return max(figure.cpu_s, 0.001)


def _memory_mb(figure: Figure) -> float:
    return max(figure.memory_mb, 1)


def _lines(figures: Iterable[Figure], value: Callable[[Figure], float]) -> dict[str, list[tuple[float, float]]]:
    """Points of each verb."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for figure in figures:
        lines.setdefault(figure.verb, []).append((figure.size, value(figure)))
    return lines
