"""A gate of a minute, `make bench-quick`: our processor time beside boto3's `upload_file` and `download_file` in the same run.

Ratios are compared with those in `bounds.json`, never times: another machine has other times, but hardly other ratios. Each round
gives a ratio, and their median counts; it may be worse than its bound by the margin that stands there too.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench import suite
from bench.peers import OURS, PEERS
from bench.run import OUT

BOUNDS = Path(__file__).parent / "bounds.json"
BESIDE = "boto3"
SIZE, ROUNDS = 192 << 20, 5


def ratios(samples: list[dict[str, Any]], direction: str) -> list[float]:
    """Ours by theirs, round by round."""
    ours, theirs = (
        [one["cpu_s"] for one in samples if (one["peer"], one["direction"]) == (name, direction)]
        for name in (OURS, BESIDE)
    )
    return [mine / max(other, 1e-9) for mine, other in zip(ours, theirs, strict=True)]


def verdict(found: dict[str, float], bounds: dict[str, Any]) -> list[str]:
    """Sentences about what is worse than its bound allows; none when all is well."""
    return [
        f"{direction}: {ratio:.2f} times the processor time of {BESIDE}, more than {bounds[direction]} "
        f"and a margin of {bounds['margin']:.0%}"
        for direction, ratio in found.items()
        if ratio > bounds[direction] * (1 + bounds["margin"])
    ]


def main() -> int:
    """Measure; 1 when we cost more than the bounds allow."""
    bounds = json.loads(BOUNDS.read_text())
    # in our own environment, so that the gate installs nothing
    peers = [replace(peer, environment="own") for peer in PEERS if peer.name in {OURS, BESIDE}]
    table = suite.table(peers, "s3", suite.PLAIN, SIZE, ROUNDS)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "quick.json").write_text(json.dumps(table, indent=1) + "\n")
    if errors := [f"{sample['peer']}: {sample['error']}" for sample in table["samples"] if sample["error"]]:
        suite.say("\n".join(errors))
        return 1
    found = {direction: median(ratios(table["samples"], direction)) for direction in ("put", "get")}
    for direction, ratio in found.items():
        suite.say(f"{direction}: {ratio:.2f} times the processor time of {BESIDE}; the bound is {bounds[direction]}")
    problems = verdict(found, bounds)
    suite.say("\n".join(problems) if problems else "no worse than the bounds")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
