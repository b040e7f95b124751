"""What goes to stdout: JSON for programs; sentences and aligned tables in human units for people."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import click

_STEP = 1024
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def print_json(value: object) -> None:
    """Print a value as one line of JSON, in ASCII, so that no locale can spoil it."""
    import json

    import msgspec

    click.echo(json.dumps(msgspec.to_builtins(value, enc_hook=str), separators=(", ", ": ")))


def say(text: str) -> None:
    """Write to stderr; where that is closed or full, nobody reads it, and work goes on."""
    with suppress(OSError, ValueError):
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()


def printable(text: str) -> str:
    """Return the text with control characters escaped: a name from a stranger's manifest must not drive the terminal."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def one_line(text: str) -> str:
    """Return the text as one printable line."""
    return printable(" ".join(text.split()))


def print_lines(lines: Iterable[str]) -> None:
    """Print lines for people."""
    for line in lines:
        click.echo(printable(line))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> Iterable[str]:
    """Return aligned lines, the head first.

    Args:
        head: names of the columns.
        rows: cells, as many in each row as in the head.
        right: 0-based columns that are aligned to the right, as numbers are.
    """
    cells = [list(head), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    to_right = set(right)
    for row in cells:
        padded = (
            cell.rjust(width) if index in to_right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(padded).rstrip()


def facts(pairs: Mapping[str, str]) -> Iterable[str]:
    """Return `name  value` lines, aligned, empty values left out."""
    shown = {name: value for name, value in pairs.items() if value}
    width = max(map(len, shown), default=0)
    return (f"{name.ljust(width)}  {value}" for name, value in shown.items())


def size(count_bytes: float) -> str:
    """Write bytes for people: `512 B`, `12.0 MiB`."""
    if count_bytes < _STEP:
        return f"{count_bytes:.0f} B"
    unit = 0
    while round(count_bytes, 1) >= _STEP and unit < len(_UNITS) - 1:
        count_bytes /= _STEP
        unit += 1
    return f"{count_bytes:.1f} {_UNITS[unit]}"


def duration(seconds_s: float) -> str:
    """Write seconds for people: `89 ms`, `1.2 s`, `3 min 20 s`, `5 h 2 min`, `3 d 4 h`."""
    if round(seconds_s, 3) < 1:
        return f"{seconds_s * 1000:.0f} ms"
    if round(seconds_s, 1) < _MINUTE:
        return f"{seconds_s:.1f} s"
    whole = round(seconds_s)
    for long, short, long_name, short_name in ((_DAY, _HOUR, "d", "h"), (_HOUR, _MINUTE, "h", "min")):
        if whole >= long:
            return f"{whole // long} {long_name} {whole % long // short} {short_name}"
    return f"{whole // _MINUTE} min {whole % _MINUTE} s"


def count(number: int, noun: str) -> str:
    """Write a number of things: `1 file`, `3 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def when(rfc3339: str) -> str:
    """Write a time of the catalog for people, to the second, in UTC."""
    return f"{rfc3339[:10]} {rfc3339[11:19]}Z" if rfc3339 else "-"


def metrics(values: Mapping[str, float | None]) -> str:
    """Write metrics as `loss=0.25 accuracy=0.9`; what is no number shows as nan."""
    return " ".join(f"{name}={'nan' if value is None else format(value, '.6g')}" for name, value in values.items())
