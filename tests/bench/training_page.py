"""docs/reference/training-benchmarks.md: what `make bench-training` measured, and whether it is what we set out to reach."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bench.chart import bars
from bench.peers import ROOT

PAGE = ROOT / "docs" / "reference" / "training-benchmarks.md"
PLOT = "training-benchmarks.svg"
OURS = "ckptsync"
CONTROL = "no save at all"
MIB = 1 << 20
MOST_COPIES = 1.3
PARTS_BYTES = (8 * 16 + 40) * MIB
"""Parts in flight with default settings, and what is around them."""
MOST_SLOWER = 1.05
HEAD = """\
<!-- Written by tests/bench/training.py; `make bench-training` writes it anew. -->

# What saving costs a training loop

How long the loop waits for a save, what memory the save takes, and what becomes of the steps while it is under way over a slow line: with
`CheckpointManager`, and with what people use instead. One command measures all of it anew and writes this page:

```bash no-run="takes half an hour"
make bench-training
make bench-training SHORT=1    # two minutes, printed only
```

**Only ratios mean something.** Loop, upload and service share the processor of one small machine.
"""
METHOD = """\
## How it is measured

- Each loop is a process of its own, with one thread of torch, in rounds whose order alternates. The state is 16 tensors of random floats, which
  change between saves. The service is a sink on loopback that no client waits for ([Benchmarks](benchmarks.md)).
- *Stall* is what the call takes that saves; the first save is told apart, since it finds no memory to copy into. *Copy* is one copy of the
  state into memory that is there already, in the same process. *Durable* is from the call until the snapshot is in the bucket.
- *Memory* is the most that the process held beyond the state and what it began with, over all saves.
- `torch.save` writes into memory (`/dev/shm`), which is not counted as the process's own; on a disk it would wait for that as well.
- *Steps* are those of a small network (four layers of 512, batches of 128, SGD): forward, backward, update. They are timed without a save, then
  with one under way, over a loopback whose rate `tc` limits to 5 MB/s in a network namespace. The call that saves is no step: its time is
  in the first table. `no save at all` shows what the machine does to the same measurement by itself.
- DCP saves with four threads, in one rank, by `async_save` with its own staging.
"""


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target: what was to be reached, what was measured, and whether that is enough."""

    target: str
    found: str
    holds: bool


