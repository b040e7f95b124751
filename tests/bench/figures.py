"""Figures of a table of samples: medians of all rounds."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

MIB = 1 << 20


def medians(table: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Figures of each peer and direction: the median of all rounds; peers that failed are left out."""
    failed = {sample["peer"] for sample in table["samples"] if sample["error"]}
    found: dict[str, dict[str, dict[str, float]]] = {}
    for name in dict.fromkeys(sample["peer"] for sample in table["samples"]):
        if name in failed:
            continue
        for direction in ("put", "get"):
            mine = [one for one in table["samples"] if (one["peer"], one["direction"]) == (name, direction)]
            found.setdefault(name, {})[direction] = {
                "cpu": median(one["cpu_s"] for one in mine) * 1e9 / table["size"],
                "rate": table["size"] / 1e6 / max(median(one["wall_s"] for one in mine), 1e-9),
                "start": median(one["start_up_cpu_s"] for one in mine),
                "peak": max(one["peak_rss_bytes"] for one in mine) / MIB,
                "sink": median(one["sink_cpu_s"] for one in mine) * 1e9 / table["size"],
            }
    return found
