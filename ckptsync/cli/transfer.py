"""Verbs that move checkpoints: save, restore, adopt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ckptsync.cli.options import (
    MAX_STEP,
    Decorator,
    Options,
    compress,
    converted,
    copy,
    max_rate,
    opened,
    pairs,
    parsed_duration,
    part_size,
    positional,
    stacked,
    state_dir,
    store,
    verb,
    workers,
)

if TYPE_CHECKING:
    from ckptsync.verbs.ranks import Rank
    from ckptsync.verbs.restore import Restored
    from ckptsync.verbs.save import Saved

_described: Decorator = stacked(
    click.option("--step", metavar="N", type=click.IntRange(0, MAX_STEP), required=True, help="Training step."),
    click.option(
        "--metric",
        "metrics",
        metavar="NAME=VALUE",
        multiple=True,
        callback=converted(pairs(float)),
        help="A number to choose by later, as in best:loss:min; may be repeated.",
    ),
    click.option(
        "--meta",
        metavar="NAME=TEXT",
        multiple=True,
        callback=converted(pairs(str)),
        help="Free text to keep with the snapshot; may be repeated.",
    ),
)

_ranks: Decorator = stacked(
    click.option("--rank", metavar="R", type=click.IntRange(0), help="Which of several ranks we are, from 0."),
    click.option("--world", metavar="N", type=click.IntRange(1), help="How many ranks save this step together."),
    click.option(
        "--launch",
        metavar="NAME",
        help="Names this start of the job, alike on all ranks.  [default: $CKPTSYNC_LAUNCH, or Slurm's]",
    ),
    click.option("--under", metavar="FOLDER", default="", help="Folder of the snapshot for this rank's files."),
    click.option(
        "--rank-timeout",
        metavar="TIME",
        default="10m",
        callback=converted(parsed_duration),
        help="Wait so long for the other ranks.  [default: 10m]",
    ),
)


def _rank(*, rank: int | None, world: int | None, launch: str | None, under: str, rank_timeout: float) -> Rank | None:
    """Put together which rank we are; None when we save alone.

    Raises:
        UsageError: only some of it was given.
    """
    from ckptsync.config import launch_name
    from ckptsync.verbs.ranks import Rank

    if rank is None and world is None:
        if launch is not None or under:
            raise click.UsageError("--launch and --under are for ranks; give --rank and --world with them")
        return None
    if rank is None or world is None:
        raise click.UsageError("--rank and --world go together")
    return Rank(rank=rank, world=world, launch=launch or launch_name(), under=under, timeout_s=rank_timeout)


@verb(
    positional("path"),
    positional("run"),
    _described,
    click.option("--alias", metavar="NAME", help="A name that shall stand for the snapshot from now on."),
    click.option("--fingerprint", metavar="TEXT", default="", help="Digest of the training configuration."),
    _ranks,
    workers,
    part_size,
    max_rate,
    compress,
    copy,
    state_dir,
    store,
)
def save(
    options: Options,
    path: str,
    run: str,
    *,
    step: int,
    metrics: dict[str, float],
    meta: dict[str, str],
    alias: str | None,
    fingerprint: str,
    **ranks: Any,
) -> None:
    """Commit a file or directory as the newest snapshot.

    PATH must be at rest until this ends. Killed and run again, it sends only what is missing. With --rank and --world, the
    files of all ranks become one snapshot, and this ends when that is committed. PATH may be left out when CKPTSYNC_DIR is
    set, RUN when CKPTSYNC_RUN is.
    """
    from ckptsync.verbs.ranks import save_rank
    from ckptsync.verbs.save import save as save_to

    about: dict[str, Any] = {
        "step": step,
        "metrics": metrics,
        "meta": meta,
        "alias": alias,
        "fingerprint": fingerprint,
    }
    rank = _rank(**ranks)
    with opened(options, run, doing="saving") as bucket:
        if rank is not None:
            saved = save_rank(bucket, Path(path), rank, **about)
        else:
            saved = save_to(bucket, Path(path), **about)
    options.done(saved, committed_line(saved) + (f"; {alias} stands for it" if alias else ""))


@verb(
    positional("run"),
    positional("path"),
    click.option(
        "--snapshot",
        metavar="SNAP",
        default="latest",
        help="Id, step, latest, best:METRIC:min, best:METRIC:max or alias.  [default: latest]",
    ),
    click.option(
        "--include",
        metavar="GLOB",
        multiple=True,
        help="Only files whose path fits, as in '*.safetensors'; may be repeated.",
    ),
    click.option(
        "--fallback/--no-fallback",
        default=True,
        help="Take the next older snapshot when the latest is damaged or quarantined.  [default: fallback]",
    ),
    workers,
    max_rate,
    store,
)
def restore(options: Options, run: str, path: str, *, snapshot: str, include: Sequence[str], fallback: bool) -> None:
    """Bring the newest good snapshot back, whole and verified.

    It appears at PATH in one step, or PATH stays as it was. Killed and run again, it fetches only what is missing. Exits
    with 6 when there is no snapshot: start from zero. RUN may be left out when CKPTSYNC_RUN is set, PATH when CKPTSYNC_DIR
    is.
    """
    from ckptsync.verbs.restore import restore as restore_from

    with opened(options, run, doing="restoring") as bucket:
        restored = restore_from(bucket, Path(path), snapshot=snapshot, include=include, fallback=fallback)
    options.done(restored, *_verdict(restored))


@verb(positional("run"), positional("prefix"), _described, workers, part_size, store)
def adopt(
    options: Options, run: str, prefix: str, *, step: int, metrics: dict[str, float], meta: dict[str, str]
) -> None:
    """Make a snapshot of objects that are in the bucket already.

    PREFIX is relative to RUN. The objects are read once to hash them, and stay where they are. RUN may be left out when
    CKPTSYNC_RUN is set.
    """
    from ckptsync.verbs.adopt import adopt as adopt_from

    with opened(options, run, doing="hashing") as bucket:
        adopted = adopt_from(bucket, prefix, step=step, metrics=metrics, meta=meta)
    options.done(adopted, committed_line(adopted))


def committed_line(saved: Saved) -> str:
    """Say what was committed."""
    from ckptsync.cli.output import count, duration, size

    stored = f"{size(saved.bytes_stored)} stored, " if saved.bytes_stored != saved.bytes else ""
    return (
        f"committed {saved.snapshot}: step {saved.step}, {count(saved.files, 'file')}, {size(saved.bytes)} "
        f"({stored}{size(saved.bytes_sent)} sent, {size(saved.bytes_reused)} reused) in {duration(saved.seconds)}"
    )


def _verdict(restored: Restored) -> list[str]:
    """Say what was restored, what was not and why, and what that costs."""
    from ckptsync.cli.output import count, duration, size

    verdict = (
        f"restored {restored.snapshot} to {restored.target}: step {restored.step}, {count(restored.files, 'file')}, "
        f"{size(restored.bytes)} ({size(restored.bytes_sent)} fetched, {size(restored.bytes_reused)} there already) "
        f"in {duration(restored.seconds)}"
    )
    lines = [verdict]
    lines += [f"skipped {skipped.snapshot}: {skipped.reason}" for skipped in restored.skipped]
    if restored.skipped:
        lines.append(f"lost {count(restored.steps_lost, 'step')}: the newest snapshot is damaged")
    lines += [f"kept what stood there as {path}" for path in restored.kept]
    return lines
