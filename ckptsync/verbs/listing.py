"""Listing: what exists in a run, one snapshot in full, and what changed between two."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import groupby
from typing import Literal

from ckptsync import names
from ckptsync.catalog import Listed
from ckptsync.errors import ManifestError, NotFoundError, VersionError
from ckptsync.run import Run
from ckptsync.snapshot import diff
from ckptsync.snapshot.diff import Diff
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest
from ckptsync.transfer.workers import in_order
from ckptsync.verbs.attempts import Folder, folders, read_attempts
from ckptsync.verbs.quarantine import reason_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A snapshot, or an attempt at one.

    Attributes:
        snapshot: its id.
        step: training step.
        epoch: which writer of the run.
        created: RFC 3339, UTC; empty when unknown.
        bytes: of all files; planned ones when it is incomplete, 0 when unknown.
        bytes_stored: of their objects, less where they are compressed; 0 when it is not committed.
        files: regular files, likewise.
        metrics: None stands for values that are no numbers.
        meta: free text by name.
        state: `quarantined` when it was found bad or its manifest is damaged, `newer-format` when only a newer ckptsync reads it,
            `incomplete` when it has none and none continues it.
        pinned: retention spares it.
        aliases: names that stand for it, sorted.
        problem: why nothing is known of it; empty when all is well.
    """

    snapshot: str
    step: int
    epoch: int
    created: str
    bytes: int = 0
    bytes_stored: int = 0
    files: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)
    meta: dict[str, str] = field(default_factory=dict)
    state: Literal["committed", "incomplete", "newer-format", "quarantined"]
    pinned: bool = False
    aliases: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the listings show under one id."""

    id: SnapshotId
    listed: Listed | None
    folder: Folder | None


def rows(run: Run) -> Iterator[Row]:
    """Yield what exists, the newest first, while it is being read.

    Manifests are read in parallel but never more than `transfer.workers` ahead, so that memory does not grow with the run.

    Raises:
        StoreError: a request failed for good.
    """
    pinned, quarantined = names.pins(run.catalog), run.catalog.quarantined()
    aliases: dict[str, list[str]] = {}
    for name, alias in names.all_aliases(run.catalog, skip_damaged=True).items():
        aliases.setdefault(alias.snapshot, []).append(name)

    def row(found: _Found) -> Row | None:
        known = tuple(sorted(aliases.get(str(found.id), ())))
        made = _row(run, found, pinned=found.id in pinned, aliases=known)
        if made is None or made.state != "committed" or found.id not in quarantined:
            return made
        return replace(made, state="quarantined", problem=reason_of(run, found.id))

    for made in in_order(row, _found(run), run.config.transfer.parts_in_flight):
        if made is not None:
            yield made


def show(run: Run, snap: str) -> Manifest:
    """Return the manifest of a snapshot.

    Args:
        run: where.
        snap: an id, a step, `latest`, `best:METRIC:min|max` or an alias.

    Raises:
        NoSnapshotError: nothing committed fits.
        ManifestError: it is damaged.
    """
    return run.catalog.get(names.find(run.catalog, snap))


def compare(run: Run, a: str, b: str) -> Diff:
    """Return what changed from snapshot `a` to snapshot `b`.

    Raises:
        NoSnapshotError: nothing committed fits one of them.
        ManifestError: one is damaged.
    """
    return diff.diff(show(run, a), show(run, b))


def _found(run: Run) -> Iterator[_Found]:
    """Join the two listings; attempts that a later one continues, or that are being deleted, are left out."""
    seen: set[SnapshotId] = set()
    committed = (_Found(id=one.id, listed=one, folder=None) for one in run.catalog.listed())
    attempted = (_Found(id=one.id, listed=None, folder=one) for one in folders(run.store))
    for snapshot, group in groupby(heapq.merge(committed, attempted, key=_rank), key=lambda found: found.id):
        both = list(group)
        listed = next((found.listed for found in both if found.listed), None)
        folder = next((found.folder for found in both if found.folder), None)
        if listed is not None or (folder is not None and _is_pending(folder, seen)):
            yield _Found(id=snapshot, listed=listed, folder=folder)
            seen.add(snapshot)


def _rank(found: _Found) -> tuple[int, int, str]:
    """The order of the keys in the bucket."""
    return -found.id.epoch, -found.id.step, found.id.nonce


def _is_pending(folder: Folder, seen: set[SnapshotId]) -> bool:
    """Whether an attempt without manifest may still come to something."""
    return bool(folder.journals) and folder.condemned is None and seen.isdisjoint(folder.adopters)


def _row(run: Run, found: _Found, *, pinned: bool, aliases: tuple[str, ...]) -> Row | None:
    """Read what stands behind one id; None when it was deleted since it was listed."""
    try:
        if found.listed is not None:
            manifest = run.catalog.load(found.listed)
            return Row(
                snapshot=manifest.snapshot,
                step=found.id.step,
                epoch=found.id.epoch,
                created=manifest.created,
                bytes=manifest.size,
                bytes_stored=manifest.stored_size,
                files=len(manifest.files),
                metrics=manifest.metrics,
                meta=manifest.meta,
                state="committed",
                pinned=pinned,
                aliases=aliases,
            )
        shares = read_attempts(run.store, found.id)
    except NotFoundError:
        return None
    except ManifestError as error:
        return Row(
            snapshot=str(found.id),
            step=found.id.step,
            epoch=found.id.epoch,
            created=_when(found),
            state=_state(error) if found.listed else "incomplete",
            pinned=pinned,
            aliases=aliases,
            problem=str(error),
        )
    return Row(
        snapshot=str(found.id),
        step=found.id.step,
        epoch=found.id.epoch,
        created=min(share.created for share in shares),
        bytes=sum(share.size for share in shares),
        files=sum(len(share.files) for share in shares),
        state="incomplete",
        pinned=pinned,
        aliases=aliases,
    )


def _state(error: ManifestError) -> Literal["newer-format", "quarantined"]:
    """The word for a snapshot that cannot be read."""
    return "newer-format" if isinstance(error, VersionError) else "quarantined"


def _when(found: _Found) -> str:
    """When the store got what we cannot read."""
    modified_s = found.listed.stat.modified_s if found.listed else found.folder.modified_s if found.folder else None
    if modified_s is None:
        return ""
    return datetime.fromtimestamp(modified_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
