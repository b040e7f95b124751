"""docs/reference/benchmarks.md and its plots: made of what `make bench` measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import far, small, stages, targets
from bench.chart import bars
from bench.figures import MIB, medians
from bench.peers import OURS, PEERS, ROOT

PAGE = ROOT / "docs" / "reference" / "benchmarks.md"
CLOUDS = {"s3": "S3", "gcs": "Google Cloud Storage"}
LEFT = Path(__file__).with_name("what_is_left.md")
"""Written by hand: where a target does not hold, what is left and why."""
HEAD = """\
<!-- Written by tests/bench/run.py; `make bench` writes it anew. -->

# Benchmarks

What it costs to move a checkpoint, with ckptsync and with everything a user might take instead: seconds of the client's processor
for 10^9 bytes, which training does not get; rates; memory. One command measures all of it anew, installs the peers and writes this
page:

```bash no-run="takes the better part of an hour"
make bench
make bench BENCH_ARGS="--peers boto3,s5cmd --size 256MiB --rounds 5 --cloud s3 --shapes none"
```

**Only ratios mean something.** Client and service share the processor of one small machine, and another machine gives other numbers; but
all rows of a table come from one run, with the same bytes, against the same service, in rounds whose order alternates. Numbers are medians.
"""
METHOD = """\
## How it is measured

