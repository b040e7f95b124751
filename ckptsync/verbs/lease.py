"""Leases: whoever reads a snapshot for long says so in the bucket, and is spared by gc and rm for as long as the lease lives.

A reader puts its lease, then reads the manifest. Who deletes looks for leases, deletes the manifest, and looks once more before
it deletes data. So either the reader finds no manifest, or its lease is seen and the data stays until it has read it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace

from ckptsync.errors import CkptsyncError, DeniedError, NotFoundError, UnsupportedError
from ckptsync.events import Event, Kind, fan_out
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.store.base import Stat, Store

LIFE_S = 3600.0
"""A lease lives so long from its put, by the store's clock; a part of the format."""
_RENEW_S = LIFE_S / 3
_PROBES = 5
"""How often the time is asked for while other gcs are at work."""
_DEADLINE_S = 15.0
"""A lease is a courtesy: no restore waits longer for one."""
_PAUSE_S = 5.0
"""After a put that failed, the next is tried no sooner."""


class Leases:
    """The leases of one reader, who reads one snapshot after the other."""

    def __init__(self, run: Run) -> None:
        """Put nothing yet."""
        self.run = run
        self.store = run.store.within(_DEADLINE_S)
        self._may_write = True
        self._told = False

    @contextmanager
    def on(self, snapshot: SnapshotId) -> Iterator[Run]:
        """Hold a lease on a snapshot while the block runs. Read the manifest inside the block: only then does it protect.

        A reader who may not write goes on without, and is told once. A process that is killed or interrupted leaves its
        lease behind, which then dies of age. Two requests, and one more for every 20 minutes.

        Args:
            snapshot: what will be read.

        Yields:
            The run, whose events (parts that arrive) renew the lease.
        """
        lease = _Lease(self, snapshot)
        lease.put()
        try:
            yield replace(self.run, observer=fan_out(self.run.observer, lease.renew))
        except Exception:
            lease.drop()
            raise
        lease.drop()

    def put(self, key: str) -> bool:
        """Write a lease; False when that failed, which is told the first time."""
        if not self._may_write:
            return False
        try:
            self.store.put(key, b"")
        except CkptsyncError as error:
            self._may_write = not isinstance(error, DeniedError | UnsupportedError)
            if not self._told:
                self._told = True
                message = f"no lease could be put, so gc may delete what is being read: {error}"
                self.run.observer(Event(kind=Kind.NOTICE, path=key, message=message))
            return False
        return True


class _Lease:
    """One lease, renewed by events on any thread: each time by another object, for to replace one is a right of its own.

    Source: https://cloud.google.com/storage/docs/access-control/iam-permissions (overwriting needs storage.objects.delete)
    """

    def __init__(self, leases: Leases, snapshot: SnapshotId) -> None:
        self.leases = leases
        self.snapshot = snapshot
        self.keys: list[str] = []
        self.due_s = 0.0
        self.lock = threading.Lock()

    def put(self) -> None:
        """Put it, and say when to put it again."""
        key = layout.new_lease_key(self.snapshot)
        done = self.leases.put(key)
        self.keys.append(key)  # also when it failed: the answer alone may have been lost
        self.due_s = self.leases.run.clock.monotonic() + (_RENEW_S if done else _PAUSE_S)

    def renew(self, event: Event) -> None:
        """Put it again when a third of its life is over; one thread does, the others go on."""
        del event
        if self._now_s() < self.due_s or not self.lock.acquire(blocking=False):
            return
        try:
            if self._now_s() >= self.due_s:
                self.put()
        finally:
            self.lock.release()

    def drop(self) -> None:
        """Delete it; what stays for want of a right, or of a connection, dies of age.

        At once: a service that finds this too soon after the put says so, and then it is tried again.
        """
        with suppress(CkptsyncError):
            self.leases.store.delete(self.keys)

    def _now_s(self) -> float:
        """Seconds that never run backwards."""
        return self.leases.run.clock.monotonic()


def held_until_s(store: Store, prefix: str = layout.LEASES) -> dict[SnapshotId, float]:
    """Return when the last lease of every snapshot that has any ends, by the store's clock. One listing.

    Args:
        store: the run's bucket.
        prefix: narrows it to one snapshot.
    """
    ends: dict[SnapshotId, float] = {}
    for snapshot, stat in _listed(store, prefix):
        ends[snapshot] = max(ends.get(snapshot, 0.0), stat.modified_s + LIFE_S)
    return ends


def leased(store: Store, now_s: float) -> frozenset[SnapshotId]:
    """Return the snapshots somebody is reading.

    Args:
        store: the run's bucket.
        now_s: the store's time.
    """
    return frozenset(snapshot for snapshot, end_s in held_until_s(store).items() if end_s >= now_s)


def dead(store: Store, now_s: float) -> list[Stat]:
    """Return the leases of readers that are gone.

    Args:
        store: the run's bucket.
        now_s: the store's time.
    """
    return [stat for _, stat in _listed(store, layout.LEASES) if stat.modified_s + LIFE_S < now_s]


def _listed(store: Store, prefix: str) -> Iterator[tuple[SnapshotId, Stat]]:
    """Leases, and what they are on."""
    for stat in store.list(prefix):
        if (snapshot := layout.snapshot_of_lease_key(stat.key)) is not None:
            yield snapshot, stat


def store_time_s(run: Run, epoch: int) -> float:
    """Return the store's own time, in seconds since the Unix epoch: that of an object put now. Three requests.

    The object is the condemnation of an attempt that never was, so that gc deletes one that a kill left behind.

    Args:
        run: where.
        epoch: of that attempt; the newest claimed, or any older.
    """
    for _ in range(_PROBES - 1):
        with suppress(NotFoundError):  # another gc took the object for what a kill left behind
            return _probe_s(run, epoch)
    return _probe_s(run, epoch)


def _probe_s(run: Run, epoch: int) -> float:
    """When an object put now was put, by the store's clock."""
    key = layout.condemned_key(layout.new_snapshot_id(max(1, epoch), 0))
    try:
        run.store.put(key, b"")
        now_s = run.store.stat(key).modified_s
        run.rest()
        return now_s
    finally:
        run.store.delete([key])
