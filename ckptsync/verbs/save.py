"""Save: a file or directory becomes a committed snapshot, or nothing changes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ckptsync import names
from ckptsync.catalog import this_writer, timestamp
from ckptsync.errors import ConfigError, DiskError, ManifestError, SourceChangedError
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.attempt import Attempt, encode_attempt
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import (
    Cost,
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
from ckptsync.transfer.journal import Journal, journal_path, open_journal
from ckptsync.transfer.source import SourceTree, scan
from ckptsync.transfer.upload import upload_files
from ckptsync.transfer.workbench import Bench, Tally, choose_part_bytes
from ckptsync.verbs.compare import same_content
from ckptsync.verbs.earlier import check_still_there, continue_earlier
from ckptsync.verbs.provenance import provenance

_NONE: Mapping[str, float] = {}
_NO_META: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """A committed snapshot and what it took.

    Attributes:
        snapshot: its id.
        step: training step.
        epoch: which writer of the run.
        files: regular files in it.
        bytes: their size.
        bytes_sent: payload this call sent.
        bytes_reused: payload that was in the bucket already or was copied there.
        parts_sent: requests that carried payload.
        seconds: this call.
        committed: always True; anything else is an error.
    """

    snapshot: str
    step: int
    epoch: int
    files: int
    bytes: int
    bytes_sent: int
    bytes_reused: int
    parts_sent: int
    seconds: float
    committed: bool = True


def save(
    run: Run,
    source: Path,
    *,
    step: int,
    metrics: Mapping[str, float] = _NONE,
    meta: Mapping[str, str] = _NO_META,
    alias: str | None = None,
    fingerprint: str = "",
) -> Saved:
    """Commit what is at `source` as the newest snapshot of the run. Called again after a kill, it continues.

    Args:
        run: where to.
        source: a file or a directory, at rest until this returns.
        step: training step, 0 to 999 999 999 999.
        metrics: numbers to choose by later, as in `best:loss:min`.
        meta: free text.
        alias: a name that shall stand for it.
        fingerprint: the caller's digest of its training configuration.

    Raises:
        ConfigError: the source or an argument cannot be used; the bucket was not touched.
        SourceChangedError: the source changed meanwhile; nothing was committed.
        FencedError: a newer writer owns the run; nothing was committed.
        StoreError: the bucket failed for good; nothing was committed, what was sent is used by the next call.
        ConflictError: somebody changed the alias meanwhile; the snapshot is committed, only its name is not set.
    """
    begun_s = run.clock.monotonic()
    described = _described(metrics, meta, alias, fingerprint)
    tree = _checked_tree(run, source, step)
    tally = Tally()
    with open_journal(journal_path(run.config.state_path(), run.url, source), observer=run.observer) as journal:
        snapshot = layout.new_snapshot_id(run.catalog.claim().epoch, step)
        parent = run.catalog.latest()
        entries = _upload(run, tree, snapshot, parent, journal, tally)
        _check_at_rest(tree, entries, always=run.config.transfer.reread_source)
        cost = Cost(
            seconds=round(run.clock.monotonic() - begun_s, 3),
            bytes_sent=tally.bytes_sent,
            bytes_reused=tally.bytes_reused,
        )
        manifest = Manifest(
            snapshot=str(snapshot),
            commit_id=secrets.token_hex(16),
            kind=tree.kind,
            mode=tree.mode if tree.kind == "directory" else 0o755,
            created=timestamp(run.clock),
            entries=_sorted(tree, entries),
            metrics=described.metrics,
            meta=described.meta,
            parent=parent.snapshot if parent else "",
            writer=this_writer(),
            provenance=described.provenance,
            cost=cost,
        )
        _check_sound(manifest)
        run.catalog.commit(manifest)
        journal.remove()
    run.observer(Event(kind=Kind.COMMITTED, path=manifest.snapshot, bytes=manifest.size, count=len(tree.files)))
    if alias is not None:
        names.promote(run.catalog, snapshot, alias)
    return _result(manifest, tally, run.clock.monotonic() - begun_s)


@dataclass(frozen=True, slots=True)
class _Description:
    """What a manifest says besides its entries."""

    metrics: dict[str, float | None]
    meta: dict[str, str]
    provenance: Provenance


def _described(
    metrics: Mapping[str, float], meta: Mapping[str, str], alias: str | None, fingerprint: str
) -> _Description:
    """Check what the caller says of the snapshot."""
    if alias is not None:
        layout.alias_prefix(alias)
    checked_meta({"fingerprint": fingerprint})
    return _Description(checked_metrics(metrics), checked_meta(meta), provenance(Path.cwd(), fingerprint))


def _checked_tree(run: Run, source: Path, step: int) -> SourceTree:
    """Look at the source, and make sure that the bucket can take it before it is touched."""
    some_id = SnapshotId(1, step, "x" * 8)
    if run.directory and run.directory.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"the run {run.directory} lies inside {source}, which cannot hold a copy of itself")
    tree = scan(source, now_ns=int(run.clock.now() * 1e9))
    for file in tree.files:
        layout.data_key(some_id, file.path)
        choose_part_bytes(file.size, run.config.transfer.part_bytes, run.store.traits, file.path)
    return tree


def _result(manifest: Manifest, tally: Tally, seconds: float) -> Saved:
    """Sum it up."""
    return Saved(
        snapshot=manifest.snapshot,
        step=manifest.id.step,
        epoch=manifest.id.epoch,
        files=len(manifest.files),
        bytes=manifest.size,
        bytes_sent=tally.bytes_sent,
        bytes_reused=tally.bytes_reused,
        parts_sent=tally.parts_sent,
        seconds=round(seconds, 3),
    )


def _upload(
    run: Run, tree: SourceTree, snapshot: SnapshotId, parent: Manifest | None, journal: Journal, tally: Tally
) -> tuple[FileEntry, ...]:
    """Tell the bucket what will be written, then write it."""
    leftovers = continue_earlier(run, snapshot, journal)
    attempt = Attempt(
        snapshot=str(snapshot),
        files=tuple((file.path, file.size) for file in tree.files),
        created=timestamp(run.clock),
        writer=this_writer(),
    )
    run.store.put(layout.journal_key(snapshot), encode_attempt(attempt))
    journal.attempt(snapshot)
    run.observer(Event(kind=Kind.PLANNED, bytes=tree.size, count=len(tree.files)))
    transfer = run.config.transfer
    bench = Bench(
        store=run.store,
        snapshot=snapshot,
        transfer=transfer,
        buffers=Buffers(transfer.workers, transfer.part_bytes),
        journal=journal,
        observer=run.observer,
        tally=tally,
        check_not_fenced=lambda: run.catalog.check_not_fenced(snapshot.epoch),
    )
    previous = {file.path: file for file in parent.files} if parent else {}
    entries = upload_files(tree.files, bench, previous=previous, leftovers=leftovers)
    own = layout.data_prefix(snapshot)
    check_still_there(run, [entry.key for entry in entries if not entry.key.startswith(own)])
    return entries


def _check_at_rest(tree: SourceTree, entries: tuple[FileEntry, ...], *, always: bool) -> None:
    """Make sure that what was sent is what is there now; with `always`, by reading every file again.

    Raises:
        SourceChangedError: something was written to meanwhile.
        DiskError: a file cannot be read any more.
    """
    tree.check_unchanged()
    saved = {entry.path: entry for entry in entries}
    for file in tree.files:
        if not (always or file.could_hide_a_change(tree.scanned_ns)):
            continue
        try:
            same = same_content(file.location, saved[file.path])
        except FileNotFoundError:
            same = False
        except OSError as error:
            raise DiskError(f"cannot read {file.location}: {error.strerror}") from error
        if not same:
            raise SourceChangedError(f"{file.location} changed while it was being saved; save it when it is at rest")


def _sorted(tree: SourceTree, files: tuple[FileEntry, ...]) -> tuple[Entry, ...]:
    """All entries of the manifest by path."""
    entries: list[Entry] = [*files, *tree.links, *tree.directories]
    return tuple(sorted(entries, key=lambda entry: entry.path))


def _check_sound(manifest: Manifest) -> None:
    """Refuse to commit what a restore would refuse.

    Raises:
        ConfigError: a name in the source cannot be stored.
    """
    try:
        decode(encode(manifest), manifest.id)
    except ManifestError as error:
        raise ConfigError(f"this tree cannot be saved: {error}") from error
