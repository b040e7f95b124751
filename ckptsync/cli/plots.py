"""Plots in SVG, made of text alone: lines over steps or time, and bars along a time line. Readable in light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from ckptsync.cli.output import duration, printable

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f6000", "#56b4e9")
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 760, 240, 76, 16, 34, 34
_BAR, _ROW = 14, 24
_TICKS, _LETTERS = 6, 11
_MOST_POINTS = 800
_GREATEST, _LEAST = 1e300, 1e-9
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_ROUND_S = (1, 2, 5, 10, 15, 30, *(_MINUTE * n for n in (1, 2, 5, 10, 15, 30)), *(_HOUR * n for n in (1, 2, 3, 6, 12)))
Place = tuple[float, float]
Words = Callable[[float], str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Where values of an axis stand.

    Attributes:
        low: the least value shown.
        high: the greatest, more than `low`.
        begin: pixels at `low`.
        end: pixels at `high`.
    """

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixels of a value."""
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)


def number(value: float) -> str:
    """Write a number for an axis."""
    return f"{value:.6g}"


def round_step(span: float) -> float:
    """Return a round distance of ticks, 1, 2 or 5 times a power of ten, of which a span has six or fewer."""
    rough = span / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)


def round_time_step(span_s: float) -> float:
    """Return as `round_step` what is round in seconds, minutes, hours or days."""
    rough_s = span_s / _TICKS
    if rough_s < 1:
        return round_step(span_s)
    return next((step for step in _ROUND_S if step >= rough_s), _DAY * max(1.0, round_step(span_s / _DAY)))


def ticks(low: float, high: float, step: float) -> Iterable[float]:
    """Return the multiples of a step from low to high."""
    first = math.ceil(low / step - 1e-9)
    return (step * count for count in range(first, math.floor(high / step + 1e-9) + 1))


def lines(
    title: str,
    series: Mapping[str, Sequence[Place]],
    *,
    x_name: str,
    marks: Sequence[float] = (),
    x_is_time: bool = False,
    y_is_time: bool = False,
) -> str:
    """Draw lines through places, each of a colour of its own, to scales of their own.

    Args:
        title: what the plot shows.
        series: places `(x, y)` by name, sorted by `x`; both are finite. Of very many those that stand out are drawn,
            and none that lie beyond what arithmetic can span.
        x_name: what stands below.
        marks: where on x something happened; each is a dashed line.
        x_is_time: x is in seconds from 0.
        y_is_time: y is in seconds.
    """
    series = {name: [place for place in found if abs(place[1]) < _GREATEST] for name, found in series.items()}
    places = [place for found in series.values() for place in found]
    from_zero = [0.0] if x_is_time else []
    x = _scale([*from_zero, *marks, *(place[0] for place in places)], _LEFT, _WIDTH - _RIGHT)
    y = _scale([0.0, *(place[1] for place in places)] if y_is_time else [place[1] for place in places], 0, 0)
    y = Scale(low=y.low, high=y.high, begin=_HEIGHT - _BOTTOM, end=_TOP)
    drawn = [
        *_x_axis(x, _HEIGHT, x_name, is_time=x_is_time),
        *_y_axis(y, is_time=y_is_time),
        *_marks(marks, x, _HEIGHT),
    ]
    for place, (name, found) in enumerate(series.items()):
        colour = COLOURS[place % len(COLOURS)]
        path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in thinned(found, _MOST_POINTS))
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        if len(found) == 1:
            drawn.append(f'<circle cx="{x(found[0][0]):.1f}" cy="{y(found[0][1]):.1f}" r="3" fill="{colour}"/>')
        if len(series) > 1:
            drawn.append(_text(_WIDTH - _RIGHT - 120 * (len(series) - place - 1), 16, name, "end", fill=colour))
    return _svg(title, _HEIGHT, drawn)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A span of time, and moments in it, all in seconds; `name` stands before it, `words` say more to who points at it."""

    name: str
    words: str
    begin_s: float
    end_s: float
    moments_s: Sequence[float]


