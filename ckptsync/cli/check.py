"""Verbs that check a bucket: doctor, bench."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from ckptsync.cli.options import (
    Options,
    converted,
    opened,
    parsed_size,
    part_size,
    positional,
    state_dir,
    store,
    verb,
    workers,
)

if TYPE_CHECKING:
    from ckptsync.verbs.bench import Rate
    from ckptsync.verbs.doctor import Check

_NAME_WIDTH = 16


@verb(positional("run"), state_dir, store)
def doctor(options: Options, run: str) -> None:
    """Prove that the bucket does what ckptsync needs.

    Tries rights one by one, conditional puts, multipart uploads, range reads, checksums, the clock and the throughput with
    objects of its own, which it deletes, then prints every option in force. Exits with 3 when a check failed. RUN may be left
    out when CKPTSYNC_RUN is set.
    """
    from ckptsync.cli.output import print_lines
    from ckptsync.errors import StoreError
    from ckptsync.redaction import redacted
    from ckptsync.verbs.doctor import diagnose

    checks: list[Check] = []
    with opened(options, run) as bucket:
        for check in diagnose(bucket):
            checks.append(check)
            if not options.as_json:
                print_lines(_lines(check))
    failed = [check.name for check in checks if check.state == "fail"]
    if options.as_json:
        options.answer({"run": redacted(run), "ok": not failed, "checks": checks})
    if failed:
        why = f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}"
        raise StoreError(f"{run} cannot be used as it is: {why}")


def _lines(check: Check) -> Iterator[str]:
    """One check for people; details of several lines stand below it."""
    first, *more = check.detail.splitlines() or [""]
    if more:
        first, more = "", [first, *more]
    yield f"{check.state:<4}  {check.name:<{_NAME_WIDTH}}  {first}".rstrip()
    yield from (f"        {line}" for line in more)


@verb(
    positional("run"),
    click.option(
        "--size",
        metavar="SIZE",
        default="1GiB",
        callback=converted(parsed_size),
        help="How much to move each way.  [default: 1GiB]",
    ),
    part_size,
    workers,
    store,
)
def bench(options: Options, run: str, *, size: int) -> None:
    """Measure upload, download and verify rates.

    Moves random bytes to and from RUN and deletes them. With --json, one object a line. RUN may be left out when CKPTSYNC_RUN
    is set.
    """
    from ckptsync.cli.output import print_json, print_lines, table
    from ckptsync.verbs.bench import bench as measure

    with opened(options, run, doing="measuring") as bucket:
        rates = measure(bucket, size_bytes=size)
    if options.as_json:
        for rate in rates:
            print_json(rate)
        return
    head = ("DIRECTION", "SIZE", "TIME", "MiB/s", "CPU-s/GB")
    print_lines(table(head, [_cells(rate) for rate in rates], right=(1, 2, 3, 4)))


def _cells(rate: Rate) -> tuple[str, ...]:
    """Columns of one direction."""
    from ckptsync.cli.output import duration, size

    return rate.direction, size(rate.bytes), duration(rate.seconds), f"{rate.mib_per_s:.1f}", f"{rate.cpu_s_per_gb:.2f}"
