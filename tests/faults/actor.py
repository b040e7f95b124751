"""One verb in a process of its own that a fault ends or stops at a chosen request. Exits as the command line does.

    actor.py VERB RUN PATH STEP [FAULT STORE_VERB KEY SKIP]

VERB is save, restore, gc (which takes the grace period in seconds for STEP), promote or verify; FAULT kill-before, kill-after, stop-before or stop-after. Without a fault,
the requests are printed, one JSON list.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from ckptsync import names
from ckptsync.config import resolve
from ckptsync.errors import CkptsyncError
from ckptsync.policy import LatestN
from ckptsync.run import Run, open_run
from ckptsync.store.retry import Retrying
from ckptsync.testing.faults import Faulty, sigkill, sigstop
from ckptsync.verbs.gc import collect
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify

OPTIONS = {"transfer": {"workers": 1, "part_bytes": 5 << 20}}
FAULTS = {
    "kill-before": sigkill(),
    "kill-after": sigkill(after=True),
    "stop-before": sigstop(),
    "stop-after": sigstop(after=True),
}


def act(run: Run, verb: str, path: Path, step: int) -> str:
    """Run the verb; returns what it made."""
    if verb == "save":
        return save(run, path, step=step).snapshot
    if verb == "restore":
        return restore(run, path).snapshot
    if verb == "gc":
        return " ".join(collect(run, LatestN(1), grace_s=step, dry_run=False).removed)
    if verb == "promote":
        return names.promote(run.catalog, names.find(run.catalog, str(step)), "best").snapshot
    found = verify(run)
    assert not found.bad
    return found.snapshot


def main() -> None:
    """Open the run, put the fault into it, act."""
    verb, url, path, step, *fault = sys.argv[1:]
    with open_run(url, resolve(OPTIONS), observer=lambda _: None) as run:
        assert isinstance(run.store, Retrying)
        faulty = run.store.inner = Faulty(run.store.inner)
        if fault:
            kind, store_verb, key, skip = fault
            faulty.inject(FAULTS[kind], verb=store_verb, key=key, skip=int(skip))
        try:
            made = act(run, verb, Path(path), int(step))
        except CkptsyncError as error:
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            sys.exit(error.exit_code)
    sys.stdout.write(json.dumps({"made": made, "calls": [(call.verb, call.key) for call in faulty.calls]}))


if __name__ == "__main__":
    main()
