"""Bars in SVG: small, readable in light and dark, made of text alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

_COLOURS = ("#3b7dd8", "#e08a2c")
_NAMES, _BARS, _VALUES = 220, 440, 60
_BAR, _GAP, _TOP = 9, 8, 46
_STYLE = (
    "text{font:12px sans-serif;fill:#666}.t{font-size:14px;font-weight:bold}.us{font-weight:bold}"
    "@media(prefers-color-scheme:dark){text{fill:#bbb}}"
)


def bars(title: str, series: Sequence[str], rows: Mapping[str, Sequence[float]], *, ours: str) -> str:
    """Draw a group of bars for each row, one bar for each of the series, all to one scale.

    Args:
        title: what the numbers are.
        series: names of the bars of a group.
        rows: numbers of each group, in the order of `series`; NaN for none.
        ours: the beginning of the names that stand out.
    """
    most = max((value for values in rows.values() for value in values if value == value), default=1.0)  # noqa: PLR0124  NaN
    height = _TOP + len(rows) * (_BAR * len(series) + _GAP)
    width = _NAMES + _BARS + _VALUES
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<text class="t" x="0" y="15">{escape(title)}</text>',
    ]
    for number, name in enumerate(series):
        at = _NAMES + number * 110
        lines.append(f'<rect x="{at}" y="25" width="10" height="10" fill="{_COLOURS[number]}"/>')
        lines.append(f'<text x="{at + 15}" y="35">{escape(name)}</text>')
    top = _TOP
    for name, values in rows.items():
        middle = top + _BAR * len(series) / 2 + 4
        weight = ' class="us"' if name.startswith(ours) else ""
        lines.append(f'<text{weight} x="{_NAMES - 8}" y="{middle:.0f}" text-anchor="end">{escape(name)}</text>')
        for number, value in enumerate(values):
            if value != value:  # noqa: PLR0124  NaN
                continue
            y, length = top + number * _BAR, max(1.0, _BARS * value / most)
            lines.append(
                f'<rect x="{_NAMES}" y="{y}" width="{length:.0f}" height="{_BAR - 1}" fill="{_COLOURS[number]}"/>'
            )
            lines.append(f'<text x="{_NAMES + length + 4:.0f}" y="{y + 8}" style="font-size:9px">{value:.3g}</text>')
        top += _BAR * len(series) + _GAP
    return "\n".join([*lines, "</svg>"]) + "\n"
