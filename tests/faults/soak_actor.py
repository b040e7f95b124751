"""One process of the soak: a writer, a reader or a collector, at work until it is told to stop.

    soak_actor.py ROLE RUN FOLDER SECONDS

Each line it prints is one JSON object: what it did, or what must not be. Every file of a checkpoint is made from its step and
writer alone, so that a reader can tell from the bytes whether all of them belong together.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import ckptsync
from ckptsync.errors import CkptsyncError, FencedError, NoSnapshotError, StoreError
from ckptsync.events import Event
from ckptsync.policy import LatestN
from ckptsync.run import Run, open_run
from ckptsync.verbs.gc import collect
from ckptsync.verbs.restore import restore

KEEP = 3
GRACE_S = 60.0
SIZES = {"model.bin": 11 << 20, "optimizer.bin": 300_000, "sub/rng.bin": 17}
_BLOCK = 4096


def tell(what: str, **facts: object) -> None:
    """Print one line."""
    sys.stdout.write(json.dumps({"what": what, "at_s": time.time(), **facts}) + "\n")
    sys.stdout.flush()


def content(name: str, stamp: str, size: int) -> bytes:
    """What a file holds at a stamp."""
    block = random.Random(f"{name} {stamp}").randbytes(_BLOCK)
    return (block * (size // _BLOCK + 1))[:size]


def make(folder: Path, stamp: str) -> None:
    """Write a checkpoint."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, size in SIZES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content(name, stamp, size))
    (folder / "stamp").write_text(stamp)


def torn(folder: Path) -> str:
    """Say what does not belong together; empty when all is one checkpoint."""
    stamp = (folder / "stamp").read_text()
    for name, size in SIZES.items():
        if (folder / name).read_bytes() != content(name, stamp, size):
            return f"{name} is not that of {stamp}"
    return ""


def footprint() -> dict[str, int]:
    """Resident memory in bytes, threads and open files of this process."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {
        "memory_bytes": int(fields["VmRSS"].split()[0]) * 1024,
        "threads": threading.active_count(),
        "files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  names are all that is wanted
    }


def write(run: Run, folder: Path, number: int) -> None:
    """Save the next step, as a training loop does; a writer that was overtaken ends."""
    latest = run.catalog.latest()
    step = (latest.id.step if latest else 0) + 1
    stamp = f"{os.getpid()} {number} {step}"
    make(folder / "source", stamp)
    saved = ckptsync.save(folder / "source", run.url, step=step, observer=_ignore)
    tell("saved", snapshot=saved.snapshot, stamp=stamp, sent=saved.bytes_sent)


def read(run: Run, folder: Path, number: int) -> None:
    """Restore the newest snapshot and look at every byte; what was the newest before must not be newer than it."""
    del number
    before = next(run.catalog.listed(limit=1), None)
    restored = restore(run, folder / "target")
    if problem := torn(folder / "target"):
        tell("WRONG", problem=f"torn: {problem} in {restored.snapshot}")
    if before is not None and restored.snapshot < str(before.id) and not restored.skipped:
        tell("WRONG", problem=f"went back: {before.id} was there, {restored.snapshot} was restored")
    if restored.kept:
        tell("WRONG", problem=f"kept beside the target what was restored before: {restored.kept}")
        for path in restored.kept:
            shutil.rmtree(path, ignore_errors=True)
    tell("restored", snapshot=restored.snapshot, skipped=len(restored.skipped))


def tidy(run: Run, folder: Path, number: int) -> None:
    """Collect, keeping the newest few."""
    del folder, number
    collected = collect(run, LatestN(KEEP), grace_s=GRACE_S, dry_run=False)
    if collected.foreign:
        tell("WRONG", problem=f"its own objects are foreign to gc: {collected.foreign[:3]}")
    tell("collected", removed=collected.removed, objects=collected.objects_deleted)


ROLES: dict[str, Callable[[Run, Path, int], None]] = {"writer": write, "reader": read, "collector": tidy}
PAUSES_S = {"writer": 0.5, "reader": 0.3, "collector": 4.0}


def main() -> int:
    """Do the same again and again; every failure must be one of ours."""
    role, url, place, seconds = sys.argv[1:]
    faulthandler.register(signal.SIGUSR1)  # whoever does not end is asked where it is
    folder, until_s, number = Path(place), time.monotonic() + float(seconds), 0
    folder.mkdir(parents=True, exist_ok=True)
    tell("began", role=role, pid=os.getpid())
    with open_run(url, observer=_ignore) as run:
        while time.monotonic() < until_s:
            number += 1
            try:
                ROLES[role](run, folder, number)
            except FencedError as error:
                tell("fenced", problem=str(error))
                return error.exit_code
            except NoSnapshotError:
                tell("nothing yet")
            except StoreError as error:  # the service was away for longer than we try
                tell("failed", problem=str(error))
            except CkptsyncError as error:
                tell("WRONG", problem=f"{type(error).__name__}: {error}")
            tell("footprint", number=number, **footprint())
            time.sleep(PAUSES_S[role])
    return 0


def _ignore(event: Event) -> None:
    del event


if __name__ == "__main__":
    sys.exit(main())
