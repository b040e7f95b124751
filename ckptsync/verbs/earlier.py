"""What an earlier, killed attempt at the same step left: on this machine's disk, or in the bucket alone."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from ckptsync.errors import ConflictError, NotFoundError
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.store.base import Stat, Upload
from ckptsync.transfer.journal import Journal
from ckptsync.transfer.workbench import Leftovers

_LOOK_BACK = 1000
"""So many records of recent attempts, one page, are looked at for one at the same step."""


def continue_earlier(run: Run, snapshot: SnapshotId, journal: Journal) -> Leftovers:
    """Decide which earlier attempts `snapshot` continues, tell gc, and find what they left in the bucket.

    The journal on disk wins for the files it knows. The bucket is asked all the same: the journal may be younger than an
    attempt that was lost with an earlier one. An attempt that gc has condemned is left alone: each side writes its marker
    before it looks for the other's.
    """
    if journal.attempts and journal.attempts[-1].step != snapshot.step:
        journal.forget()
    known = set(journal.attempts)
    adopted = [attempt for attempt in sorted(known | _uncommitted(run, snapshot)) if _adopt(run, attempt, snapshot)]
    if not known <= set(adopted):
        journal.forget()
    return _leftovers(run, adopted)


def _uncommitted(run: Run, snapshot: SnapshotId) -> set[SnapshotId]:
    """Recent attempts at the same step that were never committed."""
    found: set[SnapshotId] = set()
    for listed in islice(run.store.list(layout.JOURNALS, limit=_LOOK_BACK), _LOOK_BACK):
        known = layout.journal_of_key(listed.key)
        if known is None or known[1] is not None:
            continue
        attempt = known[0]
        if attempt.step == snapshot.step and attempt.epoch < snapshot.epoch and not run.catalog.exists(attempt):
            found.add(attempt)
    return found


def _adopt(run: Run, attempt: SnapshotId, by: SnapshotId) -> bool:
    """Mark an attempt as continued; False when gc was there first."""
    marker = layout.adoption_key(attempt, by)
    run.store.put(marker, b"")
    try:
        run.store.stat(layout.condemned_key(attempt))
    except NotFoundError:
        return True
    run.store.delete([marker])
    return False


def _leftovers(run: Run, attempts: Sequence[SnapshotId]) -> Leftovers:
    """Uploads and objects of some attempts by path; later attempts win."""
    uploads: dict[str, Upload] = {}
    objects: dict[str, Stat] = {}
    for attempt in attempts:
        prefix = layout.data_prefix(attempt)
        objects |= {found.key.removeprefix(prefix): found for found in run.store.list(prefix)}
        if run.store.traits.multipart:
            uploads |= {upload.key.removeprefix(prefix): upload for upload in run.store.uploads(prefix)}
    return Leftovers(uploads=uploads, objects=objects)


def check_still_there(run: Run, keys: Sequence[str]) -> None:
    """Make sure that objects of earlier attempts were not deleted while we worked.

    Raises:
        ConflictError: one is gone; saving again sends it anew.
    """
    for key in keys:
        try:
            run.store.stat(key)
        except NotFoundError as error:
            raise ConflictError(
                "an object of the earlier attempt was deleted meanwhile; save again", key=key
            ) from error
