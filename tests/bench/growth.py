"""Measures what verbs cost as a run gets more snapshots, and a snapshot more files and parts.

    make growth                        # all sizes; writes docs/reference/growth.md and its plots
    python tests/bench/growth.py       # all sizes, printed only
    python tests/bench/growth.py --short --json FILE   # seconds, as the tests run it

Each bucket is filled in a process of its own, and each figure is of a process forked from that when the run is there: its requests are
counted at the store, its processor time is that of all its threads, and its memory is what it took beyond what it began with. Linux only.
"""

from __future__ import annotations

import argparse
import ctypes
import gc as garbage
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import growth_beds as beds
import growth_page as page
from growth_page import Figure

from ckptsync.catalog import Catalog
from ckptsync.policy import EveryNSteps, LatestN
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.manifest import Provenance, decode, encode
from ckptsync.store.base import Store
from ckptsync.store.memory import MemoryStore
from ckptsync.verbs.gc import collect
from ckptsync.verbs.listing import rows
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save
from ckptsync.verbs.status import status

SNAPSHOTS = (10, 100, 1_000, 10_000)
FILES = (100, 1_000, 10_000, 100_000)
PARTS = (1_000, 10_000, 100_000, 1_000_000)
PARTS_OF_A_FILE = (10_000, 10, 1)
Work = Callable[[], Mapping[str, int] | None]


# -- one figure ----------------------------------------------------------------------------------------------------------


