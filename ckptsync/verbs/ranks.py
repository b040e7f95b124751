"""Save with many ranks: each brings its own files, and all of them together become one snapshot, or nothing changes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from msgspec import UNSET, UnsetType

from ckptsync import names
from ckptsync.errors import ConfigError, ConflictError, IncompleteError, ManifestError, NotFoundError, naming
from ckptsync.options import MIB
from ckptsync.records import read_record, this_writer, timestamp
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.attempt import MAX_ATTEMPT_BYTES, decode_attempt
from ckptsync.snapshot.cost import Cost, Loop
from ckptsync.snapshot.manifest import DirectoryEntry, Entry, FileEntry, LinkEntry, Manifest
from ckptsync.snapshot.report import Report
from ckptsync.store.base import Stat, Upload
from ckptsync.store.tree import is_text
from ckptsync.tenure import Tenure
from ckptsync.transfer.journal import journal_path, open_journal
from ckptsync.transfer.source import SourceFile, SourceTree
from ckptsync.transfer.workbench import NOTHING_LEFT, Leftovers, Tally
from ckptsync.transfer.workers import map_tasks
from ckptsync.verbs.gathering import Gathering, gather
from ckptsync.verbs.save import Saved, saved
from ckptsync.verbs.sending import Description, Sending, check_at_rest, checked_tree, describe, sorted_entries

_NONE: Mapping[str, float] = {}
_NO_META: Mapping[str, str] = {}
DEFAULT_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rank:
    """One of the processes that save a step together.

    Attributes:
        rank: which one, 0 to `world` less 1.
        world: how many there are, 1 to 99 999.
        launch: names this start of the job: the same text on all ranks, and another at every start, as a scheduler's job id
            with its restart count is. What two starts wrote is never mixed.
        under: a folder of the snapshot that this rank's files go into; empty puts them at its root, where two ranks must not
            have different files of the same name.
        timeout_s: how long to wait for the other ranks once our own files are in the bucket, in seconds.
    """

    rank: int
    world: int
    launch: str
    under: str = ""
    timeout_s: float = DEFAULT_TIMEOUT_S

    def __post_init__(self) -> None:
        if not 1 <= self.world <= layout.MAX_WORLD or not 0 <= self.rank < self.world:
            raise ConfigError(
                f"rank {self.rank} of {self.world} makes no sense; ranks count from 0, and there are at most "
                f"{layout.MAX_WORLD}"
            )
        if not self.launch.strip() or len(self.launch) > layout.MAX_LAUNCH_LETTERS or not is_text(self.launch):
            raise ConfigError(
                "this start of the job has no usable name; give all ranks the same one, another at every start "
                "(--launch, CKPTSYNC_LAUNCH)"
            )
        if self.under:
            try:
                layout.check_path(self.under)
            except ManifestError as error:
                raise ConfigError(f"files cannot go under {self.under!r}: {error}") from error


def save_rank(
    run: Run,
    source: Path | SourceTree,
    rank: Rank,
    *,
    step: int,
    metrics: Mapping[str, float] = _NONE,
    meta: Mapping[str, str] = _NO_META,
    alias: str | None = None,
    fingerprint: str = "",
    tenure: Tenure | None = None,
    loop: Loop | UnsetType = UNSET,
) -> Saved:
    """Bring one rank's files, and return once the files of all ranks are one committed snapshot.

    Ranks never wait for each other but in the bucket, so that none can hang another. Called again after a kill, with the same
    launch, it continues. Metrics and free text of all ranks are joined; of equal names the lowest rank's counts.

    Args:
        run: where to.
        source: a file or a directory, at rest until this returns; or a tree of them and of what is in memory.
        rank: who we are.
        step: training step, 0 to 999 999 999 999, the same on all ranks.
        metrics: numbers to choose by later.
        meta: free text.
        alias: a name that shall stand for the snapshot; one rank is enough to give it.
        fingerprint: the caller's digest of its training configuration.
        tenure: what this process may write; it learns the launch's epoch.
        loop: what this rank's loop spent its time on; of all ranks', the one that waited longest is kept.

    Raises:
        ConfigError: the source or an argument cannot be used; the bucket was not touched.
        IncompleteError: ranks are missing when the time is over (`missing`), or do not fit together; nothing was committed.
        SourceChangedError: the source changed meanwhile; nothing was committed.
        FencedError: a newer launch or writer owns the run; nothing was committed.
        UnsupportedError: the store cannot create conditionally.
        StoreError: the bucket failed for good; what was sent is used by the next call.
    """
    with naming(rank=rank.rank):
        return _save(
            run,
            source,
            rank,
            step=step,
            alias=alias,
            described=describe(metrics, meta, fingerprint, loop),
            tenure=tenure or Tenure(),
        )


def deliver_rank(
    run: Run,
    source: Path | SourceTree,
    rank: Rank,
    *,
    step: int,
    metrics: Mapping[str, float] = _NONE,
    meta: Mapping[str, str] = _NO_META,
    fingerprint: str = "",
    tenure: Tenure | None = None,
    loop: Loop | UnsetType = UNSET,
) -> None:
    """Bring one rank's files as `save_rank` does, and return without waiting for the others; one of them commits later.

    For jobs whose ranks meet anyway. The arguments and errors are those of `save_rank`.
    """
    with naming(rank=rank.rank):
        _deliver(run, source, rank, step, describe(metrics, meta, fingerprint, loop), tenure or Tenure(), Tally())


def _save(
    run: Run,
    source: Path | SourceTree,
    rank: Rank,
    *,
    step: int,
    alias: str | None,
    described: Description,
    tenure: Tenure,
) -> Saved:
    """Do it."""
    begun_s = run.clock.monotonic()
    if alias is not None:
        layout.alias_prefix(alias)
    tally = Tally()
    us, tree, manifest = _deliver(run, source, rank, step, described, tenure, tally)
    manifest = manifest or gather(us, timeout_s=rank.timeout_s)
    _check_same(us, manifest.entries, tree, beside=True)
    names.name_committed(run.catalog, us.snapshot, alias)
    return saved(manifest, tally, run.clock.monotonic() - begun_s)


def _deliver(
    run: Run,
    source: Path | SourceTree,
    rank: Rank,
    step: int,
    described: Description,
    tenure: Tenure,
    tally: Tally,
) -> tuple[Gathering, SourceTree, Manifest | None]:
    """Bring our files; our part in the step, what we have, and the snapshot when it is committed already."""
    begun_s = run.clock.monotonic()
    tree = checked_tree(run, source, step, under=rank.under)
    epoch = tenure.join(run.catalog.claims, rank.launch)
    snapshot = layout.shared_snapshot_id(epoch, step, rank.launch)
    us = Gathering(run=run, snapshot=snapshot, rank=rank.rank, world=rank.world)
    if (manifest := us.committed()) is not None:
        _check_ours(us, manifest, tree)
        return us, tree, manifest
    _check_order(us)
    us.reported()
    if not _is_done(us, tree):
        place = (
            journal_path(run.config.state_path(), f"{run.url}\n{rank.rank}", source)
            if isinstance(source, Path)
            else None
        )
        with open_journal(place, observer=run.observer) as journal:
            sending = Sending(run=run, snapshot=snapshot, journal=journal, tally=tally, rank=rank.rank)
            us.report(_bring(us, tree, sending, described, begun_s))
            journal.remove()
    return us, tree, None


def _check_ours(us: Gathering, manifest: Manifest, tree: SourceTree) -> None:
    """Make sure that a snapshot which was committed before we came is the one that we have a part in.

    Raises:
        IncompleteError: it was made by another number of ranks, or this rank has brought other files to it.
    """
    if len(manifest.ranks) != us.world:
        raise IncompleteError(
            f"step {us.snapshot.step} of this launch was committed by {len(manifest.ranks)} ranks, and rank {us.rank} says that "
            f"there are {us.world}; name each start of the job differently (--launch)"
        )
    with suppress(NotFoundError, ManifestError):  # gc deletes reports of what is committed long since
        if {entry.path for entry in us.read(us.rank).entries} != _paths(tree):
            raise _other_files(us)


def _check_order(us: Gathering) -> None:
    """Within an epoch snapshots are ordered by step: one that goes back would rank below what it comes after.

    Raises:
        IncompleteError: this launch has committed a higher step.
    """
    newest = next(us.run.catalog.listed(limit=1), None)
    if newest is not None and newest.id.epoch == us.snapshot.epoch and newest.id.step > us.snapshot.step:
        raise IncompleteError(
            f"step {us.snapshot.step} comes after step {newest.id.step} of the same launch; name each start of the job "
            "differently (--launch)"
        )


def _bring(us: Gathering, tree: SourceTree, sending: Sending, described: Description, begun_s: float) -> Report:
    """Send our files, and say what they are."""
    run = us.run
    parent = run.catalog.newest_readable()
    if us.snapshot not in sending.journal.attempts:
        sending.journal.forget()
    earlier = _earlier(us)
    leftovers = NOTHING_LEFT if earlier is None else _leftovers(us, tree)
    sending.announce(tree, earlier or ())
    _promise(us, tree)
    entries = sending.send(tree, parent, leftovers)
    check_at_rest(tree, entries, always=run.config.transfer.reread_source)
    return Report(
        snapshot=str(us.snapshot),
        rank=us.rank,
        world=us.world,
        writer=this_writer(),
        created=timestamp(run.clock),
        entries=sorted_entries(tree, entries),
        metrics=described.metrics,
        meta=described.meta,
        parent=parent.snapshot if parent else "",
        provenance=described.provenance,
        cost=Cost(
            seconds=round(run.clock.monotonic() - begun_s, 3),
            bytes_sent=sending.tally.bytes_sent,
            bytes_reused=sending.tally.bytes_reused,
            loop=described.loop,
        ),
    )


def _promise(us: Gathering, tree: SourceTree) -> None:
    """Say what the large files will hold, for good: a key is never written with other content, whoever else writes it.

    A file too small to be cut into parts needs no promise, for it is created only if absent.

    Raises:
        IncompleteError: another rank, or another try of this one, has promised something else.
    """
    run = us.run
    large = [file for file in tree.files if file.size > max(run.store.traits.min_part_bytes, MIB)]

    def promise(file: SourceFile) -> None:
        key, digest = layout.content_key(us.snapshot, file.path), file.digest().encode()
        try:
            run.store.put(key, digest, if_absent=True)
        except ConflictError as error:
            if run.store.read(key) != digest:
                raise IncompleteError(
                    f"{file.path} differs from what another rank, or an earlier try of this one, saves under that name; let "
                    "each rank save below a folder of its own (--under), and name each start of the job differently (--launch)"
                ) from error

    map_tasks(promise, large, run.config.transfer.parts_in_flight)


def _earlier(us: Gathering) -> tuple[tuple[str, int], ...] | None:
    """Path and size of what an earlier try of this rank, which may be alive, has announced; None when there was none."""
    key = layout.journal_key(us.snapshot, us.rank)
    try:
        return decode_attempt(read_record(us.run.store, key, MAX_ATTEMPT_BYTES), us.snapshot).files
    except NotFoundError:
        return None
    except ManifestError:
        return ()


def _leftovers(us: Gathering, tree: SourceTree) -> Leftovers:
    """What an earlier try of this rank left in the bucket."""
    store = us.run.store
    objects: dict[str, Stat] = {}
    uploads: dict[str, Upload] = {}
    for file in tree.files:
        key = layout.data_key(us.snapshot, file.path)
        try:
            objects[file.path] = store.stat(key)
        except NotFoundError:
            found = store.uploads(key) if store.traits.multipart else iter(())
            if (upload := next((one for one in found if one.key == key), None)) is not None:
                uploads[file.path] = upload
    return Leftovers(uploads=uploads, objects=objects)


def _is_done(us: Gathering, tree: SourceTree) -> bool:
    """Whether this rank has reported just these files already, as after a kill while it waited.

    Raises:
        IncompleteError: it has reported others.
    """
    try:
        report = us.read(us.rank)
    except NotFoundError:
        return False
    _check_same(us, report.entries, tree)
    return True


def _check_same(us: Gathering, entries: tuple[Entry, ...], tree: SourceTree, *, beside: bool = False) -> None:
    """Compare the disk with what was reported or committed, byte for byte.

    Args:
        us: our part.
        entries: what is in the bucket.
        tree: what is on the disk.
        beside: `entries` hold other ranks' as well.

    Raises:
        IncompleteError: they differ.
    """
    there = {entry.path: entry for entry in entries}
    ours: list[Entry] = [*tree.links, *tree.directories]
    same = (
        (beside or there.keys() == _paths(tree))
        and all(_is_alike(there.get(entry.path), entry) for entry in ours)
        and all(_holds(there.get(file.path), file) for file in tree.files)
    )
    if not same:
        raise _other_files(us)


def _paths(tree: SourceTree) -> set[str]:
    """All that a tree has, by path."""
    others: list[Entry] = [*tree.links, *tree.directories]
    return {file.path for file in tree.files} | {entry.path for entry in others}


def _other_files(us: Gathering) -> IncompleteError:
    """Say that this is not what the rank has brought before."""
    return IncompleteError(
        f"rank {us.rank} has saved other files as step {us.snapshot.step} in this launch before; name each start of "
        "the job differently (--launch)"
    )


def _is_alike(there: Entry | None, ours: Entry) -> bool:
    """Whether a link or a directory is in the bucket."""
    if isinstance(ours, LinkEntry):
        return there == ours
    return isinstance(there, DirectoryEntry)


def _holds(there: Entry | None, file: SourceFile) -> bool:
    """Whether a file is in the bucket, by content."""
    return isinstance(there, FileEntry) and file.matches(there)
