"""A check of the user's own on a snapshot that was just committed, and where its verdict is written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ckptsync import names
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.state.loading import all_states
from ckptsync.verbs.ladder import newest_good
from ckptsync.verbs.quarantine import quarantine

Check = Callable[[Mapping[str, Any]], bool | str | None]
VALIDATED = "validated"
"""The alias of the newest snapshot that passed."""


def validate(run: Run, snapshot: SnapshotId, check: Check) -> bool:
    """Fetch a snapshot from the bucket as a restore would, let a check look at it, and write down what it found.

    One that failed is quarantined for good, so that `latest`, `best:` and retention pass it over; one that passed gets the alias `validated`. A
    check that breaks down has no verdict: what it raised is raised here.

    Args:
        run: where.
        snapshot: committed.
        check: is given the items by name, as they were saved (state dictionaries, on the CPU). True and None mean that all is well,
            False or text that it is not; so does an AssertionError.

    Returns:
        Whether it passed.

    Raises:
        IntegrityError: it is damaged.
        CkptsyncError: it could not be fetched, or an item holds more than tensors and plain values; there is no verdict.
    """
    reached = newest_good(run, str(snapshot), fallback=False, use=all_states)
    try:
        found = check(reached.value)
    except AssertionError as error:
        found = str(error) or False
    if found is None or found is True:
        names.promote(run.catalog, snapshot, VALIDATED)
        return True
    reason = found if isinstance(found, str) and found else "the check said no"
    written = quarantine(run, snapshot, [("", 0, reason)], by_check=True)
    message = (
        f"snapshot {snapshot} failed its validation{' and is passed over from now on' if written else ''}: {reason}"
    )
    run.observer(Event(kind=Kind.NOTICE, path=str(snapshot), message=message))
    return False
