"""Restore: the newest good snapshot appears at the target, whole and verified, or the target stays as it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import permutations
from pathlib import Path

from ckptsync.errors import ConfigError, DiskError, IntegrityError, ManifestError, NotFoundError
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot.manifest import DirectoryEntry, Entry, FileEntry, LinkEntry, Manifest
from ckptsync.snapshot.part import below
from ckptsync.transfer.budget import reading_buffers
from ckptsync.transfer.download import download_files
from ckptsync.transfer.folders import check_distinct, check_space, disk_bytes, make_removable, remove_tree
from ckptsync.transfer.reader import Reader, Received, check_readable
from ckptsync.transfer.target import (
    Landing,
    check_target,
    disk_errors,
    landing,
    must_stay,
    put_in_place,
    sync_folder,
)
from ckptsync.transfer.workers import map_tasks
from ckptsync.verbs.compare import holds_only, matches
from ckptsync.verbs.ladder import Skipped, newest_good
from ckptsync.verbs.landed import landed, note_landed

_HISTORY = 50
"""So many of the newest snapshots are asked whether they hold what a restore replaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """What stands at the target now.

    Attributes:
        snapshot: its id.
        step: training step.
        epoch: which writer of the run.
        files: regular files restored.
        bytes: their size.
        bytes_sent: payload fetched by this call, as it is stored.
        bytes_reused: payload that was on the disk already, verified.
        parts_sent: requests that carried payload.
        seconds: this call.
        committed: always True.
        target: where.
        kept: where content that stood at the target was moved: it is in no snapshot, or could not be deleted.
        skipped: newer snapshots that were bad or quarantined, the newest first.
        steps_lost: how much newer the newest of those was, 0 or more.
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
    target: str
    kept: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    steps_lost: int = 0


def restore(
    run: Run, target: Path, *, snapshot: str = "latest", include: Sequence[str] = (), fallback: bool = True
) -> Restored:
    """Let a snapshot appear at `target`. Called again after a kill, it fetches only what is missing.

    What stood at the target is deleted when it is in a good snapshot of this run, or is what the last restore put there, and
    else kept beside it. While it is being read, the snapshot is spared by gc and rm.

    Args:
        run: where from.
        target: a directory, or for a snapshot of a single file, a file or the directory for it.
        snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias.
        include: shell patterns on relative paths (`*` also matches `/`); none means everything.
        fallback: with `latest`, take the next older snapshot when one is damaged or quarantined. Asked for by another
            name, a quarantined one is tried, and verified as always.

    Raises:
        NoSnapshotError: there is none, or not the one asked for.
        IntegrityError: every snapshot tried was bad.
        VersionError: a newer ckptsync wrote the latest; an older one is restored only when it is asked for.
        ConfigError: the target or a pattern cannot be used, or nothing is there to unpack packed files with.
        DiskError: the disk is full or read-only.
        StoreError: the bucket failed for good; what was fetched is used by the next call.
    """
    begun_s = run.clock.monotonic()
    check_target(target)
    named, target = target, Path(os.path.realpath(target))

    def bring(reading: Run, manifest: Manifest) -> tuple[Received, list[Path]]:
        with _prepared(reading, manifest, target, include) as (received, put):
            return received, put()

    reached = newest_good(run, snapshot, fallback=fallback, use=bring)
    manifest, (received, kept) = reached.manifest, reached.value
    files = [entry for entry in _selected(manifest, include) if isinstance(entry, FileEntry)]
    return Restored(
        snapshot=manifest.snapshot,
        step=manifest.id.step,
        epoch=manifest.id.epoch,
        files=len(files),
        bytes=sum(file.size for file in files),
        bytes_sent=received.bytes_received,
        bytes_reused=received.bytes_kept,
        parts_sent=received.parts_received,
        seconds=round(run.clock.monotonic() - begun_s, 3),
        target=str(named),
        kept=tuple(str(path) for path in kept),
        skipped=reached.skipped,
        steps_lost=reached.steps_lost,
    )


def _selected(manifest: Manifest, include: Sequence[str]) -> tuple[Entry, ...]:
    """Entries that fit the patterns, and the directories above them.

    Raises:
        ConfigError: nothing fits.
    """
    if not include:
        return manifest.entries
    wanted = {
        entry.path
        for entry in manifest.entries
        if not isinstance(entry, DirectoryEntry) and any(fnmatchcase(entry.path, pattern) for pattern in include)
    }
    if not wanted:
        raise ConfigError(f"no file of snapshot {manifest.snapshot} fits {' '.join(include)}")
    above = {str(folder) for path in wanted for folder in Path(path).parents}
    return tuple(
        entry
        for entry in manifest.entries
        if entry.path in wanted or (isinstance(entry, DirectoryEntry) and entry.path in above)
    )


def restore_folders(run: Run, manifest: Manifest, targets: Mapping[str, Path]) -> None:
    """Let folders of a snapshot appear, each at a path of its own. No path is touched before all are fetched and verified.

    What stood at a path is treated as by `restore`; what is kept beside it is told. Hold a lease on the snapshot meanwhile.

    Args:
        run: where from.
        manifest: of the snapshot.
        targets: by the folder's path in the snapshot. A folder that a single file was saved under is that file.

    Raises:
        IntegrityError: the snapshot is damaged.
        ConfigError: the snapshot has no such folder, a path cannot be used, or lies in another.
        DiskError: the disk is full or read-only.
        StoreError: the bucket failed for good; what was fetched is used by the next call.
    """
    real: dict[str, Path] = {}
    for folder, target in targets.items():
        check_target(target)
        real[folder] = Path(os.path.realpath(target))
    for one, other in permutations(real.values(), 2):
        if one.is_relative_to(other):
            raise ConfigError(f"{one} lies in {other}, and cannot be restored beside it; name other places")
    with ExitStack() as stack:
        prepared = [
            stack.enter_context(_prepared(run, manifest, target, (), folder)) for folder, target in real.items()
        ]
        for kept in [path for _, put in prepared for path in put()]:
            message = f"what stood there before is in no snapshot, and was moved to {kept}"
            run.observer(Event(kind=Kind.NOTICE, path=str(kept), message=message))


@contextmanager
def _prepared(
    run: Run, whole: Manifest, target: Path, include: Sequence[str], folder: str = ""
) -> Iterator[tuple[Received, Callable[[], list[Path]]]]:
    """Fetch one snapshot, or a folder of it; yields counts, and what puts it in place and returns what was kept."""
    manifest = below(whole, folder)
    if manifest is None:
        raise ConfigError(f"snapshot {whole.snapshot} has no folder {folder!r}")
    entries = _selected(manifest, include)
    check_readable(entry for entry in entries if isinstance(entry, FileEntry))
    if manifest.kind == "file":
        target = target / entries[0].path if target.is_dir() and not folder else target
    else:
        _spare_the_run(run, entries, target)
    root = entries[0].path if manifest.kind == "file" else ""
    received = Received()
    size = sum(entry.size for entry in entries if isinstance(entry, FileEntry))
    files = sum(isinstance(entry, FileEntry) for entry in entries)
    run.observer(Event(kind=Kind.PLANNED, bytes=size, count=files))

    before = landed(run.config.state_path(), target)

    def expendable(old: Path, stood_at: Path) -> bool:
        inside = root if stood_at == target else str(stood_at.relative_to(target))
        if _is_committed(run, manifest, old, inside, folder):
            return True
        # the copy of a snapshot that was deleted on purpose; one that is there and bad may have its only good copy here
        return before is not None and not run.catalog.exists(before.id) and holds_only(old, before, inside)

    with landing(target, manifest.snapshot, expendable=expendable, kind=manifest.kind, observer=run.observer) as place:
        there = holds_only(target, manifest, root) if root else _is_there(place, entries, manifest.mode)
        if not there:
            _fill(run, entries, place, received)

        def put() -> list[Path]:
            kept: list[Path] = []
            if there:
                received.add(kept=size)
                run.observer(Event(kind=Kind.SKIPPED, path=str(target), bytes=size))
                remove_tree(place.holder, ignore_errors=True)
            else:
                if place.is_moved_whole:
                    with disk_errors(place.tree):
                        place.tree.chmod(manifest.mode & 0o777)
                kept = put_in_place(place, expendable=expendable)
            note_landed(run.config.state_path(), target, manifest)
            return kept

        yield received, put


def _is_there(place: Landing, entries: Sequence[Entry], mode: int) -> bool:
    """Whether the target holds what would be put there; one that cannot be replaced may hold other things beside it."""
    target = place.target
    same_mode = place.inside or (target.is_dir() and (target.stat().st_mode ^ mode) & 0o777 == 0)
    return target.is_dir() and same_mode and matches(target, entries, beside=place.inside)


def _spare_the_run(run: Run, entries: Sequence[Entry], target: Path) -> None:
    """Refuse to replace the directory that the run itself lies in.

    Raises:
        ConfigError: the run lies below the target, or the target below the run.
    """
    if run.directory is None or not run.overlaps(target):
        return
    directory = run.directory.resolve()
    tops = {entry.path.partition("/")[0] for entry in entries}
    beside = (
        directory != target and directory.is_relative_to(target) and directory.relative_to(target).parts[0] not in tops
    )
    if not (beside and must_stay(target)):
        raise ConfigError(f"{target} and the run {directory} lie in each other; restore to another place")


def _fill(run: Run, entries: Sequence[Entry], place: Landing, received: Received) -> None:
    """Bring every entry below the place's tree, durable."""
    files = [entry for entry in entries if isinstance(entry, FileEntry)]
    folders = [entry for entry in entries if isinstance(entry, DirectoryEntry)]
    parents = {entry.path.rpartition("/")[0] or "." for entry in entries}
    with disk_errors(place.holder):
        make_removable(place.tree)  # a killed restore may have been at the modes already
        _drop_strangers(place.tree, entries)
        check_distinct(place.holder, [entry.path for entry in entries])
        _check_space(run, files, place)
        for folder in sorted(parents | {entry.path for entry in folders}):
            (place.tree / folder).mkdir(parents=True, exist_ok=True, mode=0o700)
            (place.tree / folder).chmod(0o700)
    _download(run, files, place.tree, received)
    with disk_errors(place.tree):
        for link in (entry for entry in entries if isinstance(entry, LinkEntry)):
            location = place.tree / link.path
            location.unlink(missing_ok=True)
            location.symlink_to(link.target)
        modes = {entry.path: entry.mode for entry in folders}
        for path in sorted((parents - {"."}) | modes.keys(), reverse=True):
            sync_folder(place.tree / path)
            (place.tree / path).chmod(modes.get(path, 0o755) & 0o777)
        sync_folder(place.tree)


