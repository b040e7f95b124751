"""What every client in Python is run by: connects and warms up unmeasured, then moves one object and tells what that cost.

Runs in the peers' environments too, so it uses nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Move = Callable[[str, Path], None]
"""Given a key and a local file."""

WARM_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Job:
    """What to do.

    Attributes:
        direction: `put` or `get`.
        cloud: `s3` or `gcs`.
        endpoint: address of the service.
        bucket: which.
        key: of the object.
        blob: the file of which copies are uploaded.
        path: of the file to move, or to fetch into.
        size: bytes.
        variant: what the peer's table of variants makes of it.
        authority: PEM that vouches for the service; empty without TLS.
    """

    direction: str
    cloud: str
    endpoint: str
    bucket: str
    key: str
    blob: Path
    path: Path
    size: int
    variant: str
    authority: str


def cpu_s() -> float:
    """CPU of this process and of children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main(connect: Callable[[Job], tuple[Move, Move]]) -> None:
    """Do the job that standard input tells, and print what it cost.

    Args:
        connect: makes `put` and `get`; its cost is not measured, nor that of the first small object.
    """
    told: dict[str, Any] = json.loads(sys.stdin.read())
    job = Job(**{**told, "path": Path(told["path"]), "blob": Path(told["blob"])})
    put, get = connect(job)
    small = job.path.with_name(f"warm-{os.getpid()}")
    small.write_bytes(os.urandom(WARM_BYTES))
    put(f"warm/{small.name}", small)
    small.unlink()
    get(f"warm/{small.name}", small)
    start_up_s, begun_s = cpu_s(), time.monotonic()
    (put if job.direction == "put" else get)(job.key, job.path)
    wall_s, used_s = time.monotonic() - begun_s, cpu_s() - start_up_s
    peaks = [resource.getrusage(who).ru_maxrss * 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    result = {"cpu_s": used_s, "wall_s": wall_s, "start_up_cpu_s": start_up_s, "peak_rss_bytes": max(peaks)}
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
