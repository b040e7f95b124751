"""The verb that makes a file for others of a snapshot: export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptsync.cli.options import Options, max_rate, opened, positional, store, verb, workers

if TYPE_CHECKING:
    from ckptsync.verbs.export import Exported


@verb(
    positional("run"),
    positional("out"),
    click.option(
        "--item", metavar="NAME", help="Item or file, and keys in it, as in state.model.  [default: the only one]"
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float64", "float32", "float16", "bfloat16"]),
        help="What floating-point numbers become.  [default: as they are]",
    ),
    click.option("--strip-prefix", metavar="TEXT", default="", help="Take it off tensors' names, as in module."),
    workers,
    max_rate,
    store,
)
def export(options: Options, run: str, out: str, *, item: str | None, dtype: str | None, strip_prefix: str) -> None:
    """Make one file of a snapshot: weights or an archive.

    RUN may end in @SNAP, else the newest good snapshot is taken. OUT ends in .safetensors, for the tensors of an item, or in
    .tar or .tar.zst, for all of it. It appears whole and verified, or not at all; what stands there is replaced. RUN may be left
    out when CKPTSYNC_RUN is set.
    """
    from ckptsync import names
    from ckptsync.api import export_to

    place, snapshot = names.split(run)
    with opened(options, place, doing="exporting") as bucket:
        made = export_to(bucket, Path(out), snapshot=snapshot, item=item, dtype=dtype, strip_prefix=strip_prefix)
    options.done(made, *_verdict(made))


def _verdict(made: Exported) -> list[str]:
    """Say what was written."""
    from ckptsync.cli.output import count, duration, size

    held = count(made.tensors, "tensor") if made.tensors else count(made.files, "file")
    lines = [
        f"exported {made.snapshot} to {made.out}: step {made.step}, {held}, {size(made.bytes)} in {duration(made.seconds)}"
    ]
    lines += [f"skipped {skipped.snapshot}: {skipped.reason}" for skipped in made.skipped]
    if made.skipped:
        lines.append(f"lost {count(made.steps_lost, 'step')}: the newest snapshot is damaged")
    return lines