def _check_space(run: Run, files: Sequence[FileEntry], place: Landing) -> None:
    """Make sure that the snapshot fits on the disk, and into memory where its parts are larger than ours.

    What a manifest says is believed only as far as the bucket bears it out: a size that the object has not is damage, and no
    reason to ask for a larger disk.

    Raises:
        IntegrityError: an object is missing, or of another size.
        DiskError: there is too little space.
    """
    try:
        check_space(place.holder, sum(file.size for file in files) - disk_bytes(place.tree))
    except DiskError:
        _check_sizes(run, files)
        raise
    ours = run.config.transfer.part_bytes
    _check_sizes(run, [file for file in files if min(file.size, file.part_bytes) > ours])


def _check_sizes(run: Run, files: Sequence[FileEntry]) -> None:
    """Ask the bucket for the size of each file; one request each.

    Raises:
        IntegrityError: an object is missing, or of another size.
    """

    def check(file: FileEntry) -> None:
        try:
            found = run.store.stat(file.key)
        except NotFoundError as error:
            raise IntegrityError(f"{file.path} is missing from the bucket (key {file.key!r})") from error
        if found.size != file.stored_size:
            raise IntegrityError(
                f"{file.path} has {found.size} bytes in the bucket instead of {file.stored_size} (key {file.key!r})"
            )

    map_tasks(check, files, run.config.transfer.parts_in_flight)


