"""Who may write a run: epochs, each claimed once, by one process or by all ranks of a launch. A newer claim fences older ones."""

from __future__ import annotations

import secrets
from itertools import islice
from typing import Annotated

import msgspec
from msgspec import Meta

from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import ConfigError, ConflictError, FencedError, ManifestError, NotFoundError, UnsupportedError
from ckptsync.records import read_record, this_writer, timestamp
from ckptsync.snapshot import layout
from ckptsync.snapshot.envelope import UNREADABLE
from ckptsync.snapshot.manifest import Writer
from ckptsync.snapshot.signature import NO_KEYS, Keys
from ckptsync.store.base import Store

KEPT_CLAIMS = 10
"""So many of the newest claims stay in the bucket whatever their age."""
_MAX_CLAIM_BYTES = 64 << 10


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


class Claims:
    """The claims on one run. Holds no state but the store: two of them on one run agree at all times."""

    def __init__(
        self, store: Store, *, single_writer: bool = False, clock: Clock = SYSTEM, keys: Keys = NO_KEYS
    ) -> None:
        """Ask the store nothing yet.

        Args:
            store: the run's bucket.
            single_writer: the caller vouches that nobody else writes, so that a store without conditional puts will do.
            clock: replaced in tests.
            keys: what manifests will be signed with, and what must have signed those that are read.
        """
        self.store = store
        self.single_writer = single_writer
        self.clock = clock
        self.keys = keys

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

    def mean_tenure_s(self) -> float | None:
        """Return how long, in seconds, a writer of this run lasted on average until the next one claimed it, of the last few.

        None when there was one alone. One listing of a few keys.
        """
        recent = islice(self.store.list(layout.WRITERS, limit=KEPT_CLAIMS), KEPT_CLAIMS)
        times_s = [found.modified_s for found in recent if layout.epoch_of_writer_key(found.key) is not None]
        return max(0.0, times_s[0] - times_s[-1]) / (len(times_s) - 1) if len(times_s) > 1 else None

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
