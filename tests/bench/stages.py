"""What the steps of a transfer cost by themselves, in one thread: beneath their sum no client that takes them can come."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median

from awscrt import checksums
from blake3 import blake3

from ckptsync.store.gcs.crc32c import crc32c

PART_BYTES, WINDOW_BYTES = 16 << 20, 1 << 20
ROUNDS = 5
STEPS = ("read", "read, BLAKE3", "read, BLAKE3, CRC64-NVME", "read, BLAKE3, CRC32C", "BLAKE3", "write")


def measured(blob: Path, folder: Path) -> dict[str, float]:
    """CPU-seconds for 10^9 bytes of each of `STEPS`, medians.

    Args:
        blob: what is read, a few parts long.
        folder: where to write.
    """
    found: dict[str, list[float]] = {step: [] for step in STEPS}
    size = blob.stat().st_size
    for _ in range(ROUNDS):
        for step, work in _steps(blob, folder / "written"):
            begun_s = time.process_time()
            work()
            found[step].append((time.process_time() - begun_s) * 1e9 / size)
    return {step: round(median(all_of_it), 3) for step, all_of_it in found.items()}


def _steps(blob: Path, target: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """What to measure, by name."""
    with mmap.mmap(-1, PART_BYTES) as memory, memoryview(memory) as part:
        memory.write(os.urandom(PART_BYTES))
        yield "read", lambda: _read(blob, part)
        yield "read, BLAKE3", lambda: _read(blob, part, blake3)
        yield (
            "read, BLAKE3, CRC64-NVME",
            lambda: _read(blob, part, lambda piece: (blake3(piece), checksums.crc64nvme(piece))),
        )
        yield (
            "read, BLAKE3, CRC32C",
            lambda: _read(blob, part, lambda piece: (blake3(piece), crc32c(piece))),
        )
        yield "BLAKE3", lambda: _each(blob, lambda: blake3(part))
        yield "write", lambda: _write(blob, part, target)


def _each(blob: Path, work: Callable[[], object]) -> None:
    """Do something for each part of the blob."""
    for _ in range(0, blob.stat().st_size, PART_BYTES):
        work()


def _read(blob: Path, part: memoryview, heard: Callable[[memoryview], object] = len) -> None:
    """Read a file part by part, window by window."""
    with blob.open("rb", buffering=0) as file:
        at = 0
        while count := file.readinto(part[at : at + WINDOW_BYTES]):
            heard(part[at : at + count])
            at = (at + count) % PART_BYTES


def _write(blob: Path, part: memoryview, target: Path) -> None:
    """Write a new file as long as the blob."""
    with target.open("wb", buffering=0) as file:
        _each(blob, lambda: file.write(part))
    target.unlink()


def table(
    steps: Mapping[str, float], tables: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]]
) -> Iterator[str]:
    """Lines of the page: where the processor time of our transfers goes.

    Args:
        steps: as `measured` has them.
        tables: medians on loopback by cloud, client and direction.
    """
    clouds = [cloud for cloud in ("s3", "gcs") if "ckptsync" in tables.get(cloud, {})]
    names = {"s3": "S3", "gcs": "GCS"}
    columns = [(cloud, direction) for direction in ("put", "get") for cloud in clouds]
    yield f"| CPU-s/GB | {' | '.join(f'{names[cloud]}, ' + ('up' if way == 'put' else 'down') for cloud, way in columns)} |"
    yield f"|---|{'--:|' * len(columns)}"
    crc = {
        cloud: steps[f"read, BLAKE3, {name}"] - steps["read, BLAKE3"]
        for cloud, name in (("s3", "CRC64-NVME"), ("gcs", "CRC32C"))
    }
    rows: dict[str, list[float]] = {
        "sending or receiving: the bare socket, memory": [
            tables[cloud]["bare socket, memory"][way]["cpu"] for cloud, way in columns
        ],
        "reading the file, or writing a new one": [steps["read" if way == "put" else "write"] for _, way in columns],
        "BLAKE3": [steps["read, BLAKE3"] - steps["read"] if way == "put" else steps["BLAKE3"] for _, way in columns],
        "the service's checksum": [max(crc[cloud], 0.0) if way == "put" else 0.0 for cloud, way in columns],
    }
    sums = [sum(column) for column in zip(*rows.values(), strict=True)]
    whole = [tables[cloud]["ckptsync"][way]["cpu"] for cloud, way in columns]
    rows["**these together**"] = sums
    rows["`ckptsync`, measured"] = whole
    rows["the rest: requests, threads, claim, journal, commit"] = [
        all_of_it - known for all_of_it, known in zip(whole, sums, strict=True)
    ]
    for name, cells in rows.items():
        yield f"| {name} | {' | '.join(f'{cell:.2f}' for cell in cells)} |"
    yield ""
