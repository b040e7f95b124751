"""Measure ourselves and our peers in one run: `make bench`."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from bench import far, machine, page, shapes, small, stages, suite
from bench.peers import CLOUDS, PEERS, ROOT, chosen
from bench.suite import MIB, PLAIN, say
from ckptsync.config import parse_size

OUT = ROOT / "build" / "bench"
STAGED_BYTES = 256 * MIB
SIZE, ROUNDS = 1024 * MIB, 5
"""Less than this is no whole run, and writes no page."""


def main() -> int:
    """Measure, write what came out to `build/bench`, and the page when all was measured."""
    options = parsed(sys.argv[1:])
    OUT.mkdir(parents=True, exist_ok=True)
    is_whole = (
        not options.peers
        and not options.shapes
        and options.loopback
        and options.small
        and set(options.cloud) == {*CLOUDS}
        and options.rounds >= ROUNDS
        and options.size >= SIZE
    )
    place = OUT / ("results.json" if is_whole else "partial.json")
    if options.again:
        results = json.loads(options.again.read_text())
    else:
        results = measured(options, place)
        say(f"written: {place.relative_to(ROOT)}")
    if is_whole or options.page:
        say(f"written: {page.write(results).relative_to(ROOT)}")
    else:
        say(page.plain(results))
    return 0


def measured(options: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Measure; what is there so far is written after each table."""
    tables: list[dict[str, Any]] = []
    results: dict[str, Any] = {"machine": machine.facts(), "note": options.note, "tables": tables}
    began_s = time.monotonic()
    if options.loopback:
        with suite.placed(STAGED_BYTES) as place_of_it:
            results["stages"] = stages.measured(place_of_it.blob, place_of_it.folder)
    if not options.shapes:
        # in a process of its own: what ours has used at most, its children start with in the eyes of the kernel
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as apart:
            results["far"] = apart.submit(far.measured, options.cloud, options.rounds).result()
    for table in all_tables(options):
        tables.append(table)
        results |= {"versions": machine.versions(), "took_s": round(time.monotonic() - began_s)}
        place.write_text(json.dumps(results, indent=1) + "\n")
    return results


def all_tables(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Plain loopback for each cloud, then the other ways."""
    for cloud in options.cloud if options.loopback else ():
        yield suite.table(chosen(cloud, options.peers), cloud, PLAIN, options.size, options.rounds)
    if options.small and "s3" in options.cloud:
        yield from small.tables(options.peers)
    for cloud in options.cloud:
        for shape in shapes.SHAPES:
            if cloud == "gcs" and shape.server:
                continue
            if not options.shapes or shape.name.replace(" ", "") in options.shapes:
                yield shapes.table(cloud, shape, options.size, options.rounds, options.peers, OUT)


def listed(text: str) -> list[str]:
    """Words between commas; a comma with a space behind it belongs to a name."""
    return [word.replace("\0", ", ") for word in text.replace(", ", "\0").split(",") if word]


def parsed(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make bench BENCH_ARGS=…", description=__doc__)
    parser.add_argument("--peers", type=listed, default=[], help="names, separated by commas; all when left out")
    parser.add_argument("--cloud", type=listed, default=[*CLOUDS], help="s3, gcs, or both, with a comma between")
    parser.add_argument("--size", type=parse_size, default=SIZE, help="of the object, like 256MiB")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of each measurement")
    parser.add_argument("--shapes", type=listed, default=[], help="like 20ms,1Gbit/s,TLS; `none`; all when left out")
    parser.add_argument("--no-small", dest="small", action="store_false", help="leave out the many small files")
    parser.add_argument("--no-loopback", dest="loopback", action="store_false", help="the shapes alone")
    parser.add_argument("--again", type=Path, help="measure nothing: take what such a file of results holds")
    parser.add_argument("--note", default="", help="a sentence that the page shall say about this run")
    parser.add_argument("--page", action="store_true", help="write the page although only a part was measured")
    options = parser.parse_args(arguments)
    for name, given, known in (
        ("cloud", options.cloud, {*CLOUDS}),
        ("shape", options.shapes, {"none", *(shape.name.replace(" ", "") for shape in shapes.SHAPES)}),
        ("peer", options.peers, {peer.name for peer in PEERS}),
    ):
        if unknown := [one for one in given if one not in known]:
            parser.error(f"no {name} {unknown[0]!r}; there are {', '.join(sorted(known))}")
    if options.rounds < 1 or options.size < MIB:
        parser.error("at least one round, and 1 MiB, must be measured")
    return options


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("interrupted; what was measured so far is in build/bench")
