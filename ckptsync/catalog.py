"""Which snapshots exist, and who may add to them.

A snapshot exists from the moment its manifest was created, and stops to exist when its manifest is deleted. Only two kinds
of put are conditional, both "create if absent": a claim on an epoch, and a manifest. Neither is ever overwritten.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated

import msgspec
from msgspec import Meta

from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import (
    ConfigError,
    ConflictError,
    FencedError,
    ManifestError,
    NoSnapshotError,
    NotFoundError,
    UnsupportedError,
    VersionError,
)
from ckptsync.snapshot import layout
from ckptsync.snapshot.envelope import MAX_MANIFEST_BYTES, UNREADABLE
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest, Writer, decode, encode
from ckptsync.snapshot.signature import NO_KEYS, Keys
from ckptsync.store.base import Stat, Store

KEPT_CLAIMS = 10
"""So many of the newest claims stay in the bucket whatever their age."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The right to write a run, until somebody claims a later epoch.

    Attributes:
        epoch: 1 or more.
        nonce: random; tells our own claim from another's when an answer was lost.
        writer: who claimed.
        created: RFC 3339, UTC.
        launch: names the start of a job whose ranks share the claim; empty when it belongs to one process.
    """

    epoch: Annotated[int, Meta(ge=1, le=layout.MAX_EPOCH)]
    nonce: str
    writer: Writer
    created: str
    launch: str = ""


_claims = msgspec.json.Decoder(Claim)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A manifest as the listing shows it, not yet read.

    Attributes:
        id: from its key.
        stat: size, tag and time of the object.
    """

    id: SnapshotId
    stat: Stat


def this_writer() -> Writer:
    """Who we are."""
    return Writer(host=socket.gethostname(), pid=os.getpid())