def _drop_strangers(tree: Path, entries: Sequence[Entry]) -> None:
    """Remove what an earlier restore with other patterns left."""
    strangers = sorted(tree.rglob("*"), reverse=True)
    ours = entries if strangers else ()
    known = {path for entry in ours for path in (entry.path, *map(str, Path(entry.path).parents))}
    for found in strangers:
        if str(found.relative_to(tree)) in known:
            continue
        if found.is_dir() and not found.is_symlink():
            remove_tree(found)
        else:
            found.unlink()


def _download(run: Run, files: Sequence[FileEntry], folder: Path, received: Received) -> None:
    """Fetch files with the run's own limits."""
    transfer = run.config.transfer
    with reading_buffers(files, transfer) as buffers:
        reader = Reader(store=run.store, buffers=buffers, observer=run.observer, received=received)
        download_files(files, folder, reader, transfer, crew=run.crew(folder=os.fsencode(folder.absolute())))


def _is_committed(run: Run, manifest: Manifest, old: Path, place: str, folder: str) -> bool:
    """Whether everything at and below a path is, byte for byte, in this snapshot or in the folder of a recent good one of the run."""
    if holds_only(old, manifest, place):
        return True
    quarantined = run.catalog.quarantined()
    for number, listed in enumerate(run.catalog.listed(limit=_HISTORY)):
        if number == _HISTORY:
            break
        if listed.id in quarantined:  # the only good copy may be the one that stands here
            continue
        try:
            other = below(run.catalog.load(listed), folder)
            if other is not None and holds_only(old, other, place):
                return True
        except (ManifestError, NotFoundError):
            continue
    return False
