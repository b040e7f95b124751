"""A check of the user's own on a snapshot that was just committed, and where its verdict is written down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ckptsync import names
from ckptsync.errors import CkptsyncError, ConfigError
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.state.loading import all_states
from ckptsync.verbs.ladder import newest_good
from ckptsync.verbs.quarantine import quarantine

Check = Callable[[Mapping[str, Any]], Any]
VALIDATED = "validated"
"""The alias of the newest snapshot that passed."""


def validate(run: Run, snapshot: SnapshotId, check: Check) -> bool:
    """Fetch a snapshot from the bucket as a restore would, let a check look at it, and write down what it found.

    One that failed is quarantined for good, so that `latest`, `best:` and retention pass it over; one that passed gets the alias `validated`.
    Without a verdict nothing is written down.

    Args:
        run: where.
        snapshot: committed.
        check: is given the items by name, as they were saved (state dictionaries, on the CPU). None means that all is well, text
            that it is not; so does an AssertionError. Anything else it returns is taken for true or false, as `if` takes it.

    Returns:
        Whether it passed.

    Raises:
        IntegrityError: it is damaged.
        ConfigError: an item holds more than tensors and plain values, or what the check returned is neither true nor false, as several
            numbers are; there is no verdict.
        CkptsyncError: it could not be fetched, or the check broke down: what it raised is the cause. There is no verdict.
    """
    reached = newest_good(run, str(snapshot), fallback=False, use=all_states)
    if (reason := _reason(check, reached.value, snapshot)) is None:
        names.promote(run.catalog, snapshot, VALIDATED)
        return True
    written = quarantine(run, snapshot, [("", 0, reason)], by_check=True)
    message = (
        f"snapshot {snapshot} failed its validation{' and is passed over from now on' if written else ''}: {reason}"
    )
    run.observer(Event(kind=Kind.NOTICE, path=str(snapshot), message=message))
    return False


def _reason(check: Check, states: Mapping[str, Any], snapshot: SnapshotId) -> str | None:
    """Let a check look at states; why it says no, None when it says yes."""
    try:
        found = check(states)
    except AssertionError as error:
        found = str(error)
    except CkptsyncError:
        raise
    except Exception as error:  # the user's code
        raise CkptsyncError(
            f"the check of snapshot {snapshot} broke down, and there is no verdict: {type(error).__name__}: {error}"
        ) from error
    if isinstance(found, str):
        return found or "the check said no"
    try:
        passed = found is None or bool(found)
    except Exception as error:  # of tensors and arrays, for one
        raise ConfigError(
            f"the check of snapshot {snapshot} returned a {type(found).__name__} that is neither true nor false, and there is no verdict: "
            "return one value, as with .all()"
        ) from error
    return None if passed else "the check said no"
