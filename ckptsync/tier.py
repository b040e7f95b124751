"""The local tier: the newest snapshots on this machine's disk, for a fast restart, and carried to the bucket behind.

It is a run of its own in a directory: same format, same commit, same verification. A note beside it says how far the bucket has come
(docs/decisions/0013-local-tier.md).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from ckptsync.errors import CkptsyncError, DiskError, IntegrityError, NoSnapshotError, NotFoundError
from ckptsync.events import Event, Kind
from ckptsync.policy import Candidate
from ckptsync.run import Run, open_run
from ckptsync.snapshot import layout
from ckptsync.snapshot.cost import Loop
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest
from ckptsync.tenure import Tenure
from ckptsync.transfer.source import SourceTree
from ckptsync.transfer.target import disk_errors, sync_folder
from ckptsync.verbs.carry import carry
from ckptsync.verbs.gc import collect
from ckptsync.verbs.ladder import Reached, newest_good
from ckptsync.verbs.quarantine import quarantine
from ckptsync.verbs.remove import remove
from ckptsync.verbs.save import Saved, save
from ckptsync.verbs.verify import verify

_GRACE_S = 600.0
"""What a killed save left is deleted after this."""
_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_T = TypeVar("_T")
_OURS: set[str] = set()
"""Folders that managers of this process have."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_OURS.clear)


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """How far the bucket had come when it was looked at last.

    Attributes:
        base: the newest good snapshot in the bucket; empty when there was none.
        after: snapshots here up to this one are in the bucket, or were overtaken by one that is; empty when none is.
    """

    base: str = ""
    after: str = ""


_notes = msgspec.json.Decoder(Note)


@dataclass(frozen=True, slots=True)
class Standing:
    """What a restart goes on with.

    Attributes:
        manifest: of the snapshot here.
        waits: it is not in the bucket yet.
    """

    manifest: Manifest
    waits: bool