def timestamp(clock: Clock) -> str:
    """Now, as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(clock.now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_HEAD_BYTES = 256 << 10
_MAX_CLAIM_BYTES = 64 << 10
_LARGE_BYTES = 16 << 20
"""Manifests larger than this are read one at a time, however many threads ask."""


def read_record(store: Store, key: str, limit_bytes: int) -> bytes:
    """Return one of the run's records, at one version, without taking memory for one that is too large.

    One request when it is small, as nearly all are.

    Raises:
        NotFoundError: no such object.
        ManifestError: it is larger than `limit_bytes`.
    """
    head = bytearray(min(limit_bytes, _HEAD_BYTES) + 1)
    if (count := store.get(key, memoryview(head))) < len(head):
        return bytes(memoryview(head)[:count])
    found = store.stat(key)
    if found.size > limit_bytes:
        raise ManifestError(f"{key} has {found.size} bytes, more than {limit_bytes}")
    content = bytearray(found.size)
    count = store.get(key, memoryview(content), tag=found.tag or None)
    return bytes(memoryview(content)[:count])


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
        self.single_writer = single_writer
        self.clock = clock
        self.keys = keys
        self._one_large = threading.Lock()

    # -- writing -----------------------------------------------------------------------------------------------------

    def newest_epoch(self) -> int:
        """Return the newest epoch anybody claimed; 0 when nobody did. One listing of one key."""
        for found in self.store.list(layout.WRITERS, limit=1):
            if (epoch := layout.epoch_of_writer_key(found.key)) is not None:
                return epoch
        return next(
            (
                epoch
                for found in self.store.list(layout.WRITERS)
                if (epoch := layout.epoch_of_writer_key(found.key)) is not None
            ),
            0,
        )

    def claim(self) -> Claim:
        """Take the next epoch: every earlier writer is fenced from now on. Each call takes another one.

        The first claim of a run also proves that the store refuses a second creation of the same key.

        Raises:
            ConfigError: what this process commits it could not read back (`Keys.check_can_commit`), or the last epoch is
                taken.
            UnsupportedError: the store cannot, or silently does not, create conditionally, and `single_writer` is not set.
        """
        self.keys.check_can_commit()
        if not self.store.traits.conditional_put and not self.single_writer:
            raise UnsupportedError(
                f"{self.store.url} cannot create an object only if it is absent, so two writers could overwrite each "
                "other; set single_writer (--single-writer) if there is only one",
                op="put",
            )
        if (epoch := self.newest_epoch() + 1) > layout.MAX_EPOCH:
            raise ConfigError(f"{self.store.url} has no epochs left to claim; write to another run")
        while not self.single_writer or self.store.traits.conditional_put:
            claim = self._new_claim(epoch)
            if self._create(layout.writer_key(epoch), claim):
                if epoch == 1:
                    self._prove_conditional_put(claim)
                return claim
            epoch += 1
        claim = self._new_claim(epoch)
        self.store.put(layout.writer_key(epoch), msgspec.json.encode(claim, order="sorted"))
        return claim

    def claim_next(self, epoch: int) -> Claim:
        """Take the epoch behind our own, as long as nobody else did: a writer that was overtaken stays so.

        Args:
            epoch: the one we hold.

        Raises:
            FencedError: a newer writer owns the run.
        """
        self.check_not_fenced(epoch)
        claim = self._new_claim(epoch + 1)
        if not self.store.traits.conditional_put:
            self.store.put(layout.writer_key(claim.epoch), msgspec.json.encode(claim, order="sorted"))
        elif not self._create(layout.writer_key(claim.epoch), claim):
            self.check_not_fenced(epoch)
            raise FencedError(f"{self.store.url} was claimed by another writer just now")
        return claim

    def join(self, launch: str) -> Claim:
        """Take part in the claim that all ranks of a launch share; the first of them makes it. Safe to call again.

        Args:
            launch: names one start of a job, the same for all of its ranks and for no other start.

        Raises:
            FencedError: a newer launch or writer owns the run.
            ConfigError: what we commit could not be read back, for want of a signature.
            UnsupportedError: the store cannot create conditionally.
        """
        if not self.store.traits.conditional_put:
            raise UnsupportedError(
                f"{self.store.url} cannot create an object only if it is absent, so ranks cannot commit together on it",
                op="put",
            )
        self.keys.check_can_commit()
        epoch = self.newest_epoch()
        newest = self.writer(epoch) if epoch else None
        if newest is None or newest.launch != launch:
            if self._was_launched(launch):
                self.check_not_fenced(epoch - 1)
            self._check_not_claimed(launch)
            newest = self._launch(launch, epoch)
        if not self._was_launched(launch):  # else its ranks could not tell, later, that a newer one overtook them
            self.store.put(layout.launch_key(launch), b"")
        return newest

    def _check_not_claimed(self, launch: str) -> None:
        """Make sure that no rank of a launch claimed the run and died before it could put that down.

        Raises:
            FencedError: one has, and a newer launch or writer came since.
        """
        recent = islice(self.store.list(layout.WRITERS, limit=KEPT_CLAIMS), KEPT_CLAIMS)
        for epoch in filter(None, (layout.epoch_of_writer_key(found.key) for found in recent)):
            claim = self.writer(epoch)
            if claim is not None and claim.launch == launch:
                self.check_not_fenced(epoch)

    def _launch(self, launch: str, epoch: int) -> Claim:
        """Claim an epoch behind `epoch` for a launch, or take part in the claim of another of its ranks."""
        while True:
            epoch += 1
            claim = self._new_claim(epoch, launch)
            if self._create(layout.writer_key(epoch), claim):
                if epoch == 1:
                    self._prove_conditional_put(claim)
                return claim
            winner = self.writer(epoch)
            if winner is not None and winner.launch == launch:
                return winner

    def _was_launched(self, launch: str) -> bool:
        """Whether a launch has claimed the run before."""
        try:
            self.store.stat(layout.launch_key(launch))
        except NotFoundError:
            return False
        return True

    def _new_claim(self, epoch: int, launch: str = "") -> Claim:
        """Fill in a claim."""
        return Claim(
            epoch=epoch,
            nonce=secrets.token_hex(16),
            writer=this_writer(),
            created=timestamp(self.clock),
            launch=launch,
        )

    def _create(self, key: str, claim: Claim) -> bool:
        """Create a claim; False when somebody else has the key. A lost answer is settled by reading back."""
        try:
            self.store.put(key, msgspec.json.encode(claim, order="sorted"), if_absent=True)
        except ConflictError:
            return self.writer(claim.epoch) == claim
        return True

    def _prove_conditional_put(self, claim: Claim) -> None:
        """Create the same key again: a store that lets us ignores conditions."""
        if self.single_writer:
            return
        if pause_s := self.store.traits.rewrite_pause_s:
            self.clock.sleep(pause_s)  # too early, and the service refuses for that instead
        try:
            self.store.put(layout.writer_key(claim.epoch), msgspec.json.encode(claim, order="sorted"), if_absent=True)
        except ConflictError:
            return
        self.store.delete([layout.writer_key(claim.epoch)])  # else the next claim is not the first, and proves nothing
        raise UnsupportedError(
            f"{self.store.url} ignores the condition on conditional puts, so two writers could overwrite each other; "
            "set single_writer (--single-writer) if there is only one",
            op="put",
        )

    def writer(self, epoch: int) -> Claim | None:
        """Return who claimed an epoch; None when nobody did or the record is damaged."""
        try:
            return _claims.decode(read_record(self.store, layout.writer_key(epoch), _MAX_CLAIM_BYTES))
        except (NotFoundError, ManifestError, *UNREADABLE):
            return None

    def check_not_fenced(self, epoch: int) -> None:
        """Make sure that no newer writer has claimed the run. One listing of one key.

        Raises:
            FencedError: one has; names its host.
        """
        newest = self.newest_epoch()
        if newest > epoch:
            owner = self.writer(newest)
            who = f"{owner.writer.host} (pid {owner.writer.pid}) since {owner.created}" if owner else "another writer"
            raise FencedError(f"{self.store.url} now belongs to {who}: epoch {newest} is newer than ours, {epoch}")

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
        self.check_not_fenced(manifest.id.epoch)
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
