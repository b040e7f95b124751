"""A report in words: facts, and the cells of its tables, for the terminal and for a page alike."""

from __future__ import annotations

from datetime import UTC, datetime

from ckptsync.cli.output import count, duration, metrics, size, when
from ckptsync.verbs.lost_work import NO_STEP, Interruption, Point
from ckptsync.verbs.report import Report

SNAPSHOTS = ("STEP", "COMMITTED", "SIZE", "SENT", "REUSED", "UPLOAD", "STALL", "RPO", "METRICS", "HOST")
INTERRUPTIONS = ("LAST STEP", "COMMITTED", "WENT ON FROM", "STEPS LOST", "GAP", "LOST", "RESUME", "KIND", "HOST")


def told(report: Report) -> dict[str, str]:
    """Return what a person asks first, by name; what is not known is left out."""
    if not report.snapshots:
        return {"run": report.url, "snapshots": _none(report)}
    exposure, share, bill, newest = report.exposure, report.share, report.bill, report.snapshots[-1]
    stalled = "" if share.stalled_s is None else f", {duration(share.stalled_s)} waiting for saves"
    lost_steps = sum(stop.steps_lost for stop in report.interruptions)
    worst = f", at worst {duration(exposure.worst_s)} (before step {exposure.worst_step})" if exposure.worst_s else ""
    return {
        "run": report.url,
        "snapshots": f"{len(report.snapshots)}, steps {report.snapshots[0].step} to {newest.step}"
        + (f"; {report.unreadable} more cannot be read" if report.unreadable else ""),
        "time": f"{duration(share.wall_s)}{stalled}, {duration(share.lost_s)} lost to interruptions",
        "goodput": "" if share.percent is None else f"{share.percent:.1f} % of the time went into training",
        "pace": "" if share.step_s is None else f"{duration(share.step_s)} a step, saves included",
        "interruptions": f"{len(report.interruptions) + report.interruptions_unseen}, {count(lost_steps, 'step')} known to be lost"
        + (f"; {report.interruptions_unseen} left no snapshot to tell of them" if report.interruptions_unseen else ""),
        "RPO": ("" if exposure.now_s is None else f"{duration(exposure.now_s)} now")
        + ("" if exposure.median_s is None else f", mostly {duration(exposure.median_s)}")
        + worst,
        "storage": f"{size(bill.bytes_stored)}, about {bill.storage_month:.2f} a month",
        "requests": f"about {bill.writes + bill.reads}, {bill.requests:.2f} in all",
        "prices": bill.source,
    }


def _none(report: Report) -> str:
    """Say that there is nothing."""
    return f"none that can be read, {report.unreadable} that cannot" if report.unreadable else "none"


def snapshot_cells(point: Point) -> tuple[str, ...]:
    """Columns of one snapshot."""
    return (
        f"{point.step}{' (quarantined)' if point.quarantined else ''}",
        _moment(point.committed_s),
        size(point.bytes),
        size(point.bytes_sent),
        size(point.bytes_reused),
        duration(point.upload_s),
        "-" if point.loop is None else duration(point.loop.stall_s),
        _or_dash(point.exposed_s),
        metrics(point.metrics),
        point.host,
    )


def interruption_cells(stop: Interruption) -> tuple[str, ...]:
    """Columns of one interruption."""
    return (
        str(stop.last_step),
        _moment(stop.stopped_s),
        "the beginning" if stop.resumed_step == NO_STEP else f"step {stop.resumed_step}",
        str(stop.steps_lost),
        duration(stop.gap_s),
        _or_dash(stop.lost_s),
        _or_dash(stop.resume_s),
        stop.kind,
        stop.host,
    )


def _or_dash(value_s: float | None) -> str:
    """Seconds, or that nobody knows."""
    return "-" if value_s is None else duration(value_s)


def _moment(at_s: float) -> str:
    """A time of the calendar."""
    return when(datetime.fromtimestamp(at_s, UTC).isoformat())
