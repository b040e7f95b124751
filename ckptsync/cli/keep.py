"""Verbs that decide what stays: promote, pin, unpin, rm, gc."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ckptsync.cli.options import Options, converted, opened, parsed_duration, positional, store, verb

if TYPE_CHECKING:
    from ckptsync.policy import BestN, KeepPolicy
    from ckptsync.verbs.gc import Collected

_FOREIGN_NAMED = 10


@verb(
    positional("run"),
    positional("snap"),
    positional("alias"),
    click.option("--force", is_flag=True, help="Also when the snapshot is quarantined."),
    store,
)
def promote(options: Options, run: str, snap: str, alias: str, *, force: bool) -> None:
    """Let a name stand for a snapshot.

    Of two who change the name at once, one is told. A quarantined snapshot is refused. RUN may be left out when CKPTSYNC_RUN is set.
    """
    from ckptsync import names

    with opened(options, run) as bucket:
        promoted = names.promote(bucket.catalog, names.find(bucket.catalog, snap), alias, force=force)
    result = {
        "alias": promoted.name,
        "snapshot": promoted.snapshot,
        "version": promoted.version,
        "created": promoted.created,
    }
    options.done(result, f"{promoted.name} stands for {promoted.snapshot}")


@verb(positional("run"), positional("snap"), store)
def pin(options: Options, run: str, snap: str) -> None:
    """Keep a snapshot from retention and rm.

    RUN may be left out when CKPTSYNC_RUN is set.
    """
    from ckptsync import names

    with opened(options, run) as bucket:
        snapshot = names.find(bucket.catalog, snap)
        names.pin(bucket.catalog, snapshot)
    options.done({"snapshot": str(snapshot), "pinned": True}, f"pinned {snapshot}")


@verb(positional("run"), positional("snap"), store)
def unpin(options: Options, run: str, snap: str) -> None:
    """Leave a snapshot to retention again.

    RUN may be left out when CKPTSYNC_RUN is set.
    """
    from ckptsync import names

    with opened(options, run) as bucket:
        snapshot = names.find(bucket.catalog, snap)
        names.unpin(bucket.catalog, snapshot)
    options.done({"snapshot": str(snapshot), "pinned": False}, f"unpinned {snapshot}")


def _can_ask() -> bool:
    """Whether a person is at the other end."""
    return sys.stdin.isatty()


@verb(
    positional("run"),
    positional("snap"),
    click.option("--force", is_flag=True, help="Delete it although it is pinned, has an alias or is being read."),
    click.option("-y", "--yes", is_flag=True, help="Do not ask. Off a terminal nothing is asked anyway."),
    store,
)
def rm(options: Options, run: str, snap: str, *, force: bool, yes: bool) -> None:
    """Delete a snapshot.

    Objects that another snapshot needs stay. RUN may be left out when CKPTSYNC_RUN is set.
    """
    from ckptsync import names
    from ckptsync.cli.output import count, size
    from ckptsync.errors import CkptsyncError
    from ckptsync.verbs.remove import remove

    with opened(options, run) as bucket:
        snapshot = str(names.find(bucket.catalog, snap))
        sure = yes or not _can_ask() or click.confirm(f"delete {snapshot} from {run} for good?", err=True)
        if not sure:
            raise CkptsyncError("nothing was deleted")
        removed = remove(bucket, snapshot, force=force)
    options.done(removed, f"removed {removed.snapshot}: {count(removed.objects, 'object')}, {size(removed.bytes)}")


def _best(texts: Sequence[str]) -> list[BestN]:
    """Read `METRIC:min`, `METRIC:max:3`.

    Raises:
        ValueError: one is not like that.
    """
    from ckptsync.policy import BestN

    found = []
    for text in texts:
        metric, _, rest = text.partition(":")
        mode, colon, number = rest.partition(":")
        if not metric or mode not in {"min", "max"} or (colon and not (number.isdecimal() and int(number))):
            raise ValueError(f"{text!r} is not like METRIC:min, METRIC:max or METRIC:min:3")
        found.append(BestN(metric, "min" if mode == "min" else "max", int(number or 1)))
    return found


@verb(
    positional("run"),
    click.option("--keep-last", metavar="N", type=click.IntRange(1), help="Keep the newest N."),
    click.option("--keep-every", metavar="N", type=click.IntRange(1), help="Keep steps that N divides."),
    click.option(
        "--keep-best",
        metavar="METRIC:min|max[:N]",
        multiple=True,
        callback=converted(_best),
        help="Keep the N best by a metric, 1 unless given; may be repeated.",
    ),
    click.option(
        "--keep-within", metavar="TIME", callback=converted(parsed_duration), help="Keep those so young, as in 2d."
    ),
    click.option(
        "--grace",
        metavar="TIME",
        default="24h",
        callback=converted(parsed_duration),
        help="Leave unfinished saves alone until they are so old.  [default: 24h]",
    ),
    click.option("--dry-run", is_flag=True, help="Tell what would be deleted, and delete nothing."),
    store,
)
def gc(
    options: Options,
    run: str,
    *,
    keep_last: int | None,
    keep_every: int | None,
    keep_best: Sequence[BestN],
    keep_within: float | None,
    grace: float,
    dry_run: bool,
) -> None:
    """Delete what retention does not keep, and what killed saves left.

    What any --keep option keeps stays, and so does what is pinned, has an alias or is being read. Quarantined snapshots
    take no good one's place. Without a --keep option, no snapshot is deleted. Objects that ckptsync did not write are listed and never deleted. RUN may be left out when CKPTSYNC_RUN is set.
    """
    from ckptsync.verbs.gc import collect

    keep = _policy(keep_last, keep_every, keep_best, keep_within)
    with opened(options, run) as bucket:
        collected = collect(bucket, keep, grace_s=grace, dry_run=dry_run)
    options.done(collected, *_collected(collected))


def _policy(last: int | None, every: int | None, best: Sequence[BestN], within_s: float | None) -> KeepPolicy | None:
    """Join the --keep options; None when there are none."""
    from ckptsync.policy import AnyOf, EveryNSteps, LatestN, Within

    policies: list[KeepPolicy] = list(best)
    if last is not None:
        policies.append(LatestN(last))
    if every is not None:
        policies.append(EveryNSteps(every))
    if within_s is not None:
        policies.append(Within(within_s))
    return AnyOf(tuple(policies)) if policies else None


def _collected(collected: Collected) -> list[str]:
    """What was, or would be, deleted."""
    from ckptsync.cli.output import count, size

    would = "would have " if collected.dry_run else ""
    lines = [f"{would}removed snapshot {snapshot}" for snapshot in collected.removed]
    lines += [f"{would}removed unfinished save {attempt}" for attempt in collected.orphans]
    lines += [f"not ours, left alone: {key}" for key in collected.foreign[:_FOREIGN_NAMED]]
    if collected.foreign_count > _FOREIGN_NAMED:
        lines.append(f"not ours, left alone: {collected.foreign_count - _FOREIGN_NAMED} more; --json lists them")
    lines.append(
        f"{would}deleted {count(collected.objects_deleted, 'object')}, {size(collected.bytes_deleted)}, and aborted "
        f"{count(collected.uploads_aborted, 'upload')}; {count(len(collected.kept), 'snapshot')} kept"
    )
    return lines
