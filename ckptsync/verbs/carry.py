"""Carry: a snapshot of one run becomes a snapshot of another, verified on the way."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from ckptsync.errors import ConflictError, IntegrityError, NotFoundError, UnsupportedError
from ckptsync.run import Run
from ckptsync.snapshot.digest import part_digest, part_span
from ckptsync.snapshot.manifest import DirectoryEntry, FileEntry, LinkEntry, Manifest
from ckptsync.store.base import Store, Tag
from ckptsync.tenure import Tenure
from ckptsync.transfer.source import Fill, Identity, SourceFile, SourceTree
from ckptsync.verbs.save import Saved, save


@dataclass(frozen=True, slots=True)
class CarriedFile(SourceFile):
    """A file of a committed snapshot, read from its store. Bytes that are not what was committed are never handed on as good.

    Attributes:
        store: has it.
        entry: what was committed.
        unproven: gets the path when a part was read that is not one of the manifest's: its digest proves nothing alone.
    """

    store: Store
    entry: FileEntry
    unproven: set[str]

    @classmethod
    def of(cls, store: Store, entry: FileEntry, unproven: set[str]) -> CarriedFile:
        """Make one of a manifest's entry."""
        identity = Identity(device=0, inode=0, size=entry.size, mtime_ns=entry.mtime_ns, ctime_ns=entry.mtime_ns)
        return cls(entry.path, Path(entry.key), identity, entry.mode, store, entry, unproven)

    @property
    def is_on_disk(self) -> bool:
        """As `SourceFile.is_on_disk`: nobody writes to what is committed, and helpers would not compare digests."""
        return False

    def read_hashed(self, view: memoryview, offset: int) -> str:
        """As `SourceFile.read_hashed`.

        Raises:
            IntegrityError: a part is not what was committed.
        """
        self._get(view, offset)
        digest = part_digest(view)
        number, rest = divmod(offset, self.entry.part_bytes or 1)
        if not view or rest or len(view) != part_span(number + 1, self.entry.size, self.entry.part_bytes)[1]:
            self.unproven.add(self.path)
        elif digest != self.entry.parts[number]:
            raise IntegrityError(f"part {number + 1} of {self.path} is not what was committed (key {self.entry.key!r})")
        return digest

    @contextmanager
    def opened(self) -> Iterator[Fill]:
        """As `SourceFile.opened`; there is nothing to open."""
        yield self._get

    def _get(self, view: memoryview, offset: int) -> None:
        """Read from the store.

        Raises:
            IntegrityError: the object is missing, shorter, or another one.
        """
        try:
            count = self.store.get(self.entry.key, view, offset=offset, tag=Tag(self.entry.tag) or None)
        except (NotFoundError, ConflictError) as error:
            raise IntegrityError(f"{self.path} is missing or was replaced (key {self.entry.key!r})") from error
        if count != len(view):
            raise IntegrityError(f"{self.path} is shorter than it was (key {self.entry.key!r})")


@dataclass(frozen=True, slots=True)
class CarriedTree(SourceTree):
    """What a committed snapshot holds.

    Attributes:
        unproven: paths of files of which a part was read that is not one of the manifest's.
    """

    unproven: set[str] = field(default_factory=set)

    def check_unchanged(self) -> None:
        """As `SourceTree.check_unchanged`: reads what is not proven yet once more, cut as it was committed.

        Raises:
            IntegrityError: it is not what was committed.
        """
        for file in self.files:
            if isinstance(file, CarriedFile) and file.path in self.unproven and not file.matches(file.entry):
                raise IntegrityError(f"{file.path} is not what was committed (key {file.entry.key!r})")


def tree_of(run: Run, manifest: Manifest) -> CarriedTree:
    """Return what a snapshot holds, to be saved elsewhere.

    Args:
        run: that has it.
        manifest: of the snapshot.

    Raises:
        UnsupportedError: a file of it is packed.
    """
    if packed := next((file.path for file in manifest.files if file.packing), None):
        raise UnsupportedError(
            f"{packed} of snapshot {manifest.snapshot} is compressed, and cannot be carried as it is"
        )
    unproven: set[str] = set()
    return CarriedTree(
        root=Path(manifest.snapshot),
        kind=manifest.kind,
        files=tuple(CarriedFile.of(run.store, entry, unproven) for entry in manifest.files),
        links=tuple(entry for entry in manifest.entries if isinstance(entry, LinkEntry)),
        directories=tuple(entry for entry in manifest.entries if isinstance(entry, DirectoryEntry)),
        scanned_ns=0,
        mode=manifest.mode,
        unproven=unproven,
    )


def carry(source: Run, manifest: Manifest, target: Run, *, tenure: Tenure | None = None) -> Saved:
    """Commit a snapshot of one run in another as well. Called again after a kill, it continues.

    The copy has metrics, free text, provenance and `commit_id` of the original, so that the two are known to be the same. Every
    part is hashed while it is read, and what is not as it was committed is not committed again.

    Args:
        source: where it is.
        manifest: of the snapshot; hold a lease on it where others delete.
        target: where to.
        tenure: our right to write the target; see `save`.

    Raises:
        IntegrityError: the original is damaged; nothing was committed.
        FencedError: a newer writer owns the target; nothing was committed.
        UnsupportedError: a file of the original is packed.
        StoreError: one of the stores failed for good; nothing was committed, and the next call continues.
    """
    metrics = {name: math.nan if value is None else value for name, value in manifest.metrics.items()}
    return save(
        target,
        tree_of(source, manifest),
        step=manifest.id.step,
        metrics=metrics,
        meta=manifest.meta,
        tenure=tenure,
        original=manifest,
        loop=manifest.cost.loop,
    )
