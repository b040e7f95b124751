"""Quarantine: a snapshot that was found bad is passed over until a full check finds it good."""

from __future__ import annotations

from collections.abc import Sequence

from ckptsync.errors import CkptsyncError, ManifestError, NotFoundError
from ckptsync.events import Event, Kind
from ckptsync.records import read_record, this_writer, timestamp
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.quarantine import (
    MAX_BAD,
    MAX_QUARANTINE_BYTES,
    Quarantine,
    decode_quarantine,
    encode_quarantine,
)

_REASON_CHARACTERS = 500


def quarantine(run: Run, snapshot: SnapshotId, bad: Sequence[tuple[str, int, str]], *, by_check: bool = False) -> bool:
    """Set a snapshot aside. Safe to call again.

    Args:
        run: where.
        snapshot: committed; one that was deleted meanwhile is left out.
        bad: path, part and reason of all that is bad, at least one.
        by_check: a check of the owner's found it, not a reading of parts: that all parts are good does not lift it.

    Returns:
        Whether it is quarantined now; when the record could not be written, that is told.
    """
    path, part, reason = bad[0]
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    record = Quarantine(
        snapshot=str(snapshot),
        reason=f"{'validation' if by_check else path}{f' part {part}' if part else ''}: {_short(reason)}{more}",
        created=timestamp(run.clock),
        writer=this_writer(),
        bad=tuple((path, part, _short(reason)) for path, part, reason in bad[:MAX_BAD]),
        bad_count=len(bad),
        check="validation" if by_check else "content",
    )
    try:
        if not run.catalog.exists(snapshot):
            return False
        run.store.put(layout.quarantine_key(snapshot), encode_quarantine(record))
    except CkptsyncError as error:
        return _told(run, snapshot, f"{snapshot} is bad but could not be quarantined, so others may take it: {error}")
    return True


def release(run: Run, snapshot: SnapshotId) -> bool:
    """Trust a snapshot again whose parts were all found good, unless it failed a check of its owner's. Safe to call again.

    Returns:
        Whether it is quarantined still; when the record could not be deleted, that is told.
    """
    try:
        if run.catalog.is_quarantined(snapshot):
            if _failed_validation(run, snapshot):
                return True
            run.store.delete([layout.quarantine_key(snapshot)])
    except CkptsyncError as error:
        return not _told(run, snapshot, f"{snapshot} is good but its quarantine could not be lifted: {error}")
    return False


def _failed_validation(run: Run, snapshot: SnapshotId) -> bool:
    """Whether a snapshot is quarantined for something else than its parts."""
    try:
        found = decode_quarantine(
            read_record(run.store, layout.quarantine_key(snapshot), MAX_QUARANTINE_BYTES), snapshot
        )
    except (ManifestError, NotFoundError):
        return False
    return found.check == "validation"


def reason_of(run: Run, snapshot: SnapshotId) -> str:
    """Return why a quarantined snapshot is, in a sentence; a record that cannot be read counts all the same."""
    key = layout.quarantine_key(snapshot)
    try:
        if run.store.stat(key).size > MAX_QUARANTINE_BYTES:
            return "the quarantine record is too large to be read"
        found = decode_quarantine(run.store.read(key), snapshot)
    except ManifestError as error:
        return str(error)
    except NotFoundError:
        return "the quarantine was lifted meanwhile"
    return f"{found.reason} (found by {found.writer.host} at {found.created})"


def _short(reason: str) -> str:
    """A sentence that does not make the record large."""
    return reason if len(reason) <= _REASON_CHARACTERS else f"{reason[:_REASON_CHARACTERS]}…"


def _told(run: Run, snapshot: SnapshotId, message: str) -> bool:
    """Tell a person; always False."""
    run.observer(Event(kind=Kind.NOTICE, path=str(snapshot), message=message))
    return False
