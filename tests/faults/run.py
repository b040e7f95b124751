"""Run the kill matrix and the mutations, and write docs/reference/fault-matrix.md: `make faults`.

`--short` strikes a sample, compares the page's shape with what it ran, and writes nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor

from faults import mutations, page, sigkill
from faults.beds import KINDS, Kind
from faults.matrix import Row, strike_all
from faults.scenarios import SCENARIOS, Scenario

SHORT_SHARE = 0.05
SAMPLE, SHORT_SAMPLE = 6, 1


def in_process(share: float, workers: int) -> list[Row]:
    """Strike every pair of scenario and bucket; rows in the order of the page, whatever is done first."""
    pairs = [(scenario, kind) for scenario in SCENARIOS for kind in scenario.kinds]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return [row for rows in pool.map(_strike, [(s.name, k.name, share) for s, k in pairs]) for row in rows]


def _strike(what: tuple[str, str, float]) -> list[Row]:
    scenario, kind, share = what
    rows = strike_all(_named(SCENARIOS, scenario), _kind(kind), share=share)
    struck = sum(row.points.total() for row in rows)
    failed = sum(len(row.failures) for row in rows)
    sys.stdout.write(f"{scenario} / {kind}: {struck} requests struck, {failed} failures\n")
    sys.stdout.flush()
    return rows


def _named(scenarios: Sequence[Scenario], name: str) -> Scenario:
    return next(scenario for scenario in scenarios if scenario.name == name)


def _kind(name: str) -> Kind:
    return next(kind for kind in KINDS if kind.name == name)


def main() -> int:
    """Run everything; 1 when anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="a sample; writes nothing")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    begun_s = time.monotonic()
    rows = in_process(SHORT_SHARE if options.short else 1.0, options.workers)
    killed = sigkill.sample(SHORT_SAMPLE if options.short else SAMPLE)
    proofs = mutations.prove(options.workers)
    failures = [failure for row in [*rows, *killed] for failure in row.failures]
    failures += [f"{proof.name}: {proof.problem}" for proof in proofs if proof.problem]
    sys.stdout.write(mutations.table(proofs))
    if options.short:
        failures += page.outdated(rows, killed, proofs)
    elif not failures:
        page.PAGE.write_text(page.written(rows, killed, proofs))
    for failure in failures:
        sys.stdout.write(f"FAILED {failure}\n")
    struck = sum(row.points.total() for row in [*rows, *killed])
    sys.stdout.write(
        f"{struck} requests struck, {len(proofs)} protections removed, {len(failures)} failures, "
        f"{time.monotonic() - begun_s:.0f} s\n"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