def stalls(samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Figures of each loop, medians of all rounds; those that failed are left out."""
    found: dict[str, dict[str, float]] = {}
    for name, mine in _by_name(samples).items():
        later = [stall_s for one in mine for stall_s in (one["stalls_s"][1:] or one["stalls_s"])]
        durable = [durable_s for one in mine for durable_s in (one["durable_s"][1:] or one["durable_s"])]
        copy_s = median(one["copy_s"] for one in mine)
        found[name] = {
            "copy_s": copy_s,
            "first_s": median(one["stalls_s"][0] for one in mine),
            "stall_s": median(later),
            "copies": median(later) / copy_s,
            "durable_s": median(durable),
            "peak": max(one["peak_bytes"] for one in mine),
            "states": max(one["peak_bytes"] / one["size"] for one in mine),
            "size": mine[0]["size"],
        }
    return found


def paces(samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The same of steps: times without a save, with one, and how many times the former the latter are."""
    found: dict[str, dict[str, float]] = {}
    for name, mine in _by_name(samples).items():
        found[name] = {
            f"{when} {which}": median(one[f"{when}_s"][which] for one in mine)
            for when in ("before", "during")
            for which in ("p50", "p99")
        }
        for which in ("p50", "p99"):
            found[name][which] = median(one["during_s"][which] / one["before_s"][which] for one in mine)
        found[name]["under_way"] = min(one["was_under_way"] for one in mine)
    return found


def _by_name(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Samples of each loop; none of those that failed once."""
    failed = {sample["name"] for sample in samples if sample["error"]}
    names = dict.fromkeys(sample["name"] for sample in samples)
    return {name: [one for one in samples if one["name"] == name] for name in names if name not in failed}


def verdicts(results: Mapping[str, Any]) -> Iterator[Verdict]:
    """Judge what was measured of ours."""
    if (ours := stalls(results["stall"]).get(OURS)) is not None:
        most = ours["size"] + PARTS_BYTES
        yield Verdict(
            f"a save stalls the loop for at most {MOST_COPIES} copies of the state",
            f"{ours['copies']:.2f}",
            ours["copies"] <= MOST_COPIES,
        )
        yield Verdict(
            f"memory beyond the state: one copy and the parts in flight, {most // MIB:.0f} MiB",
            f"{ours['peak'] // MIB:.0f} MiB",
            ours["peak"] <= most,
        )
    found = paces(results["pace"])
    if OURS in found:
        alone = f" (without a save {found[CONTROL]['p99'] - 1:+.1%})" if CONTROL in found else ""
        yield Verdict(
            f"p99 of a step rises by less than {MOST_SLOWER - 1:.0%} while a save goes over 5 MB/s",
            f"{found[OURS]['p99'] - 1:+.1%}{alone}",
            found[OURS]["p99"] < MOST_SLOWER and bool(found[OURS]["under_way"]),
        )


# -- words ---------------------------------------------------------------------------------------------------------------


def line(sample: Mapping[str, Any]) -> str:
    """One sample, to read while it goes."""
    if sample["error"]:
        return str(sample["error"])
    if "copy_s" in sample:
        found = stalls([sample])[sample["name"]]
        return f"stall {found['stall_s']:6.3f} s, {found['copies']:5.2f} copies; peak {found['states']:.2f} states"
    found = paces([sample])[sample["name"]]
    ended = "" if found["under_way"] or sample["name"] == CONTROL else ", which ended too early"
    return f"p99 {found['before p99'] * 1e3:6.2f} ms, with a save {found['during p99'] * 1e3:6.2f} ms{ended}"


def plain(results: Mapping[str, Any]) -> str:
    """The tables alone, for a terminal."""
    return "\n".join([*_stalls(results), *_paces(results), *_targets(results)])


def write(results: Mapping[str, Any]) -> Path:
    """Write the page and its plot; the page."""
    found = stalls(results["stall"])
    title = "Copies of the state that a save takes as long as"
    rows = {name: (one["copies"], one["first_s"] / one["copy_s"]) for name, one in found.items()}
    (PAGE.parent / PLOT).write_text(bars(title, ("later saves", "the first"), rows, ours=OURS))
    lines = [HEAD, *_machine(results), *_targets(results), *_stalls(results)]
    lines += [f"![{title}, less is better]({PLOT})", "", *_paces(results), METHOD]
    PAGE.write_text("\n".join(lines))
    return PAGE


def _machine(results: Mapping[str, Any]) -> Iterator[str]:
    """Where, when and what."""
    machine = results["machine"]
    busy = f"; load before it {machine['load']}" if machine["load"] > 1 else ""
    yield (
        f"Measured on {machine['date']}: {machine['cores']} cores ({machine['processor']}), {machine['memory_gib']} GiB, "
        f"{machine['kernel']}, Python {machine['python']}{busy}; "
        + ", ".join(f"{name} {version}" for name, version in sorted(results["versions"].items()))
        + "."
    )
    yield ""


def _targets(results: Mapping[str, Any]) -> Iterator[str]:
    """What we set out to reach."""
    yield from ("## Targets", "", "| target | measured | holds |", "|---|---|---|")
    for one in verdicts(results):
        yield f"| {one.target} | {one.found} | {'yes' if one.holds else '**no**'} |"
    yield ""


def _stalls(results: Mapping[str, Any]) -> Iterator[str]:
    """What a save costs."""
    size = results["extent"]["size"] // MIB
    yield from (
        "## A save",
        "",
        f"A state of {size} MiB, {results['extent']['rounds']} rounds of {results['extent']['saves']} saves.",
        "",
    )
    yield "| loop | stall, s | in copies | the first, s | durable, s | memory, MiB | in states |"
    yield f"|---|{'--:|' * 6}"
    for name, one in stalls(results["stall"]).items():
        yield (
            f"| {_name(name)} | {one['stall_s']:.3f} | {one['copies']:.2f} | {one['first_s']:.3f} | {one['durable_s']:.2f} "
            f"| {one['peak'] / MIB:.0f} | {one['states']:.2f} |"
        )
    yield from _failed(results["stall"])
    yield ""


def _paces(results: Mapping[str, Any]) -> Iterator[str]:
    """What becomes of the steps."""
    yield from ("## Steps while a save is under way", "")
    if not results["pace"]:
        yield from (f"Not measured: {results['missing']}.", "")
        return
    extent = results["extent"]
    yield f"A state of {extent['pace_size'] // MIB} MiB over 5 MB/s, windows of {extent['window_s']:g} s, {extent['rounds']} rounds."
    yield ""
    yield "| loop | median step, ms | with a save, ms | p99, ms | with a save, ms | p99 rises by |"
    yield f"|---|{'--:|' * 5}"
    for name, one in paces(results["pace"]).items():
        early = "" if one["under_way"] or name == CONTROL else " (it ended before the window)"
        figures = (one["before p50"], one["during p50"], one["before p99"], one["during p99"])
        cells = " | ".join(f"{figure * 1e3:.2f}" for figure in figures)
        yield f"| {_name(name)}{early} | {cells} | {one['p99'] - 1:+.1%} |"
    yield from _failed(results["pace"])
    yield ""


def _name(name: str) -> str:
    """Ours stands out."""
    return f"**{name}**" if name == OURS else name


def _failed(samples: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Who did not work, and why."""
    for name, why in {sample["name"]: sample["error"] for sample in samples if sample["error"]}.items():
        yield f"| {name} | did not work: {why.replace('|', '/').replace('<', '&lt;')} |"
