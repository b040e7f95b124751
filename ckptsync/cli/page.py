"""A report as one HTML page that needs nothing else: no scripts, no styles or pictures from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape

from ckptsync.cli.output import duration, printable
from ckptsync.cli.plots import Bar, Place, lines, timeline
from ckptsync.cli.told import INTERRUPTIONS, SNAPSHOTS, interruption_cells, snapshot_cells, told
from ckptsync.verbs.lost_work import Point
from ckptsync.verbs.report import Report

_METRICS_SHOWN = 12
_ROWS_SHOWN = 200
_PROCESSES_SHOWN = 40
_STYLE = """\
:root{color-scheme:light dark;--ink:#222;--faint:#ddd;--grey:#666}
@media(prefers-color-scheme:dark){:root{--ink:#ddd;--faint:#3a3a3a;--grey:#aaa}}
body{font:15px/1.45 system-ui,sans-serif;color:var(--ink);max-width:820px;margin:2em auto;padding:0 1em}
h1{font-size:1.5em;overflow-wrap:anywhere}h2{font-size:1.15em;margin-top:2em}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25em 1.2em}dt{color:var(--grey)}dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.85em}
th,td{text-align:left;padding:.2em .8em .2em 0;border-bottom:1px solid var(--faint);vertical-align:top}
svg{width:100%;height:auto;margin:.6em 0}svg text{font:11px system-ui,sans-serif;fill:var(--grey)}
svg text.title{font-size:13px;font-weight:600;fill:var(--ink)}.axis{stroke:var(--grey);fill:none}
.grid{stroke:var(--faint);fill:none}.mark{stroke:#d62728;stroke-dasharray:4 3;fill:none}
"""


def page(report: Report) -> str:
    """Return the whole page. Every name in it is escaped, and its policy lets a browser load and run nothing."""
    title = f"Report of {report.url}"
    made = datetime.fromtimestamp(report.made_s, UTC).isoformat(sep=" ", timespec="seconds").replace("+00:00", "Z")
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        f"<title>{_safe(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{_safe(title)}</h1>",
        f"<p>Made {made} from the snapshots that are left of the run.</p>",
        "<dl>",
        *(f"<dt>{_safe(name)}</dt><dd>{_safe(words)}</dd>" for name, words in told(report).items()),
        "</dl>",
    ]
    if report.snapshots:
        parts += _plots(report)
    if report.interruptions:
        parts += ["<h2>Interruptions</h2>", *_table(INTERRUPTIONS, map(interruption_cells, report.interruptions))]
    if report.snapshots:
        newest = report.snapshots[::-1][:_ROWS_SHOWN]
        left_out = len(report.snapshots) - len(newest)
        parts += ["<h2>Snapshots, the newest first</h2>", *_table(SNAPSHOTS, map(snapshot_cells, newest))]
        parts += [f"<p>{left_out} older ones are left out here; --json tells all.</p>"] if left_out else []
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _safe(text: str) -> str:
    """Text as it may stand in a page, whatever a stranger put into a manifest."""
    return escape(printable(text))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    """A table."""
    yield '<div class="wide"><table><tr>' + "".join(f"<th>{_safe(name)}</th>" for name in head) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{_safe(cell)}</td>" for cell in row) + "</tr>"
    yield "</table></div>"


def _plots(report: Report) -> Iterable[str]:
    """Timeline, exposure, what saves took, and each metric over steps."""
    points, begun_s = report.snapshots, report.processes[0].begun_s
    stops_s = [stop.stopped_s - begun_s for stop in report.interruptions]
    yield "<h2>Over time</h2>"
    yield timeline("Processes, their commits, and interruptions (dashed)", _bars(report, begun_s), marks=stops_s)
    exposed = _ages(points, begun_s)
    if exposed:
        yield lines(
            "Work that a crash would lose: age of the newest snapshot (RPO)",
            {"age": exposed},
            x_name="since the beginning",
            marks=stops_s,
            x_is_time=True,
            y_is_time=True,
        )
    took = {"upload": [(float(point.step), point.upload_s) for point in points]}
    stalled = [(float(point.step), point.loop.stall_s) for point in points if point.loop]
    yield lines(
        "What each save took" + (", and how long the loop waited" if stalled else ""),
        {**took, **({"stall": stalled} if stalled else {})},
        x_name="step",
        y_is_time=True,
    )
    yield from _metrics(points)


def _metrics(points: Sequence[Point]) -> Iterable[str]:
    """A plot for each metric; where steps were done again, the line goes back."""
    names = sorted({name for point in points for name in point.metrics})
    if names:
        yield "<h2>Metrics over steps</h2>"
    for name in names[:_METRICS_SHOWN]:
        found = [(float(point.step), value) for point in points if (value := point.metrics.get(name)) is not None]
        if found:
            yield lines(name, {name: found}, x_name="step")
    if len(names) > _METRICS_SHOWN:
        yield f"<p>{len(names) - _METRICS_SHOWN} more metrics are left out here; --json tells all.</p>"


def _bars(report: Report, begun_s: float) -> list[Bar]:
    """The newest processes, each with its commits."""
    bars = []
    for process in report.processes[-_PROCESSES_SHOWN:]:
        moments = [
            point.committed_s - begun_s
            for point in report.snapshots
            if process.begun_s <= point.committed_s <= process.ended_s and point.host == process.host
        ]
        words = f"{process.host}: steps {process.first_step} to {process.last_step}, {duration(process.ended_s - process.begun_s)}"
        bars.append(
            Bar(
                name=process.host,
                words=words,
                begin_s=process.begun_s - begun_s,
                end_s=process.ended_s - begun_s,
                moments_s=moments,
            )
        )
    return bars


def _ages(points: Sequence[Point], begun_s: float) -> list[Place]:
    """The age of the newest snapshot: it grows until the next is committed, and falls to the age of that one's state."""
    found: list[Place] = []
    for point in points:
        at_s = point.committed_s - begun_s
        if point.exposed_s is not None:
            found.append((at_s, point.exposed_s))
        found.append((at_s, point.upload_s))
    return sorted(found, key=lambda place: place[0]) if len(points) > 1 else []
