"""What every save does before it may commit: look at the source, send it, and make sure that it is still the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec import UNSET, UnsetType

from ckptsync.errors import ConfigError, DiskError, ManifestError, SourceChangedError
from ckptsync.events import Event, Kind
from ckptsync.records import this_writer, timestamp
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.attempt import Attempt, encode_attempt
from ckptsync.snapshot.cost import Loop
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import (
    Entry,
    FileEntry,
    Manifest,
    Provenance,
    checked_meta,
    checked_metrics,
    decode,
    encode,
)
from ckptsync.transfer.budget import Buffers
from ckptsync.transfer.journal import Journal
from ckptsync.transfer.packing import need_zstandard, room_bytes
from ckptsync.transfer.source import SourceTree, scan
from ckptsync.transfer.upload import upload_files
from ckptsync.transfer.workbench import Bench, Leftovers, Tally, choose_part_bytes
from ckptsync.verbs.compare import same_content
from ckptsync.verbs.provenance import provenance


@dataclass(frozen=True, slots=True)
class Description:
    """What a manifest says besides its entries."""

    metrics: dict[str, float | None]
    meta: dict[str, str]
    provenance: Provenance
    loop: Loop | UnsetType


def describe(
    metrics: Mapping[str, float], meta: Mapping[str, str], fingerprint: str, loop: Loop | UnsetType = UNSET
) -> Description:
    """Check what the caller says of the snapshot.

    Raises:
        ConfigError: it cannot stand in a manifest.
    """
    checked_meta({"fingerprint": fingerprint})
    return Description(checked_metrics(metrics), checked_meta(meta), provenance(Path.cwd(), fingerprint), loop)


def checked_tree(run: Run, source: Path | SourceTree, step: int, *, under: str = "") -> SourceTree:
    """Look at the source, and make sure that the bucket can take it before it is touched.

    Args:
        run: where it goes.
        source: a file or a directory, or a tree that was looked at.
        step: training step.
        under: the folder of the snapshot it goes into; empty for its root.

    Raises:
        ConfigError: the source or the step cannot be used, or nothing is there to compress with.
    """
    some_id = SnapshotId(1, step, "x" * 8)
    if run.config.transfer.compress != "none":
        need_zstandard()
    tree = (source if isinstance(source, SourceTree) else scanned(run, source)).below(under)
    for file in tree.files:
        layout.data_key(some_id, file.path)
        choose_part_bytes(file.size, run.config.transfer.part_bytes, run.store.traits, file.path)
    return tree


def scanned(run: Run, source: Path) -> SourceTree:
    """Look at what is on the disk.

    Raises:
        ConfigError: it cannot be saved, or the run lies in it.
    """
    if run.directory and run.directory.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"the run {run.directory} lies inside {source}, which cannot hold a copy of itself")
    return scan(source, now_ns=int(run.clock.now() * 1e9))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sending:
    """One attempt's, or one rank's, way into the bucket.

    Attributes:
        run: where to.
        snapshot: the attempt.
        journal: of this machine.
        tally: counts what was sent.
        rank: whose share it is; None when there is a single writer.
    """

    run: Run
    snapshot: SnapshotId
    journal: Journal
    tally: Tally
    rank: int | None = None

    def announce(self, tree: SourceTree, earlier: Sequence[tuple[str, int]] = ()) -> None:
        """Tell the bucket what may be written; before any data is.

        Args:
            tree: what we have.
            earlier: path and size of what the record that we replace names; gc could not know it otherwise.
        """
        ours = {file.path: file.size for file in tree.files}
        attempt = Attempt(
            snapshot=str(self.snapshot),
            files=tuple((dict(earlier) | ours).items()),
            created=timestamp(self.run.clock),
            writer=this_writer(),
            rank=self.rank,
        )
        self.run.store.put(layout.journal_key(self.snapshot, self.rank), encode_attempt(attempt))

    def send(self, tree: SourceTree, parent: Manifest | None, leftovers: Leftovers) -> tuple[FileEntry, ...]:
        """Bring the files of a tree into the bucket; an entry for each, sorted by path.

        Args:
            tree: what was announced.
            parent: the snapshot whose unchanged parts may be copied.
            leftovers: what an earlier attempt left in the bucket.

        Raises:
            SourceChangedError: a file changed while it was read.
            StoreError: the bucket failed for good.
        """
        run, transfer = self.run, self.run.config.transfer
        self.journal.attempt(self.snapshot)
        run.observer(Event(kind=Kind.PLANNED, bytes=tree.size, count=len(tree.files)))
        asked = transfer.compress != "none"
        packs = asked and self.rank is None
        if asked and not packs:
            run.observer(Event(kind=Kind.NOTICE, message="ranks do not compress: their files are stored as they are"))
        previous = {file.path: file for file in parent.files} if parent else {}
        # helpers tell what a file holds, not what it takes when it is packed
        crew = None if packs else run.crew(snapshot=str(self.snapshot), shared=self.rank is not None)
        with Buffers(transfer.parts_in_flight, room_bytes(transfer.part_bytes, 1 if packs else None)) as buffers:
            bench = Bench(
                store=run.store,
                snapshot=self.snapshot,
                transfer=transfer,
                buffers=buffers,
                journal=self.journal,
                observer=run.observer,
                tally=self.tally,
                check_not_fenced=lambda: run.catalog.claims.check_not_fenced(self.snapshot.epoch),
                shared=self.rank is not None,
            )
            return upload_files(tree.files, bench, previous=previous, leftovers=leftovers, crew=crew)


def check_at_rest(tree: SourceTree, entries: tuple[FileEntry, ...], *, always: bool) -> None:
    """Make sure that what was sent is what is there now; with `always`, by reading every file again.

    Raises:
        SourceChangedError: something was written to meanwhile.
        DiskError: a file cannot be read any more.
    """
    tree.check_unchanged()
    saved = {entry.path: entry for entry in entries}
    for file in tree.files:
        if not file.is_on_disk or not (always or file.could_hide_a_change(tree.scanned_ns)):
            continue
        try:
            same = same_content(file.location, saved[file.path])
        except FileNotFoundError:
            same = False
        except OSError as error:
            raise DiskError(f"cannot read {file.location}: {error.strerror}") from error
        if not same:
            raise SourceChangedError(f"{file.location} changed while it was being saved; save it when it is at rest")


def sorted_entries(tree: SourceTree, files: tuple[FileEntry, ...]) -> tuple[Entry, ...]:
    """All entries of the manifest by path."""
    entries: list[Entry] = [*files, *tree.links, *tree.directories]
    return tuple(sorted(entries, key=lambda entry: entry.path))


def check_sound(manifest: Manifest) -> None:
    """Refuse to commit what a restore would refuse.

    Raises:
        ConfigError: a name in the source cannot be stored.
    """
    try:
        decode(encode(manifest), manifest.id)
    except ManifestError as error:
        raise ConfigError(f"this tree cannot be saved: {error}") from error
