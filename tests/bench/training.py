"""Measures what saving costs a training loop, with ckptsync and with what people use instead: `make bench-training`.

The loop waits for a save (stall), holds memory for it, and does its steps while the save is under way over a slow line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench import machine, processes, shapes, training_page
from bench.measure import CLIENTS, Place, environment, reason, run
from bench.peers import ROOT, python_of
from bench.suite import MIB, Shape, placed, say
from ckptsync.config import parse_size

OUT = ROOT / "build" / "bench"
RATE = "40mbit"
"""5 MB/s, as `tc` writes it."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to save.

    Attributes:
        name: for the page.
        environment: `own` or `torch`.
        way: as the client calls it.
        measures: what is measured of it.
    """

    name: str
    environment: str
    way: str
    measures: tuple[str, ...] = ("stall", "pace")


CONTENDERS = (
    Contender("no save at all", "own", "nothing", ("pace",)),
    Contender(training_page.OURS, "own", "manager"),
    Contender("torch.save, upload_file", "own", "files", ("stall",)),
    Contender("torch.save, upload_file in a thread", "own", "files in a thread"),
    Contender("DCP async_save, fsspec", "torch", "dcp fsspec"),
    Contender("DCP async_save, s3torchconnector", "torch", "dcp s3torchconnector"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extent:
    """How much is measured.

    Attributes:
        size: bytes of the state whose stalls are measured.
        pace_size: of the one that is sent over the slow line.
        saves: of a loop.
        window_s: of steps.
        rounds: of everything, in an order that alternates.
    """

    size: int = 1024 * MIB
    pace_size: int = 512 * MIB
    saves: int = 4
    window_s: float = 40.0
    rounds: int = 3


SHORT = Extent(size=256 * MIB, pace_size=256 * MIB, saves=3, window_s=15.0, rounds=1)


def measured(extent: Extent, measure: str, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Measure all contenders, round after round; one that fails is told with its reason."""
    size = extent.size if measure == "stall" else extent.pace_size
    taking_part = [one for one in CONTENDERS if measure in one.measures and (not wanted or one.name in wanted)]
    for one in taking_part:
        python_of(one.environment)  # makes it, before anything is measured
    for number in range(extent.rounds):
        with placed(MIB) as place:
            for one in taking_part if number % 2 == 0 else taking_part[::-1]:
                processes.ask(place.sink.ports["http"], "/-/reset")
                found = _sample(one, measure, size, extent, place)
                say(f"{number + 1} {one.name:36} {training_page.line(found)}")
                yield found


def _sample(one: Contender, measure: str, size: int, extent: Extent, place: Place) -> dict[str, Any]:
    """Run one loop in a process of its own."""
    job = {
        "way": one.way,
        "measure": measure,
        "endpoint": place.endpoint,
        "bucket": "kept",
        "folder": str(place.folder),
        "size": size,
        "saves": extent.saves,
        "window_s": extent.window_s,
    }
    ended = run([python_of(one.environment), str(CLIENTS / "training.py")], environment("s3", place), json.dumps(job))
    found = {"name": one.name, "size": size, "error": reason(ended, place) if ended.status else ""}
    return found if ended.status else found | json.loads(ended.output.strip().splitlines()[-1])


def paced(extent: Extent, wanted: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """Measure over a line of 5 MB/s, in a network namespace of its own; and why that cannot be had here."""
    if missing := shapes.missing(Shape("5 MB/s", rate=RATE)):
        say(f"5 MB/s: {missing}")
        return [], missing
    place = OUT / f"inside-{os.getpid()}.json"
    inside = [sys.executable, "-m", "bench.training", "--inside", json.dumps([asdict(extent), [*wanted]]), str(place)]
    status = subprocess.run(["unshare", "--net", "sh", "-c", shapes.LIMITED, RATE, *inside], check=False).returncode
    if status or not place.is_file():
        return [], "the network namespace or its rate limit could not be made"
    samples: list[dict[str, Any]] = json.loads(place.read_text())
    place.unlink()
    return samples, ""


def main() -> None:
    """Measure, print as it goes, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="make bench-training BENCH_ARGS=…", description=__doc__)
    parser.add_argument("--short", action="store_true", help="a small state, short windows, one round")
    parser.add_argument("--write", action="store_true", help="renew docs/reference/training-benchmarks.md")
    parser.add_argument("--size", type=parse_size, help="of the state whose stalls are measured, like 256MiB")
    parser.add_argument("--rounds", type=int, help="of everything")
    parser.add_argument("--ways", type=lambda text: text.split(";"), default=[], help="names between semicolons")
    parser.add_argument("--measures", choices=["stall", "pace", "both"], default="both")
    parser.add_argument("--again", type=Path, help="measure nothing: take what such a file of results holds")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        told, wanted = json.loads(options.inside[0])
        Path(options.inside[1]).write_text(json.dumps([*measured(Extent(**told), "pace", wanted)]))
        return
    OUT.mkdir(parents=True, exist_ok=True)
    if options.again:
        results = json.loads(options.again.read_text())
    else:
        extent = SHORT if options.short else Extent()
        given = {name: value for name in ("size", "rounds") if (value := getattr(options, name)) is not None}
        results = _all(replace(extent, **given), options.measures, options.ways)
        (OUT / "training.json").write_text(json.dumps(results, indent=1) + "\n")
    if options.write:
        say(f"written: {training_page.write(results).relative_to(ROOT)}")
    else:
        say(training_page.plain(results))


def _all(extent: Extent, measures: str, wanted: Sequence[str]) -> dict[str, Any]:
    """Everything that was asked for."""
    results: dict[str, Any] = {"machine": machine.facts(), "extent": asdict(extent), "versions": _versions()}
    results["stall"] = [*measured(extent, "stall", wanted)] if measures != "pace" else []
    results["pace"], results["missing"] = paced(extent, wanted) if measures != "stall" else ([], "not asked for")
    return results


def _versions() -> dict[str, str]:
    """What the loops are made of."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "print(json.dumps({n: m.version(n) for n in sys.argv[1:] if n in {d.name.lower() for d in m.distributions()}}))"
    )
    found: dict[str, str] = {}
    for where, names in (("own", ("torch", "boto3")), ("torch", ("torch", "s3fs", "fsspec", "s3torchconnector"))):
        told = subprocess.run(
            [python_of(where), "-c", code, *names], capture_output=True, text=True, check=False
        ).stdout
        found |= json.loads(told or "{}")
    return found


if __name__ == "__main__":
    main()