@dataclass(frozen=True, slots=True)
class _Kept:
    """Keeps what is not durable, and some of the newest besides."""

    after: SnapshotId | None
    number: int

    def keeps(self, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
        """As `KeepPolicy.keeps`."""
        del now_s
        return {one.id for one in candidates if _is_behind(one.id, self.after)} | {
            one.id for one in candidates[: self.number]
        }


class LocalTier:
    """The snapshots of one run on this machine's disk. One process has them at a time; of its threads one keeps, and one carries."""

    def __init__(self, run: Run, bucket: Run, folder: Path, *, keep: int) -> None:
        """Touch nothing yet; `local_tier` opens one.

        Args:
            run: the run on the disk.
            bucket: the run it stands before.
            folder: has the run and the note.
            keep: so many of the newest snapshots stay when they are durable, 1 or more.
        """
        self.run = run
        self._bucket = bucket
        self._folder = folder
        self._keep = keep
        self._tenure = Tenure()
        self._bad: set[str] = set()
        self._lock, self._real = -1, ""
        self.has_begun = False

    # -- before anything else ----------------------------------------------------------------------------------------

    def begin(self) -> Standing | None:
        """Look at both sides, and note how far the bucket has come. Safe to call again.

        Returns:
            The newest good snapshot here, unless the bucket has a newer one, or has dropped it.

        Raises:
            DiskError: the note cannot be written, or another process, which is alive, has the folder.
            StoreError: the bucket, or the disk, failed for good.
        """
        self._take_hold()
        theirs = self._bucket.catalog.latest()
        base = theirs.snapshot if theirs else ""
        ours = self._good()
        note = self._note()
        after = layout.parse_snapshot_id(note.after) if note else None
        same = next((one for one in ours if theirs and one.commit_id == theirs.commit_id), None)
        standing: Standing | None = None
        if same is not None and (same == ours[0] or _is_behind(same.id, after)):
            note, standing = Note(base=base, after=same.snapshot), Standing(ours[0], ours[0] != same)
        elif note is not None and note.base == base and ours and _is_behind(ours[0].id, after):
            standing = Standing(ours[0], waits=True)
        else:  # the bucket has gone on without us, or back
            newest = next(self.run.catalog.listed(limit=1), None)
            note = Note(base=base, after=str(newest.id) if newest else "")
        self._write_note(note)
        self.has_begun = True
        return standing

    def _take_hold(self) -> None:
        """Make sure that no other process has the folder: it may be thought dead, and still write.

        The lock is the process's own: workers that it forks do not have it, and it ends with the process.

        Raises:
            DiskError: another one, or another manager of ours, has it; or the file system knows no locks.
        """
        if self._lock >= 0:
            return
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            place = str(self._folder.resolve())
            if place in _OURS:  # a process may take its own lock twice, and loses it when it closes either file
                raise DiskError(f"another manager of this process is at work in {self._folder}")
            lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError) as error:
                os.close(lock)
                raise DiskError(f"another process of this machine is at work in {self._folder}") from error
            except OSError:
                os.close(lock)
                raise
        self._lock, self._real = lock, place
        _OURS.add(place)

    def let_go(self) -> None:
        """Let another process have the folder. Safe to call again."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)
            _OURS.discard(self._real)

    def _good(self) -> list[Manifest]:
        """The good snapshots here, the newest first; those found bad are left out."""
        quarantined = self.run.catalog.quarantined()
        return [
            one for one in self.run.catalog.history() if one.id not in quarantined and one.snapshot not in self._bad
        ]

    def newest_good(self, use: Callable[[Run, Manifest], _T]) -> tuple[Manifest | None, Reached[_T] | None]:
        """Use the snapshot that a restart goes on with; the one before when it is bad, which is told.

        Args:
            use: as for `ladder.newest_good`.

        Returns:
            The snapshot, if it is not in the bucket yet, and where that ended; two times None when the bucket is the place to look.

        Raises:
            CkptsyncError: what `begin` or `use` raised.
        """
        while (standing := self.begin()) is not None:
            snapshot = standing.manifest.snapshot
            try:
                reached = newest_good(self.run, snapshot, fallback=False, use=use)
            except (IntegrityError, NoSnapshotError, NotFoundError) as error:
                self.condemn(standing.manifest, error)
            else:
                return (standing.manifest if standing.waits else None), reached
        return None, None

    def condemn(self, kept: Manifest, error: CkptsyncError) -> None:
        """Take no notice of a snapshot here any more; that it is bad is told."""
        self._bad.add(kept.snapshot)
        quarantine(self.run, kept.id, [("", 0, str(error))])
        message = f"the copy of step {kept.id.step} on this machine is bad: {error}"
        self.run.observer(Event(kind=Kind.FELL_BACK, path=kept.snapshot, message=message))

    # -- saving ------------------------------------------------------------------------------------------------------

    def keep(
        self,
        tree: SourceTree,
        *,
        step: int,
        metrics: Mapping[str, float],
        meta: Mapping[str, str],
        loop: Loop | UnsetType = UNSET,
    ) -> Manifest:
        """Commit a snapshot here, for `carry` to bring to the bucket.

        Raises:
            DiskError: there is no room for it, though all that is durable was deleted; nothing was written.
            CkptsyncError: as `save`.
        """
        self._make_room(tree)
        saved = save(self.run, tree, step=step, metrics=metrics, meta=meta, tenure=self._tenure, loop=loop)
        return self.run.catalog.get(_id(saved.snapshot))

    def _make_room(self, tree: SourceTree) -> None:
        """Delete durable snapshots, the oldest first, until there is room for another one: a large file is there twice for a moment."""
        needed = tree.size + max((file.size for file in tree.files), default=0)
        if self._free_bytes() >= needed:
            return
        note = self._note()
        after = layout.parse_snapshot_id(note.after) if note else None
        for durable in sorted(one.id for one in self.run.catalog.listed() if not _is_behind(one.id, after)):
            with suppress(CkptsyncError):  # somebody reads it, or has pinned it
                remove(self.run, str(durable))
            if self._free_bytes() >= needed:
                return
        raise DiskError(f"{needed} bytes are needed below {self._folder}, and {self._free_bytes()} are free")

    def _free_bytes(self) -> int:
        """How much room there is."""
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            return shutil.disk_usage(self._folder).free

    def carry(self, kept: Manifest, tenure: Tenure) -> Saved:
        """Bring a snapshot to the bucket; what is here and no longer needed is deleted then.

        Raises:
            IntegrityError: it is damaged here; it is passed over from now on.
            CkptsyncError: as `verbs.carry.carry`.
        """
        try:
            saved = carry(self.run, kept, self._bucket, tenure=tenure)
        except IntegrityError as error:
            if verify(self.run, kept.snapshot).bad:  # else it is the bucket's
                self.condemn(kept, error)
            raise
        try:
            self._write_note(Note(base=saved.snapshot, after=kept.snapshot))
            collect(self.run, _Kept(kept.id, self._keep), grace_s=_GRACE_S, dry_run=False)
        except CkptsyncError as error:
            message = f"{saved.snapshot} is saved, but older ones on this machine could not be deleted: {error}"
            self.run.observer(Event(kind=Kind.NOTICE, path=saved.snapshot, message=message))
        return saved

    # -- the note ----------------------------------------------------------------------------------------------------

    @property
    def _place(self) -> Path:
        """Where the note is."""
        return self._folder / "bucket.json"

    def _note(self) -> Note | None:
        """Read it; None where it is missing or torn, so that nothing is known."""
        try:
            return _notes.decode(self._place.read_bytes())
        except (OSError, msgspec.DecodeError, UnicodeDecodeError):
            return None

    def _write_note(self, note: Note) -> None:
        """Write it, whole and durable."""
        if self._note() == note:
            return
        half = self._place.with_suffix(f".{os.getpid()}")
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            with half.open("wb") as file:
                file.write(msgspec.json.encode(note, order="sorted"))
                file.flush()
                os.fsync(file.fileno())
            half.replace(self._place)
            sync_folder(self._folder)


def _is_behind(snapshot: SnapshotId, after: SnapshotId | None) -> bool:
    """Whether a snapshot came after another one; None is before all."""
    return after is None or snapshot > after


def _id(snapshot: str) -> SnapshotId:
    """The id of a committed snapshot."""
    found = layout.parse_snapshot_id(snapshot)
    if found is None:
        raise IntegrityError(f"{snapshot!r} is not a snapshot id")
    return found


@contextmanager
def local_tier(bucket: Run, directory: Path, *, keep: int) -> Iterator[LocalTier]:
    """Open the local tier of a run. Nothing is touched yet.

    Args:
        bucket: the run it stands before. Runs may share the directory: each has a folder of its own in it.
        directory: on a disk of this machine.
        keep: so many of the newest snapshots stay when they are durable, 1 or more.
    """
    name = _NAME.sub("-", bucket.url.rstrip("/").rpartition("/")[2])[:40]
    folder = directory.absolute() / f"{name}-{hashlib.blake2b(bucket.url.encode(), digest_size=8).hexdigest()}"
    transfer = msgspec.structs.replace(bucket.config.transfer, compress="none", max_bytes_per_s=None)
    config = msgspec.structs.replace(bucket.config, transfer=transfer)
    with open_run(folder / "run", config, observer=_quietly(bucket), clock=bucket.clock) as run:
        tier = LocalTier(run, bucket, folder, keep=keep)
        try:
            yield tier
        finally:
            tier.let_go()


def _quietly(bucket: Run) -> Callable[[Event], None]:
    """Tell of the disk only what a person should read: what is counted is the bucket's."""

    def tell(event: Event) -> None:
        if event.kind in {Kind.NOTICE, Kind.FELL_BACK, Kind.REFETCHED}:
            bucket.observer(event)

    return tell