def forked(work: Callable[[], object]) -> Any:
    """Do something in a child of this process; what it returned, by way of JSON. A failure is told on stderr."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        code = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as pipe:
                json.dump(work(), pipe)
            code = 0
        finally:
            if code:
                sys.excepthook(*sys.exc_info())
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a measured process failed")
    return json.loads(told)


def measured(work: Work) -> tuple[Mapping[str, int], float, float, float]:
    """Do something in a child of this process; its requests, wall and processor seconds, and MiB."""
    requests, wall_s, cpu_s, memory_mb = forked(partial(_measured_here, work))
    return requests, wall_s, cpu_s, memory_mb


def _measured_here(work: Work) -> tuple[Mapping[str, int], float, float, float]:
    """Do something, and look at what it took."""
    garbage.collect()
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # else what was freed before is taken again, and not seen
    before_mb, _ = _memory_mb(forget=True)
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    requests = dict(work() or {})
    wall_s, cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
    return requests, wall_s, cpu_s, _memory_mb()[1] - before_mb


def _memory_mb(*, forget: bool = False) -> tuple[float, float]:
    """Memory in use and the most that was, MiB; `forget` begins to measure the latter anew."""
    with suppress(OSError):
        if forget:
            Path("/proc/self/clear_refs").write_text("5")
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    most_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return tuple(int(told.get(name, f"{most_kb} kB").split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


# -- what is measured ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """A bucket that is ready, and what surrounds it.

    Attributes:
        growing: what there are many of in it.
        size: how many.
        kind: of bucket.
        store: the bucket.
        wire: requests that reached its service, where there is one.
        folder: for whatever a verb puts on the disk.
    """

    growing: str
    size: int
    kind: str
    store: Store
    wire: list[object]
    folder: Path

    def figure(self, verb: str, work: Callable[[Run], object]) -> Figure:
        """Measure one verb."""

        def counted() -> Mapping[str, int]:
            run, meter = beds.opened(self.store, self.folder / "state")
            work(run)
            return meter.counts().requests

        before = len(self.wire)
        requests, wall_s, cpu_s, memory_mb = measured(counted)
        if self.kind == "gcs":
            requests = {**requests, "http": len(self.wire) - before}
        return Figure(
            growing=self.growing,
            size=self.size,
            store=self.kind,
            verb=verb,
            requests=requests,
            wall_s=round(wall_s, 4),
            cpu_s=round(cpu_s, 4),
            memory_mb=round(memory_mb, 1),
        )

    def figures(self, source: Path, step: int) -> Iterator[Figure]:
        """Measure what people do with a run, in an order in which one verb does not change what the next finds."""
        rule = LatestN(1) | EveryNSteps(beds.STRIDE)
        yield self.figure("latest", lambda run: run.catalog.latest())
        yield self.figure("status", status)
        yield self.figure("ls", lambda run: sum(1 for _ in rows(run)))
        yield self.figure("restore", lambda run: restore(run, self.folder / f"restored-{self.kind}"))
        yield self.figure("gc", lambda run: collect(run, rule, grace_s=86_400, dry_run=False))
        yield self.figure("save", lambda run: save(run, source, step=step))


def of_snapshots(kind: str, size: int) -> Iterator[Figure]:
    """A run of so many snapshots, of which gc lets one go."""
    with tempfile.TemporaryDirectory() as name, beds.bucket(kind, Path(name)) as (store, wire):
        beds.fill(store, size)
        source = beds.tree(Path(name) / "source", 3)
        bed = Bed(growing="snapshots", size=size, kind=kind, store=store, wire=wire, folder=Path(name))
        yield from bed.figures(source, step=(size + 1) * beds.STRIDE)


def of_files(kind: str, size: int) -> Iterator[Figure]:
    """A run of one snapshot of so many files, saved, looked at, restored, and saved again unchanged."""
    with tempfile.TemporaryDirectory() as name, beds.bucket(kind, Path(name)) as (store, wire):
        source = beds.tree(Path(name) / "source", size)
        bed = Bed(growing="files", size=size, kind=kind, store=store, wire=wire, folder=Path(name))
        time.sleep(0.2)  # else a save reads what is so young twice
        yield bed.figure("save", lambda run: save(run, source, step=1))
        run, _ = beds.opened(store, Path(name) / "state")
        if kind == "memory":  # the child's bucket is gone with it
            save(run, source, step=1)
        yield from (found for found in bed.figures(source, step=2) if found.verb != "save")
        yield bed.figure("save again", lambda run: save(run, source, step=2))


def of_parts(size: int, *, of_a_file: int = PARTS_OF_A_FILE[0]) -> Iterator[Figure]:
    """A manifest of so many parts, in files of so many."""
    made = beds.manifest(size, max(1, size // of_a_file))
    data = encode(made)
    store = MemoryStore()
    store.put(layout.manifest_key(made.id), data)
    works: dict[str, Callable[[], object]] = {
        "encode": lambda: encode(made),
        "decode": lambda: decode(data),
        "latest": Catalog(store).latest,
    }
    for verb, work in works.items():
        _, wall_s, cpu_s, memory_mb = measured(partial(_uncounted, work))
        yield Figure(
            growing="parts",
            size=size,
            store="",
            verb=f"{verb}, {of_a_file} a file",
            requests={"bytes": len(data)},
            wall_s=round(wall_s, 4),
            cpu_s=round(cpu_s, 4),
            memory_mb=round(memory_mb, 1),
        )


def _uncounted(work: Callable[[], object]) -> None:
    """Do something that asks no store, or one whose requests are known."""
    work()


Beds = Iterator[Callable[[], Iterator[Figure]]]


def everything() -> Beds:
    """All figures, the small sizes first."""
    for kind in ("memory", "directory"):
        yield from (partial(of_snapshots, kind, size) for size in SNAPSHOTS)
        yield from (partial(of_files, kind, size) for size in FILES)
    yield from (partial(of_snapshots, "gcs", size) for size in SNAPSHOTS)
    for of_a_file in PARTS_OF_A_FILE:
        yield from (partial(of_parts, size, of_a_file=of_a_file) for size in PARTS)


def some() -> Beds:
    """What shows the shape of it, in seconds."""
    for kind, sizes in (("memory", (10, 1_000, 10_000)), ("directory", (10, 100)), ("gcs", (10, 100))):
        yield from (partial(of_snapshots, kind, size) for size in sizes)
    for kind, sizes in (("memory", (100, 1_000)), ("directory", (100,))):
        yield from (partial(of_files, kind, size) for size in sizes)
    for of_a_file in PARTS_OF_A_FILE[:2]:
        yield partial(of_parts, PARTS[-1], of_a_file=of_a_file)


def _figures_of(bed: Callable[[], Iterator[Figure]]) -> list[dict[str, Any]]:
    """What one bed gives, as JSON takes it; printed as it comes."""
    found = []
    for figure in bed():
        sys.stdout.write(f"{page.line(figure)}\n")
        sys.stdout.flush()
        found.append(asdict(figure))
    return found


def main() -> None:
    """Measure, print as it goes, and write what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a few sizes only, as the tests do")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--from-json", type=Path, help="take figures from this file instead of measuring")
    parser.add_argument("--write", action="store_true", help="renew docs/reference/growth.md and its plots")
    options = parser.parse_args()
    if options.from_json:
        told = json.loads(options.from_json.read_text())
    else:
        with mock.patch("ckptsync.verbs.sending.provenance", return_value=Provenance()):  # asking git is not what grows
            wanted = some() if options.short else everything()
            found = [figure for bed in wanted for figure in forked(partial(_figures_of, bed))]
        told = {"machine": page.machine(), "figures": found}
    if options.json:
        options.json.write_text(json.dumps(told, indent=1))
    if options.write:
        page.write([Figure(**one) for one in told["figures"]], told["machine"])


if __name__ == "__main__":
    main()
