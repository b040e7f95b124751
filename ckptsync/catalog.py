"""Which snapshots exist.

A snapshot exists from the moment its manifest was created, and stops to exist when its manifest is deleted. Only two kinds
of put are conditional, both "create if absent": a claim on an epoch, and a manifest. Neither is ever overwritten.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from ckptsync.claims import Claims
from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import ConflictError, FencedError, ManifestError, NoSnapshotError, NotFoundError, VersionError
from ckptsync.records import read_record
from ckptsync.snapshot import layout
from ckptsync.snapshot.envelope import MAX_MANIFEST_BYTES
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest, decode, encode
from ckptsync.snapshot.signature import NO_KEYS, Keys
from ckptsync.store.base import Stat, Store

_LARGE_BYTES = 16 << 20
"""Manifests larger than this are read one at a time, however many threads ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A manifest as the listing shows it, not yet read.

    Attributes:
        id: from its key.
        stat: size, tag and time of the object.
    """

    id: SnapshotId
    stat: Stat


class Catalog:
    """The snapshots of one run. Holds no state but the store: two catalogs on one run agree at all times."""

    def __init__(
        self, store: Store, *, single_writer: bool = False, clock: Clock = SYSTEM, keys: Keys = NO_KEYS
    ) -> None:
        """Open the catalog of the run that `store` was opened on; asks the store nothing yet.

        Args:
            store: the run's bucket.
            single_writer: the caller vouches that nobody else writes, so that a store without conditional puts will do.
            clock: replaced in tests.
            keys: what manifests are signed with, and what must have signed those that are read.
        """
        self.store = store
        self.keys = keys
        self.clock = clock
        self.claims = Claims(store, single_writer=single_writer, clock=clock, keys=keys)
        self._one_large = threading.Lock()

    # -- writing -----------------------------------------------------------------------------------------------------

    def commit(self, manifest: Manifest) -> bool:
        """Make a snapshot exist, by one conditional put. Safe to call again with the same manifest.

        Returns:
            Whether this call made it exist; False when it did already.

        Raises:
            ConfigError: it could not be read back: `Keys.check_can_commit`.
            FencedError: a newer writer owns the run, or another manifest stands under the key; nothing was committed.
            StoreError: unknown whether it was committed; calling again settles it.
        """
        self.keys.check_can_commit()
        self.claims.check_not_fenced(manifest.id.epoch)
        key, data = layout.manifest_key(manifest.id), encode(manifest, self.keys.signer)
        if not self.store.traits.conditional_put:
            self.store.put(key, data)
            return True
        try:
            self.store.put(key, data, if_absent=True)
        except ConflictError as error:
            try:
                ours = self._read(key, manifest.id).commit_id == manifest.commit_id
            except ManifestError:
                ours = False
            if not ours:
                raise FencedError(f"another writer committed under the key of {manifest.snapshot}") from error
            return False
        return True

    # -- reading -----------------------------------------------------------------------------------------------------

    def listed(self, *, limit: int | None = None) -> Iterator[Listed]:
        """Yield committed snapshots, the newest first, without reading them.

        Args:
            limit: how many; the store is asked for no more than that and a few.
        """
        count = 0
        for found in self.store.list(layout.MANIFESTS, limit=limit):
            if (snapshot := layout.snapshot_of_manifest_key(found.key)) is not None:
                yield Listed(id=snapshot, stat=found)
                count += 1
        if limit is not None and not count:  # foreign objects may stand before the first manifest
            yield from (listed for listed, _ in zip(self.listed(), range(limit), strict=False))

    def load(self, listed: Listed) -> Manifest:
        """Read one manifest in one request, and once more when it came damaged.

        Raises:
            ManifestError: damaged, of another version, or unsafe.
            NotFoundError: deleted since it was listed.
        """
        size = listed.stat.size
        if size > MAX_MANIFEST_BYTES:
            raise ManifestError(f"manifest of {listed.id} has {size} bytes, more than {MAX_MANIFEST_BYTES}")

        def read() -> bytes:
            content = bytearray(size)
            count = self.store.get(listed.stat.key, memoryview(content), tag=listed.stat.tag or None)
            return bytes(memoryview(content)[:count])

        with self._one_large if size > _LARGE_BYTES else nullcontext():
            return self._decoded(read, listed.id)

    def get(self, snapshot: SnapshotId) -> Manifest:
        """Read the manifest of one snapshot.

        Raises:
            NoSnapshotError: it is not committed.
            ManifestError: damaged, of another version, or unsafe.
        """
        try:
            return self._read(layout.manifest_key(snapshot), snapshot)
        except NotFoundError as error:
            raise NoSnapshotError(f"snapshot {snapshot} is not committed in {self.store.url}") from error

    def _read(self, key: str, snapshot: SnapshotId) -> Manifest:
        """Read and decode."""
        return self._decoded(lambda: read_record(self.store, key, MAX_MANIFEST_BYTES), snapshot)

    def _decoded(self, read: Callable[[], bytes], snapshot: SnapshotId) -> Manifest:
        """Read and decode, once more when a bit may have flipped on the way; say whose manifest is bad."""
        with suppress(ManifestError):
            return decode(read(), snapshot, required=self.keys.required)
        try:
            return decode(read(), snapshot, required=self.keys.required)
        except ManifestError as error:
            raise type(error)(f"snapshot {snapshot} in {self.store.url} cannot be used: {error}") from error

    def exists(self, snapshot: SnapshotId) -> bool:
        """Tell whether a snapshot is committed."""
        try:
            self.store.stat(layout.manifest_key(snapshot))
        except NotFoundError:
            return False
        return True

    def quarantined(self) -> frozenset[SnapshotId]:
        """Return the snapshots that were found bad, of which some may be gone. One listing, mostly of nothing."""
        keys = (found.key for found in self.store.list(layout.QUARANTINE))
        return frozenset(one for key in keys if (one := layout.snapshot_of_quarantine_key(key)) is not None)

    def is_quarantined(self, snapshot: SnapshotId) -> bool:
        """Tell whether a snapshot was found bad."""
        try:
            self.store.stat(layout.quarantine_key(snapshot))
        except NotFoundError:
            return False
        return True

    def newest(self) -> tuple[Listed, Manifest] | None:
        """Return the newest snapshot that is not damaged and not quarantined; None when there is none.

        Two listings and one get, in a run whose newest snapshot is good.

        Raises:
            VersionError: a newer ckptsync wrote it; an older snapshot is not what was asked for.
        """
        quarantined: frozenset[SnapshotId] | None = None
        for limit in (1, None):
            for listed in self.listed(limit=limit):
                if quarantined is None:
                    quarantined = self.quarantined()
                if listed.id in quarantined:
                    continue
                try:
                    return listed, self.load(listed)
                except VersionError:
                    raise
                except (ManifestError, NotFoundError):
                    continue
        return None

    def latest(self) -> Manifest | None:
        """Return the manifest of `newest`; None when there is none.

        Raises:
            VersionError: a newer ckptsync wrote it.
        """
        found = self.newest()
        return found[1] if found else None

    def newest_readable(self) -> Manifest | None:
        """As `latest`, but passing over what a newer ckptsync wrote: good enough to copy unchanged parts from."""
        try:
            return self.latest()
        except VersionError:
            return next(self.history(), None)

    def history(self) -> Iterator[Manifest]:
        """Yield every readable manifest, the newest first; damaged ones are left out."""
        for listed in self.listed():
            try:
                yield self.load(listed)
            except (ManifestError, NotFoundError):
                continue
