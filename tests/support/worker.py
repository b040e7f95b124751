"""One verb in a process of its own, so that it can be killed and its memory measured. Prints `ready`, then one line of JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

from ckptsync.run import open_run
from ckptsync.verbs.restore import Restored, restore
from ckptsync.verbs.save import Saved, save


def memory_bytes(field: str) -> int:
    """Resident memory: `VmRSS` now, `VmHWM` at its highest. (`ru_maxrss` would count the parent's before exec.)"""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def main() -> None:
    """Run `save RUN PATH STEP` or `restore RUN PATH [SNAPSHOT]`."""
    verb, url, path, *rest = sys.argv[1:]
    with open_run(url) as run:
        run.catalog.latest()  # builds the client, whose memory is not the transfer's
        before = memory_bytes("VmRSS")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        if verb == "save":
            result: Saved | Restored = save(run, Path(path), step=int(rest[0]))
        else:
            result = restore(run, Path(path), snapshot=rest[0] if rest else "latest")
    peak = memory_bytes("VmHWM")
    sys.stdout.write(json.dumps({**dataclasses.asdict(result), "grown": peak - before}))


if __name__ == "__main__":
    main()
