"""Verbs that check a bucket: doctor, bench."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import click

from ckptsync.cli.options import (
    Options,
    converted,
    nested,
    opened,
    parsed_size,
    part_size,
    positional,
    store,
    verb,
    workers,
)

if TYPE_CHECKING:
    from ckptsync.config import Config
    from ckptsync.verbs.bench import Rate
    from ckptsync.verbs.doctor import Check

_NAME_WIDTH = 24


@verb(positional("run"), store)
def doctor(options: Options, run: str) -> None:
    """Prove that the bucket does what ckptsync needs.

    Tries rights one by one, conditional puts, multipart uploads, range reads, checksums, the clock and the throughput with
    objects of its own, which it deletes, then prints every option in force. Exits with 3 when a check failed. RUN may be left
    out when CKPTSYNC_RUN is set.
    """
    from ckptsync.cli.output import print_lines
    from ckptsync.config import resolve
    from ckptsync.errors import StoreError
    from ckptsync.verbs.doctor import diagnose

    config = resolve(nested(options.settings), file=options.config_file)
    checks: list[Check] = []
    try:
        with opened(options, run) as bucket:
            for check in diagnose(bucket):
                checks.append(check)
                if not options.as_json:
                    print_lines([f"{check.state:<4}  {check.name:<{_NAME_WIDTH}}  {check.detail}"])
    finally:
        if not options.as_json:
            print_lines(["", "# options in force", *_toml(config)])
    failed = [check.name for check in checks if check.state == "fail"]
    if options.as_json:
        options.answer({"run": run, "ok": not failed, "checks": checks, "configuration": _shown(config)})
    if failed:
        raise StoreError(
            f"{run} cannot be used as it is: {len(failed)} of {len(checks)} checks failed: {', '.join(failed)}"
        )


def _shown(config: Config) -> dict[str, object]:
    """The options by group, without passwords that somebody put into an address."""
    import msgspec

    def masked(value: object) -> object:
        if isinstance(value, Mapping):
            return {name: masked(inner) for name, inner in value.items()}
        if isinstance(value, str) and "@" in value and "://" in value:
            parts = urlsplit(value)
            return urlunsplit(parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}"))
        return value

    return {name: masked(value) for name, value in msgspec.to_builtins(config).items()}


def _toml(config: Config) -> Iterator[str]:
    """The options as a TOML file that --config would take; what is not set stands in a comment."""
    shown = _shown(config)
    yield from _assignments({name: value for name, value in shown.items() if not isinstance(value, Mapping)})
    for name, value in shown.items():
        if isinstance(value, Mapping):
            yield f"[{name}]"
            yield from _assignments(value)


def _assignments(values: Mapping[str, object]) -> Iterable[str]:
    """Lines of one TOML table."""
    import json

    return (
        f"# {name} is not set" if value is None else f"{name} = {json.dumps(value)}" for name, value in values.items()
    )


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
