"""What we set out to reach, beside what was measured; the page says of each whether it holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import small
from bench.figures import medians
from bench.peers import OURS

MEMORY = f"{OURS}, memory"
NO_HASH = f"{OURS}, memory, no hash"
UP, DOWN = "put", "get"
_WHERE = {"s3": "S3", "gcs": "GCS"}
_WORDS = {UP: "up", DOWN: "down"}
_SAME_BARE = {OURS: "bare socket, blake3", MEMORY: "bare socket, memory, blake3"}
_CHEAPEST = {
    "s3": {"boto3": 5.0, "aws s3 cp": 5.0},
    "gcs": {"gcsfs": 4.0},
}
_FASTER = {
    "s3": (
        "boto3, crt",
        "s5cmd",
        "rclone",
        "s3torchconnector",
        "torch DCP (s3torchconnector)",
        "torch DCP (fsspec)",
        "s3fs",
        "obstore",
    ),
    "gcs": ("obstore", "transfer_manager, threads", "transfer_manager, processes", "google-cloud-storage"),
}
_MOST_CPU = {(OURS, UP): 0.75, (OURS, DOWN): 1.0, (MEMORY, DOWN): 0.85}
_SLOWER_BY = 1.1

Figures = Mapping[str, Mapping[str, Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target.

    Attributes:
        target: what was to be reached.
        found: what was measured.
        holds: whether that is enough.
    """

    target: str
    found: str
    holds: bool


def verdicts(tables: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    """Judge what these tables show; targets of tables that are not there are left out."""
    for table in tables:
        name = table["shape"]["name"]
        if table.get("files"):
            yield from _many_files(name, small.medians(table))
        elif name == "loopback":
            yield from _near(table["cloud"], medians(table))
            yield from _beside(table["cloud"], medians(table))
            yield from _hashing(_WHERE[table["cloud"]], medians(table))
    yield from _far([table for table in tables if not table.get("files")])


def _near(cloud: str, found: Figures) -> Iterator[Verdict]:
    """On loopback."""
    where = _WHERE[cloud]
    for (peer, direction), most in _MOST_CPU.items() if cloud == "s3" else ():
        if peer in found:
            cpu = found[peer][direction]["cpu"]
            yield Verdict(f"{where}, {peer}, {_WORDS[direction]}: at most {most} CPU-s/GB", f"{cpu:.2f}", cpu <= most)
    for ours, bare in _SAME_BARE.items():
        for direction in (UP, DOWN):
            if ours in found and bare in found:
                share = found[ours][direction]["rate"] / found[bare][direction]["rate"]
                target = f"{where}, {ours}, {_WORDS[direction]}: at least 80 % of the rate of `{bare}`"
                yield Verdict(target, f"{share:.0%}", share >= 0.8)


def _beside(cloud: str, found: Figures) -> Iterator[Verdict]:
    """On loopback, beside peers."""
    where = _WHERE[cloud]
    for peer, times in _CHEAPEST[cloud].items():
        for direction in (UP, DOWN):
            if peer in found and OURS in found:
                ratio = found[peer][direction]["cpu"] / found[OURS][direction]["cpu"]
                rate = found[OURS][direction]["rate"] / found[peer][direction]["rate"]
                target = (
                    f"{where}, {_WORDS[direction]}: {times:.0f} times as good as {peer}, by processor time or by rate"
                )
                yield Verdict(
                    target,
                    f"{ratio:.1f} times less processor time, {rate:.1f} times the rate",
                    max(ratio, rate) >= times,
                )
    for peer in _FASTER[cloud]:
        for direction in (UP, DOWN):
            if peer in found and OURS in found:
                rate = found[OURS][direction]["rate"] / found[peer][direction]["rate"]
                yield Verdict(f"{where}, {_WORDS[direction]}: faster than {peer}", f"{rate:.2f} times", rate >= 1)


def _hashing(where: str, found: Figures) -> Iterator[Verdict]:
    """With digests, and without."""
    for direction in (UP, DOWN):
        if MEMORY in found and NO_HASH in found:
            slower = found[NO_HASH][direction]["rate"] / found[MEMORY][direction]["rate"] - 1
            target = f"{where}, {_WORDS[direction]}: hashing costs at most 10 % of the wall time"
            yield Verdict(target, f"{slower:.0%}", slower <= 0.1)


def _many_files(shape: str, found: Figures) -> Iterator[Verdict]:
    """Folders of small files."""
    for direction in (UP, DOWN):
        if OURS in found and "s5cmd" in found:
            share = found[OURS][direction]["rate"] / found["s5cmd"][direction]["rate"]
            target = f"{shape}, {_WORDS[direction]}: at least s5cmd's files in a second"
            yield Verdict(target, f"{share:.0%} of it", share >= 1)


def _far(tables: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    """Over other ways: the best peer may be a tenth faster, no more. Files beside files, memory beside memory."""
    for table in tables:
        where, found = f"{_WHERE[table['cloud']]}, {table['shape']['name']}", medians(table)
        if table["shape"]["name"] == "loopback" or MEMORY not in found:
            continue
        others = {name for name in found if not name.startswith((OURS, "bare socket"))}
        in_memory = {name for name in others if name.endswith(", memory")}
        for ours, theirs in ((OURS, others - in_memory), (MEMORY, in_memory)):
            for direction in (UP, DOWN):
                if ours in found and theirs:
                    best = max(theirs, key=lambda name: found[name][direction]["rate"])
                    share = found[ours][direction]["rate"] / found[best][direction]["rate"]
                    target = f"{where}, {ours}, {_WORDS[direction]}: at most a tenth behind the best peer"
                    yield Verdict(target, f"{share:.2f} times the rate of {best}", share >= 1 / _SLOWER_BY)
        yield from _hashing(where, found)
