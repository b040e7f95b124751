"""Which snapshots exist, and who may add to them.

A snapshot exists from the moment its manifest was created, and stops to exist when its manifest is deleted. Only two kinds
of put are conditional, both "create if absent": a claim on an epoch, and a manifest. Neither is ever overwritten.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import (
    ConflictError,
    FencedError,
    ManifestError,
    NoSnapshotError,
    NotFoundError,
    UnsupportedError,
    VersionError,
)
from ckptsync.snapshot import layout
from ckptsync.snapshot.envelope import MAX_MANIFEST_BYTES
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest, Writer, decode, encode
from ckptsync.store.base import Stat, Store

KEPT_CLAIMS = 10
"""So many of the newest claims stay in the bucket whatever their age: a launch finds its own among them, and is fenced."""


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """The right to write a run, until somebody claims a later epoch.

    Attributes:
        epoch: 1 or more.
        nonce: random; tells our own claim from another's when an answer was lost.
        writer: who claimed.
        created: RFC 3339, UTC.
        launch: names the start of a job whose ranks share the claim; empty when it belongs to one process.
    """

    epoch: int
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


class Catalog:
    """The snapshots of one run. Holds no state but the store: two catalogs on one run agree at all times."""

    def __init__(self, store: Store, *, single_writer: bool = False, clock: Clock = SYSTEM) -> None:
        """Open the catalog of the run that `store` was opened on; asks the store nothing yet.

        Args:
            store: the run's bucket.
            single_writer: the caller vouches that nobody else writes, so that a store without conditional puts will do.
            clock: replaced in tests.
        """
        self.store = store
        self.single_writer = single_writer
        self.clock = clock

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
            UnsupportedError: the store cannot, or silently does not, create conditionally, and `single_writer` is not set.
        """
        if not self.store.traits.conditional_put and not self.single_writer:
            raise UnsupportedError(
                f"{self.store.url} cannot create an object only if it is absent, so two writers could overwrite each "
                "other; set single_writer (--single-writer) if there is only one",
                op="put",
            )
        epoch = self.newest_epoch() + 1
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
            UnsupportedError: the store cannot create conditionally.
        """
        if not self.store.traits.conditional_put:
            raise UnsupportedError(
                f"{self.store.url} cannot create an object only if it is absent, so ranks cannot commit together on it",
                op="put",
            )
        epoch = self.newest_epoch()
        newest = self.writer(epoch) if epoch else None
        if newest is not None and newest.launch == launch:
            return newest
        if any(earlier is not None and earlier.launch == launch for earlier in self._earlier_claims(epoch)):
            self.check_not_fenced(epoch - 1)
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

    def _earlier_claims(self, epoch: int) -> Iterator[Claim | None]:
        """Yield the claims before one, the newest first, as far as gc is sure to have left them."""
        for earlier in range(epoch - 1, max(0, epoch - KEPT_CLAIMS), -1):
            yield self.writer(earlier)

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
            return _claims.decode(self.store.read(layout.writer_key(epoch)))
        except (NotFoundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
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

    def commit(self, manifest: Manifest) -> None:
        """Make a snapshot exist, by one conditional put. Safe to call again with the same manifest.

        Raises:
            FencedError: a newer writer owns the run, or another manifest stands under the key; nothing was committed.
            StoreError: unknown whether it was committed; calling again settles it.
        """
        self.check_not_fenced(manifest.id.epoch)
        key, data = layout.manifest_key(manifest.id), encode(manifest)
        if not self.store.traits.conditional_put:
            self.store.put(key, data)
            return
        try:
            self.store.put(key, data, if_absent=True)
        except ConflictError as error:
            try:
                ours = decode(self.store.read(key)).commit_id == manifest.commit_id
            except ManifestError:
                ours = False
            if not ours:
                raise FencedError(f"another writer committed under the key of {manifest.snapshot}") from error

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
        """Read one manifest in one request.

        Raises:
            ManifestError: damaged, of another version, or unsafe.
            NotFoundError: deleted since it was listed.
        """
        size = listed.stat.size
        if size > MAX_MANIFEST_BYTES:
            raise ManifestError(f"manifest of {listed.id} has {size} bytes, more than {MAX_MANIFEST_BYTES}")
        content = bytearray(size)
        count = self.store.get(listed.stat.key, memoryview(content), tag=listed.stat.tag or None)
        return self._decoded(bytes(content[:count]), listed.id)

    def get(self, snapshot: SnapshotId) -> Manifest:
        """Read the manifest of one snapshot.

        Raises:
            NoSnapshotError: it is not committed.
            ManifestError: damaged, of another version, or unsafe.
        """
        try:
            return self._decoded(self.store.read(layout.manifest_key(snapshot)), snapshot)
        except NotFoundError as error:
            raise NoSnapshotError(f"snapshot {snapshot} is not committed in {self.store.url}") from error

    def _decoded(self, data: bytes, snapshot: SnapshotId) -> Manifest:
        """Decode, and say whose manifest is bad."""
        try:
            return decode(data, snapshot)
        except ManifestError as error:
            raise type(error)(f"snapshot {snapshot} in {self.store.url} cannot be used: {error}") from error

    def exists(self, snapshot: SnapshotId) -> bool:
        """Tell whether a snapshot is committed."""
        try:
            self.store.stat(layout.manifest_key(snapshot))
        except NotFoundError:
            return False
        return True

    def latest(self) -> Manifest | None:
        """Return the newest snapshot whose manifest is not damaged; None when there is none. One listing and one get.

        Raises:
            VersionError: a newer ckptsync wrote it; an older snapshot is not what was asked for.
        """
        for limit in (1, None):
            for listed in self.listed(limit=limit):
                try:
                    return self.load(listed)
                except VersionError:
                    raise
                except (ManifestError, NotFoundError):
                    continue
        return None

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