def timeline(title: str, bars: Sequence[Bar], *, marks: Sequence[float] = ()) -> str:
    """Draw spans of time below each other, with a tick at each of their moments.

    Args:
        title: what the plot shows.
        bars: from top to bottom, one or more.
        marks: when something happened; each is a dashed line.
    """
    height = _TOP + _ROW * len(bars) + _BOTTOM
    x = _scale([at for bar in bars for at in (bar.begin_s, bar.end_s)] + list(marks), _LEFT, _WIDTH - _RIGHT)
    drawn = [*_x_axis(x, height, "since the beginning", is_time=True), *_marks(marks, x, height)]
    for row, bar in enumerate(bars):
        top = _TOP + row * _ROW
        left, width = x(bar.begin_s), max(1.0, x(bar.end_s) - x(bar.begin_s))
        drawn.append(_text(_LEFT - 6, top + 11, bar.name[:_LETTERS], "end"))
        drawn.append(
            f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{_BAR}" fill="{COLOURS[0]}" fill-opacity=".35">'
            f"<title>{_safe(bar.words)}</title></rect>"
        )
        at = sorted({round(x(moment), 1) for moment in bar.moments_s})
        path = "".join(f"M{place:g} {top}v{_BAR}" for place in at)
        drawn.append(f'<path d="{path}" stroke="{COLOURS[0]}" fill="none"/>')
    return _svg(title, height, drawn)


def thinned(places: Sequence[Place], most: int) -> list[Place]:
    """Return about so many places at the most: of each stretch the first, the lowest and the highest, in order."""
    if len(places) <= most:
        return list(places)
    length = math.ceil(3 * len(places) / most)
    kept: list[Place] = []
    for begin in range(0, len(places), length):
        stretch = places[begin : begin + length]
        by_height = sorted(range(len(stretch)), key=lambda index: stretch[index][1])
        kept += [stretch[index] for index in sorted({0, by_height[0], by_height[-1]})]
    return kept


def _scale(values: Sequence[float], begin: float, end: float) -> Scale:
    """A scale that shows all values."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    greatest = max(abs(low), abs(high))
    if not high - low > max(_LEAST * greatest, 1 / _GREATEST):
        room = greatest / 2 if greatest > 1 / _GREATEST else 1.0
        low, high = low - room, high + room
    return Scale(low=low, high=high, begin=begin, end=end)


def _x_axis(x: Scale, height: int, name: str, *, is_time: bool) -> Iterable[str]:
    """Ticks below, and what they count."""
    bottom = height - _BOTTOM
    step = (round_time_step if is_time else round_step)(x.high - x.low)
    words: Words = duration if is_time else number
    yield f'<path class="axis" d="M{_LEFT} {bottom}H{_WIDTH - _RIGHT}"/>'
    for at in ticks(x.low, x.high, step):
        yield f'<path class="axis" d="M{x(at):.1f} {bottom}v4"/>'
        yield _text(x(at), bottom + 16, words(at), "middle")
    yield _text(_WIDTH - _RIGHT, height - 3, name, "end")


def _y_axis(y: Scale, *, is_time: bool) -> Iterable[str]:
    """Faint lines across, and what they stand for."""
    step = (round_time_step if is_time else round_step)(y.high - y.low)
    words: Words = duration if is_time else number
    for at in ticks(y.low, y.high, step):
        yield f'<path class="grid" d="M{_LEFT} {y(at):.1f}H{_WIDTH - _RIGHT}"/>'
        yield _text(_LEFT - 6, y(at) + 4, words(at), "end")


def _marks(marks: Sequence[float], x: Scale, height: int) -> Iterable[str]:
    """Dashed lines from top to bottom."""
    return (f'<path class="mark" d="M{x(mark):.1f} {_TOP - 6}V{height - _BOTTOM}"/>' for mark in marks)


def _text(x: float, y: float, words: str, anchor: str, *, fill: str = "") -> str:
    """A piece of text."""
    colour = f' style="fill:{fill}"' if fill else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{colour}>{_safe(words)}</text>'


def _safe(words: str) -> str:
    """Text as it may stand in a page, whatever it was."""
    return escape(printable(words))


def _svg(title: str, height: int, drawn: Iterable[str]) -> str:
    """The whole picture."""
    return "\n".join(
        [
            f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{_safe(title)}">',
            f'<text class="title" x="0" y="16">{_safe(title)}</text>',
            *drawn,
            "</svg>",
        ]
    )
