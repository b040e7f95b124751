"""Verbs that look and change nothing: ls, show, diff, status, verify."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from itertools import islice
from typing import TYPE_CHECKING, Literal

import click

from ckptsync.cli.options import Options, converted, max_rate, opened, positional, store, verb, workers

if TYPE_CHECKING:
    from ckptsync.snapshot.cost import Loop
    from ckptsync.snapshot.diff import Diff
    from ckptsync.snapshot.manifest import Entry, Manifest
    from ckptsync.verbs.listing import Row
    from ckptsync.verbs.status import Status
    from ckptsync.verbs.verify import Bad, Verified

_BAD_NAMED = 3
"""So many bad parts are named in the sentence; the lines above it name all."""
_DIGEST_SHOWN = 16
_SEED_BYTES = 64


def _order(text: str) -> tuple[str, Literal[1, -1]]:
    """Take `METRIC:min` or `METRIC:max` apart.

    Raises:
        ValueError: it is not like that.
    """
    metric, _, mode = text.rpartition(":")
    if not metric or mode not in {"min", "max"}:
        raise ValueError(f"{text!r} is not like loss:min or accuracy:max")
    return metric, 1 if mode == "min" else -1


@verb(
    positional("run"),
    click.option(
        "-n", "--limit", metavar="N", type=click.IntRange(1), help="Only the newest N of each run, or the best."
    ),
    click.option("--also", "others", metavar="RUN", multiple=True, help="List another run with it; may be repeated."),
    click.option(
        "--by",
        metavar="METRIC:min|max",
        callback=converted(_order),
        help="The best first, of all runs; leaves out what is not committed or has no such metric.",
    ),
    store,
)
def ls(
    options: Options, run: str, *, limit: int | None, others: Sequence[str], by: tuple[str, Literal[1, -1]] | None
) -> None:
    """List the snapshots of a run, the newest first.

    With --json, one object a line. RUN may be left out when CKPTSYNC_RUN is set.
    """
    from ckptsync.cli.output import print_json, print_lines, table

    with closing(_listed(options, (run, *others), None if by else limit)) as listed:
        found = islice(_best(listed, *by), limit) if by else listed
        if options.as_json:
            for url, row in found:
                print_json({"run": url, **_plain(row)} if others else row)
            return
        cells = [(*([url] if others else []), *_cells(row)) for url, row in found]
    head = (*(["RUN"] if others else []), "SNAPSHOT", "STEP", "CREATED", "SIZE", "FILES", "STATE", "METRICS", "NOTES")
    right = (head.index(name) for name in ("STEP", "SIZE", "FILES"))
    nothing = (
        f"no committed snapshot has a metric {by[0]!r}" if by else f"no snapshots in {' or '.join((run, *others))}"
    )
    print_lines(table(head, cells, right=right) if cells else [nothing])


def _listed(options: Options, runs: Sequence[str], limit: int | None) -> Generator[tuple[str, Row], None, None]:
    """Snapshots of each run with its address, the newest of each first."""
    from ckptsync.verbs.listing import rows

    for run in runs:
        with opened(options, run) as bucket:
            for row in islice(rows(bucket), limit):
                yield bucket.url, row


def _best(listed: Iterable[tuple[str, Row]], metric: str, sign: Literal[1, -1]) -> list[tuple[str, Row]]:
    """Committed ones that have a metric, the best first, and of equals the newest of a run."""
    scored = [
        (sign * value, number, url, row)
        for number, (url, row) in enumerate(listed)
        if row.state == "committed" and (value := row.metrics.get(metric)) is not None
    ]
    return [(url, row) for _, _, url, row in sorted(scored, key=lambda one: one[:2])]


def _plain(row: Row) -> dict[str, object]:
    """A row as JSON has it."""
    from msgspec import to_builtins

    plain: dict[str, object] = to_builtins(row)
    return plain


def _cells(row: Row) -> tuple[str, ...]:
    """Columns of one snapshot."""
    from ckptsync.cli.output import metrics, size, when

    stored = [f"{size(row.bytes_stored)} stored"] if row.bytes_stored not in {0, row.bytes} else []
    notes = [*(["pinned"] if row.pinned else []), *row.aliases, *stored, row.problem]
    return (
        row.snapshot,
        str(row.step),
        when(row.created),
        size(row.bytes),
        str(row.files),
        row.state,
        metrics(row.metrics),
        " ".join(notes),
    )


@verb(positional("run"), positional("snap"), store)
def show(options: Options, run: str, snap: str) -> None:
    """Show what a snapshot holds and where it comes from.

    RUN may be left out when CKPTSYNC_RUN is set.
    """
    from ckptsync.verbs.listing import show as show_of

    with opened(options, run) as bucket:
        manifest = show_of(bucket, snap)
    options.answer(_as_json(manifest), *_summary(manifest), "", *_entries(manifest.entries))


def _as_json(manifest: Manifest) -> dict[str, object]:
    """The manifest with the field names of `ls`, and its files, links and directories as `entries`."""
    from msgspec import UNSET, to_builtins
    from msgspec.structs import asdict

    from ckptsync.snapshot.manifest import FileEntry

    entries = [
        {
            "type": entry.__struct_config__.tag,
            **{name: value for name, value in asdict(entry).items() if value is not UNSET},
            **({"digest": entry.digest, "stored": entry.stored_size} if isinstance(entry, FileEntry) else {}),
        }
        for entry in manifest.entries
    ]
    return {
        "snapshot": manifest.snapshot,
        "step": manifest.id.step,
        "epoch": manifest.id.epoch,
        "created": manifest.created,
        "kind": manifest.kind,
        "bytes": manifest.size,
        "bytes_stored": manifest.stored_size,
        "files": len(manifest.files),
        "metrics": manifest.metrics,
        "meta": manifest.meta,
        "parent": manifest.parent,
        "commit_id": manifest.commit_id,
        "writer": asdict(manifest.writer),
        "provenance": asdict(manifest.provenance),
        "cost": to_builtins(manifest.cost),
        "entries": entries,
    }


def _summary(manifest: Manifest) -> Iterable[str]:
    """What a person asks first."""
    from ckptsync.cli.output import count, duration, facts, metrics, size, when

    made, cost = manifest.provenance, manifest.cost
    stored = f", {size(manifest.stored_size)} stored" if manifest.stored_size != manifest.size else ""
    return facts(
        {
            "snapshot": manifest.snapshot,
            "step": str(manifest.id.step),
            "epoch": str(manifest.id.epoch),
            "created": when(manifest.created),
            "size": f"{size(manifest.size)} in {count(len(manifest.files), 'file')}{stored}",
            "metrics": metrics(manifest.metrics),
            "meta": " ".join(f"{name}={text}" for name, text in manifest.meta.items()),
            "parent": manifest.parent,
            "writer": f"{manifest.writer.host} (pid {manifest.writer.pid})",
            "versions": ", ".join(f"{name} {version}" for name, version in made.versions.items()),
            "git commit": made.git_commit,
            "fingerprint": made.config_fingerprint,
            "cost": f"{duration(cost.seconds)}, {size(cost.bytes_sent)} sent, {size(cost.bytes_reused)} reused",
            "loop": _waited(cost.loop) if cost.loop else "",
        }
    )


def _waited(loop: Loop) -> str:
    """What a training loop told."""
    from ckptsync.cli.output import duration

    resumed = f"; resumed from {loop.resumed_from} in {duration(loop.resume_s)}" if loop.resumed_from else ""
    again = f", {loop.steps_redone} steps done again" if loop.steps_redone else ""
    return f"waited {duration(loop.stall_s)}, save {loop.saves} of its process after {duration(loop.running_s)}{resumed}{again}"


def _entries(entries: Iterable[Entry]) -> Iterable[str]:
    """One line for each file, link and directory."""
    from ckptsync.cli.output import size, table
    from ckptsync.snapshot.manifest import FileEntry, LinkEntry

    rows: list[tuple[str, ...]] = []
    for entry in entries:
        if isinstance(entry, FileEntry):
            packed = f" ({size(entry.stored_size)} stored)" if entry.packing else ""
            rows.append((size(entry.size), f"{entry.mode:04o}", entry.digest[:_DIGEST_SHOWN], f"{entry.path}{packed}"))
        elif isinstance(entry, LinkEntry):
            rows.append(("link", "", "", f"{entry.path} -> {entry.target}"))
        else:
            rows.append(("directory", f"{entry.mode:04o}", "", f"{entry.path}/"))
    return table(("SIZE", "MODE", "DIGEST", "PATH"), rows, right=(0,))


@verb(positional("run"), positional("a"), positional("b"), store)
def diff(options: Options, run: str, a: str, b: str) -> None:
    """Compare two snapshots.

    A and B are each a snapshot id, a step, latest, best:METRIC:min, best:METRIC:max or an alias. `+` is only in B, `-` only
    in A, `~` in both with other content. RUN may be left out when CKPTSYNC_RUN is set.
    """
    import msgspec

    from ckptsync.verbs.listing import compare

    with opened(options, run) as bucket:
        found = compare(bucket, a, b)
    options.answer({"a": a, "b": b, **msgspec.to_builtins(found)}, *_differences(found))


def _differences(found: Diff) -> list[str]:
    """Paths by what became of them, metrics and free text that differ, and the sum."""
    from ckptsync.cli.output import count, size

    lines = [
        f"{mark} {path}"
        for mark, paths in (("+", found.added), ("-", found.removed), ("~", found.changed))
        for path in paths
    ]
    for name, (before, after) in found.metrics.items():
        lines.append(f"  {name}: {_number(before)} -> {_number(after)}")
    for name, (text, later) in found.meta.items():
        lines.append(f"  {name}: {_text(text)} -> {_text(later)}")
    lines.append(
        f"{len(found.added)} added, {len(found.removed)} removed, {len(found.changed)} changed, "
        f"{len(found.unchanged)} unchanged; {size(found.bytes_changed)} differ in "
        f"{count(len(found.added) + len(found.changed), 'path')}"
    )
    return lines


def _text(value: str | None) -> str:
    """Free text on one line, or that there is none."""
    from ckptsync.cli.output import one_line

    return "-" if value is None else one_line(value)


def _number(value: float | None) -> str:
    """A metric, or that there is none."""
    return "-" if value is None else format(value, ".6g")


@verb(positional("run"), store)
def status(options: Options, run: str) -> None:
    """Tell the newest step, its age, who writes and what is pending.

    RUN may be left out when CKPTSYNC_RUN is set.
    """
    from ckptsync.verbs.status import status as status_of

    with opened(options, run) as bucket:
        found = status_of(bucket)
    options.answer(found, *_state(found))


def _state(found: Status) -> list[str]:
    """The state of a run for people."""
    from ckptsync.cli.output import duration, facts, size, when

    age = f", {duration(found.committed_age_s)} ago" if found.committed_age_s is not None else ""
    newest = f"step {found.step} ({found.snapshot}){age}" if found.snapshot else "none yet"
    writer = (
        f"epoch {found.epoch}, {found.writer_host} (pid {found.writer_pid}) since {when(found.writer_since or '')}"
        if found.epoch and found.writer_host
        else "nobody yet"
    )
    lines = list(facts({"run": found.url, "newest": newest, "writer": writer}))
    lines += [
        f"unreadable  step {bad.step} ({bad.snapshot}), {duration(bad.age_s)} ago: {bad.problem}"
        for bad in found.unreadable
    ]
    lines += [
        f"pending  step {pending.step} ({pending.snapshot}), {size(pending.bytes)}, begun {duration(pending.age_s)} ago"
        + (f"; waits for {', '.join(pending.missing)} of {pending.world}" if pending.missing else "")
        for pending in found.pending
    ]
    return lines


def _seed(text: str) -> bytes:
    """Read hex digits.

    Raises:
        ValueError: it is not like that.
    """
    try:
        seed = bytes.fromhex(text)
    except ValueError:
        seed = b""
    if not 0 < len(seed) <= _SEED_BYTES:
        raise ValueError(f"{text!r} is not 1 to {_SEED_BYTES} bytes as hex digits")
    return seed


@verb(
    positional("run"),
    click.argument("snap", default="latest"),
    click.option(
        "--percent",
        metavar="P",
        type=click.FloatRange(0, 100, min_open=True),
        default=100.0,
        help="Check a random share of the parts only.  [default: 100]",
    ),
    click.option(
        "--seed",
        metavar="HEX",
        callback=converted(_seed),
        help="Check the same share again: the seed that --json told.",
    ),
    click.option(
        "--quarantine/--no-quarantine",
        default=True,
        help="Let restore pass a damaged snapshot over until it is found good.  [default: quarantine]",
    ),
    workers,
    max_rate,
    store,
)
def verify(options: Options, run: str, snap: str, *, percent: float, seed: bytes | None, quarantine: bool) -> None:
    """Read a snapshot again and check every digest.

    Exits with 4 and names file and part when something is damaged; the snapshot is then quarantined: latest and
    best:METRIC pass it over, until it is verified in full and good. RUN may be left out when CKPTSYNC_RUN is set, but not
    when SNAP is given.
    """
    from ckptsync.errors import IntegrityError
    from ckptsync.verbs.verify import verify as verify_in

    with opened(options, run, doing="verifying") as bucket:
        found = verify_in(bucket, snap, percent=percent, seed=seed, quarantine=quarantine)
    options.answer(found, *_checked(found))
    if found.bad:
        named = ", ".join(_named(bad) for bad in found.bad[:_BAD_NAMED])
        more = f" and {len(found.bad) - _BAD_NAMED} more" if len(found.bad) > _BAD_NAMED else ""
        aside = "; it is quarantined" if found.quarantined else ""
        advice = "; a restore of the latest falls back to an older one, if there is one" if snap == "latest" else ""
        raise IntegrityError(f"snapshot {found.snapshot} in {run} is damaged: {named}{more}{aside}{advice}")


def _checked(found: Verified) -> list[str]:
    """What was checked, and each bad part."""
    from ckptsync.cli.output import count, duration, size

    verdict = f"{len(found.bad)} bad" if found.bad else "all good"
    checked = (
        f"checked {found.snapshot}: step {found.step}, {count(found.files, 'file')}, {found.parts_checked} of "
        f"{count(found.parts_total, 'part')}, {size(found.bytes_checked)} in {duration(found.seconds)}: {verdict}"
    )
    lines = [checked, *(f"bad: {_named(bad)}" for bad in found.bad)]
    if found.quarantined and not found.bad:
        lines.append("it is quarantined still; verify it in full to lift that")
    return lines


def _named(bad: Bad) -> str:
    """File, part and reason; part 0 is the whole object."""
    return f"{bad.path}{f' part {bad.part}' if bad.part else ''}: {bad.reason}"