- The service is a [sink](https://github.com/ckptsync/ckptsync/tree/main/tests/bench/sink) on loopback that no client waits for: the kernel
  drops what is uploaded, and sends what is fetched from memory without a copy. It speaks S3 and both APIs of Google Cloud Storage, well
  enough for every client here. Small objects it keeps, so conditions, manifests and listings work. Its own share is in the last column. It
  verifies no signature and no checksum: clients do all of theirs.
- A client in Python connects and moves one tiny object first; then its processor time (user and system, children included) is taken before and
  after. A command is run for a tiny object too, and that is subtracted; from its wall time, what it takes to tell its version. What
  start and warm-up cost is a column of its own.
- Files lie in memory (`/dev/shm`), and a file is fetched into a new one each time: its pages are part of the cost, for everybody.
  Rows with *memory* have their bytes in memory already, which counts in their peak, and fetch into memory.
- Everybody runs with default settings, but for the rows that say otherwise. ckptsync hashes every byte with BLAKE3, both ways, and `save`
  and `restore` are whole: claim, listing, journal, commit. The save that is measured is the second of its run; the first also proves that
  the service honours conditions.
- Whoever fetches a file has it compared with what was sent, in the first round.
- Ceph RGW is a production server, with one store of its own in memory, on the same two cores: it takes most of them, so that rates hardly differ.
- torch DCP writes a format of its own, which the sink keeps instead of dropping it.
- A delay is in a proxy of ours (half of it each way; connections wait for a handshake too); it models no loss. A rate is a token bucket of
  `tc` on the loopback of a network namespace. Certificates are the sink's own; s5cmd and obstore do not verify them, the others do.
"""


def write(results: Mapping[str, Any]) -> Path:
    """Write the page and its plots; the page."""
    lines = [HEAD, *_machine(results)]
    for table in results["tables"]:
        if table["shape"]["name"] == "loopback":
            lines += _loopback(table, results["versions"])
    lines += _small([table for table in results["tables"] if table.get("files")])
    for cloud in CLOUDS:
        lines += _shapes(cloud, [table for table in results["tables"] if not table.get("files")])
    near = {table["cloud"]: medians(table) for table in results["tables"] if table["shape"]["name"] == "loopback"}
    away = {
        (table["cloud"], table["shape"]["name"]): medians(table)
        for table in results["tables"]
        if not table.get("files")
    }
    left = LEFT.read_text().replace("STAGES", "\n".join(stages.table(results["stages"], near)))
    left = left.replace("FAR", "\n".join(far.table(results["far"], away)))
    PAGE.write_text("\n".join([*lines, *_targets(results["tables"]), left, METHOD]))
    return PAGE


def _targets(tables: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What we set out to reach."""
    yield "## Targets"
    yield ""
    yield "What this project set out to reach, and whether it holds in the tables above."
    yield ""
    yield "| target | measured | holds |"
    yield "|---|---|---|"
    for one in targets.verdicts(tables):
        yield f"| {one.target} | {one.found} | {'yes' if one.holds else '**no**'} |"
    yield ""


def plain(results: Mapping[str, Any]) -> str:
    """The tables alone, for a terminal."""
    lines: list[str] = []
    for table in results["tables"]:
        if table.get("missing"):
            lines.append(f"{table['shape']['name']}: {table['missing']}")
            continue
        if table.get("files"):
            lines += _small([table])
            continue
        lines += ["", f"{table['cloud']}, {table['shape']['name']}, {table['size'] // MIB} MiB", *_rows(table, {})]
    return "\n".join(lines)


def _machine(results: Mapping[str, Any]) -> Iterator[str]:
    """Where and when."""
    machine = results["machine"]
    yield (
        f"Measured on {machine['date']}: {machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
        f"{machine['kernel']}, Python {machine['python']}"
        f"{'; load before it ' + str(machine['load']) if machine['load'] > 1 else ''}."
        f"{' **' + results['note'] + '**' if results.get('note') else ''}"
    )
    yield ""
    versions = {peer.package: results["versions"].get(peer.name, "") for peer in PEERS if peer.package}
    told = ", ".join(f"{name} {version or '(not installed)'}" for name, version in sorted(versions.items()))
    yield f"Versions: ckptsync {results['versions'][OURS]}, {told}."
    yield ""


def _rows(table: Mapping[str, Any], versions: Mapping[str, str]) -> Iterator[str]:
    """One table in Markdown."""
    del versions
    notes = {peer.name: peer.note for peer in PEERS}
    found = medians(table)
    yield "| client | up: CPU-s/GB | down: CPU-s/GB | up: MB/s | down: MB/s | start: CPU-s | peak MiB | service: CPU-s/GB |"
    yield f"|---|{'--:|' * 7}"
    for name, both in found.items():
        up, down = both["put"], both["get"]
        bold = "**" if name.startswith(OURS) else ""
        label = f"{bold}{name}{bold}" + (f": {notes[name]}" if notes.get(name) else "")
        yield (
            f"| {label} | {up['cpu']:.2f} | {down['cpu']:.2f} | {up['rate']:.0f} | {down['rate']:.0f} "
            f"| {max(up['start'], down['start']):.2f} | {max(up['peak'], down['peak']):.0f} "
            f"| {up['sink']:.2f} / {down['sink']:.2f} |"
        )
    for sample in table["samples"]:
        if sample["error"]:
            yield f"| {sample['peer']} | did not work: {_one_line(sample['error'])} |  |  |  |  |  |  |"


def _one_line(text: str) -> str:
    """Text that fits into a cell."""
    return text.replace("|", "/").replace("`", "'").replace("<", "&lt;")


def _loopback(table: Mapping[str, Any], versions: Mapping[str, str]) -> Iterator[str]:
    """The main table of a cloud, and its plot."""
    name = CLOUDS[table["cloud"]]
    yield f"## {name}"
    yield ""
    yield f"{table['size'] // MIB} MiB, {table['rounds']} rounds, plain HTTP on loopback."
    yield ""
    found = medians(table)
    rows = {peer: (both["put"]["cpu"], both["get"]["cpu"]) for peer, both in found.items()}
    title = f"{name}: the client's CPU-seconds for 10^9 bytes"
    plot = _plot(f"benchmarks-{table['cloud']}.svg", title, rows)
    yield f"![{title}, less is better]({plot})"
    yield ""
    yield from _rows(table, versions)
    yield ""
    yield from _ratios(found)


def _plot(file: str, title: str, rows: Mapping[str, Sequence[float]]) -> str:
    """Draw a plot beside the page; its name."""
    (PAGE.parent / file).write_text(bars(title, ("up", "down"), rows, ours=OURS))
    return file


def _ratios(found: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[str]:
    """How many times our processor time and our rate the others need and reach."""
    if OURS not in found:
        return
    ours = found[OURS]
    yield "Beside `ckptsync` (processor: how many times ours; rate: how many times ours):"
    yield ""
    yield "| client | up: processor | down: processor | up: rate | down: rate |"
    yield f"|---|{'--:|' * 4}"
    for name, both in found.items():
        if name != OURS:
            cells = [
                f"{both[direction][what] / max(ours[direction][what], 1e-9):.2f}"
                for what in ("cpu", "rate")
                for direction in ("put", "get")
            ]
            yield f"| {name} | {' | '.join(cells)} |"
    yield ""


def _small(tables: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Folders of many small files."""
    if not tables:
        return
    yield "## Many small files"
    yield ""
    yield "Files of 100 kB in one folder, S3, each tool as a command, with its start; those that work in several processes with all of them."
    for table in tables:
        yield ""
        yield f"{table['shape']['name']}, {table['rounds']} rounds, {small.SLOW_ROUNDS} of the slower ones:"
        yield ""
        yield "| client | up: files/s | down: files/s | up: CPU-ms a file | down: CPU-ms a file | peak MiB |"
        yield f"|---|{'--:|' * 5}"
        for name, both in small.medians(table).items():
            up, down = both["put"], both["get"]
            bold = "**" if name.startswith(OURS) else ""
            yield (
                f"| {bold}{name}{bold} | {up['rate']:.0f} | {down['rate']:.0f} | {up['cpu_ms']:.2f} | {down['cpu_ms']:.2f} "
                f"| {max(up['peak'], down['peak']):.0f} |"
            )
        for sample in table["samples"]:
            if sample["error"]:
                yield f"| {sample['peer']} | did not work: {_one_line(sample['error'])} |  |  |  |  |"
    yield ""


def _shapes(cloud: str, tables: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One table for all other ways to the service: rates, and processor time behind them."""
    mine = [table for table in tables if table["cloud"] == cloud and table["shape"]["name"] != "loopback"]
    if not mine:
        return
    yield f"## {CLOUDS[cloud]}, farther away"
    yield ""
    yield f"MB/s up / down, and in brackets CPU-s/GB up / down; {max(table['rounds'] for table in mine)} rounds."
    yield ""
    shapes = {table["shape"]["name"]: medians(table) for table in mine}
    names = list(dict.fromkeys(name for found in shapes.values() for name in found))
    columns = [f"{table['shape']['name']}, {table['size'] // MIB} MiB" for table in mine]
    yield f"| client | {' | '.join(columns)} |"
    yield f"|---|{'--:|' * len(mine)}"
    for name in names:
        bold = "**" if name.startswith(OURS) else ""
        yield f"| {bold}{name}{bold} | {' | '.join(_cell(found.get(name)) for found in shapes.values())} |"
    yield ""
    for table in mine:
        if table.get("missing"):
            yield f"- {table['shape']['name']}: not measured, {table['missing']}."
        for sample in table["samples"]:
            if sample["error"]:
                yield f"- {table['shape']['name']}: {sample['peer']} did not work: {_one_line(sample['error'])}"
    yield ""
    title = f"{CLOUDS[cloud]}, farther away: MB/s of ckptsync and of the best peer"
    yield f"![{title}, more is better]({_plot(f'benchmarks-{cloud}-far.svg', title, dict(_best(shapes)))})"
    yield ""


def _cell(both: Mapping[str, Mapping[str, float]] | None) -> str:
    if both is None:
        return "-"
    up, down = both["put"], both["get"]
    return f"{up['rate']:.0f} / {down['rate']:.0f} ({up['cpu']:.2f} / {down['cpu']:.2f})"


def _best(shapes: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]) -> Iterator[tuple[str, list[float]]]:
    """Rates for the plot: ours, and the best of the others' but bare sockets."""
    for shape, found in shapes.items():
        for who in ("ckptsync", "best peer"):
            names = [n for n in found if (n == OURS if who == OURS else not n.startswith((OURS, "bare")))]
            rates = [max((found[n][d]["rate"] for n in names), default=math.nan) for d in ("put", "get")]
            yield f"{who}, {shape}", rates
