"""The verb that looks back: report."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptsync.cli.options import Options, opened, positional, store, verb

if TYPE_CHECKING:
    from ckptsync.verbs.report import Report

_ROWS_SHOWN = 20


@verb(
    positional("run"),
    click.option("--html", metavar="FILE", type=click.Path(dir_okay=False), help="Write a page with plots, too."),
    store,
)
def report(options: Options, run: str, *, html: str | None) -> None:
    """Tell what a run took, and what interruptions lost.

    Goodput, the age of the newest snapshot over time (RPO), steps done again, and an estimate of storage and requests, from the
    snapshots that are left. Prices are the clouds' lists; prices.gib_month and its neighbours replace them. RUN may be left out when
    CKPTSYNC_RUN is set.
    """
    from ckptsync.verbs.report import report as report_of

    with opened(options, run) as bucket:
        found = report_of(bucket)
    if html is not None:
        _write(found, Path(html))
    options.answer(found, *_lines(found))


def _write(found: Report, place: Path) -> None:
    """Write the page.

    Raises:
        DiskError: it cannot be written.
    """
    from ckptsync.cli.page import page
    from ckptsync.errors import DiskError

    try:
        place.write_text(page(found), encoding="utf-8")
    except OSError as error:
        raise DiskError(f"cannot write {place}: {error.strerror}") from error


def _lines(found: Report) -> Iterator[str]:
    """Facts and tables."""
    from ckptsync.cli.output import facts, table
    from ckptsync.cli.told import INTERRUPTIONS, SNAPSHOTS, interruption_cells, snapshot_cells, told

    yield from facts(told(found))
    if found.interruptions:
        yield ""
        yield from table(INTERRUPTIONS, map(interruption_cells, found.interruptions), right=(0, 3))
    if found.snapshots:
        yield ""
        shown = found.snapshots[::-1][:_ROWS_SHOWN]
        yield from table(SNAPSHOTS, map(snapshot_cells, shown), right=(0, 2, 3, 4))
        if len(found.snapshots) > len(shown):
            yield f"and {len(found.snapshots) - len(shown)} older; --json and --html tell more"
