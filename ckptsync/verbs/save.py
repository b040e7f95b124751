"""Save: a file or directory becomes a committed snapshot, or nothing changes."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from msgspec import UNSET, UnsetType

from ckptsync import names
from ckptsync.events import Event, Kind
from ckptsync.records import this_writer, timestamp
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.cost import Cost, Loop
from ckptsync.snapshot.manifest import Manifest
from ckptsync.tenure import Tenure
from ckptsync.transfer.journal import journal_path, open_journal
from ckptsync.transfer.source import SourceTree
from ckptsync.transfer.workbench import Tally
from ckptsync.transfer.workers import side_by_side
from ckptsync.verbs.earlier import check_still_there, continue_earlier
from ckptsync.verbs.sending import Sending, check_at_rest, check_sound, checked_tree, describe, sorted_entries

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
        bytes_stored: size of their objects, less where they are compressed.
        bytes_sent: payload this call sent, as it is stored.
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
    bytes_stored: int
    bytes_sent: int
    bytes_reused: int
    parts_sent: int
    seconds: float
    committed: bool = True


def save(
    run: Run,
    source: Path | SourceTree,
    *,
    step: int,
    metrics: Mapping[str, float] = _NONE,
    meta: Mapping[str, str] = _NO_META,
    alias: str | None = None,
    fingerprint: str = "",
    tenure: Tenure | None = None,
    original: Manifest | None = None,
    loop: Loop | UnsetType = UNSET,
    journal_of: Path | None = None,
) -> Saved:
    """Commit what is at `source` as the newest snapshot of the run. Called again after a kill, it continues.

    Args:
        run: where to.
        source: a file or a directory, at rest until this returns; or a tree of them and of what is in memory.
        step: training step, 0 to 999 999 999 999.
        metrics: numbers to choose by later, as in `best:loss:min`.
        meta: free text.
        alias: a name that shall stand for it.
        fingerprint: the caller's digest of its training configuration.
        tenure: our right to write the run, from an earlier save of this process; None takes the run over. Saves that share one
            wait for each other.
        original: of the snapshot in another run that the source is (`carry`): the copy has its provenance and `commit_id`.
        loop: what a training loop's time went into, for `ckptsync report`.
        journal_of: the directory that a tree was chosen from, under whose name there is a journal; None keeps one only of a path.

    Raises:
        ConfigError: the source or an argument cannot be used; the bucket was not touched.
        SourceChangedError: the source changed meanwhile; nothing was committed.
        FencedError: a newer writer owns the run; nothing was committed.
        StoreError: the bucket failed for good; nothing was committed, what was sent is used by the next call.
        ConflictError: somebody changed the alias meanwhile; the snapshot is committed, only its name is not set.
    """
    begun_s = run.clock.monotonic()
    if alias is not None:
        layout.alias_prefix(alias)
    described = describe(metrics, meta, fingerprint, loop)
    tree = checked_tree(run, source, step)
    tally, tenure = Tally(), tenure or Tenure()
    place = source if isinstance(source, Path) else journal_of
    journal_at = journal_path(run.config.state_path(), run.url, place) if place is not None else None
    with tenure.turn, open_journal(journal_at, observer=run.observer) as journal:
        snapshot = layout.new_snapshot_id(tenure.epoch_for(run.catalog.claims, step), step)
        sending = Sending(run=run, snapshot=snapshot, journal=journal, tally=tally)
        parent, leftovers, _ = side_by_side(
            run.catalog.newest_readable,
            partial(continue_earlier, run, snapshot, journal),
            partial(sending.announce, tree),
            workers=run.config.transfer.parts_in_flight,
        )
        entries = sending.send(tree, parent, leftovers)
        own = layout.data_prefix(snapshot)
        check_still_there(run, [entry.key for entry in entries if not entry.key.startswith(own)])
        check_at_rest(tree, entries, always=run.config.transfer.reread_source)
        manifest = Manifest(
            snapshot=str(snapshot),
            commit_id=original.commit_id if original else secrets.token_hex(16),
            kind=tree.kind,
            mode=tree.mode if tree.kind == "directory" else 0o755,
            created=timestamp(run.clock),
            entries=sorted_entries(tree, entries),
            metrics=described.metrics,
            meta=described.meta,
            parent=parent.snapshot if parent else "",
            writer=this_writer(),
            provenance=original.provenance if original else described.provenance,
            cost=Cost(
                seconds=round(run.clock.monotonic() - begun_s, 3),
                bytes_sent=tally.bytes_sent,
                bytes_reused=tally.bytes_reused,
                loop=described.loop,
            ),
        )
        check_sound(manifest)
        run.catalog.commit(manifest)
        journal.remove()
    run.observer(Event(kind=Kind.COMMITTED, path=manifest.snapshot, bytes=manifest.size, count=len(tree.files)))
    names.name_committed(run.catalog, snapshot, alias)
    return saved(manifest, tally, run.clock.monotonic() - begun_s)


def saved(manifest: Manifest, tally: Tally, seconds: float) -> Saved:
    """Sum up what was committed and what it took."""
    return Saved(
        snapshot=manifest.snapshot,
        step=manifest.id.step,
        epoch=manifest.id.epoch,
        files=len(manifest.files),
        bytes=manifest.size,
        bytes_stored=manifest.stored_size,
        bytes_sent=tally.bytes_sent,
        bytes_reused=tally.bytes_reused,
        parts_sent=tally.parts_sent,
        seconds=round(seconds, 3),
    )
