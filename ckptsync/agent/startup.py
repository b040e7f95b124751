"""What stands in the directory before the command starts: the newest checkpoint, from the bucket or from an earlier life of this disk."""

from __future__ import annotations

import glob
import sys
import tempfile
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from ckptsync.agent.aside import put_aside
from ckptsync.agent.ledger import is_in
from ckptsync.clock import Clock
from ckptsync.errors import ConfigError, IntegrityError, ManifestError, NoSnapshotError, NotFoundError
from ckptsync.events import Event, Kind
from ckptsync.readiness.base import Ready
from ckptsync.readiness.names import family, number_of_unit, numbers_in
from ckptsync.readiness.recognise import Looked, Recogniser
from ckptsync.run import Run
from ckptsync.snapshot.layout import parse_snapshot_id
from ckptsync.snapshot.manifest import Manifest
from ckptsync.transfer.held import chosen
from ckptsync.transfer.target import must_stay
from ckptsync.verbs.restore import Restored, restore

_BESIDE = {".json", ".jsonl", ".txt", ".yaml", ".yml", ".csv", ".log", ".md"}
"""Endings of what tells of a checkpoint, and holds nothing of it."""
_RECENT = 4
"""Snapshots that tell what the training saves: enough to see what it saves every other time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """How a start begins.

    Attributes:
        restored: what was brought from the bucket; None when nothing was.
        kept: name of a checkpoint on the disk that is the newest snapshot, or newer than it; None when there is none.
        step: of the newest snapshot; None when there is none.
        aside: where checkpoints are now that were in the way; None when there were none.
        recent: paths of each of the last snapshots, where something stood in the directory.
    """

    restored: Restored | None = None
    kept: str | None = None
    step: int | None = None
    aside: Path | None = None
    recent: tuple[frozenset[str], ...] = field(default=(), compare=False)


def bring_newest(run: Run, directory: Path, *, rule: str, quiet_s: float | None) -> Begun:
    """Let the newest checkpoint stand in the directory. Safe to call again: what is there already is not fetched.

    A whole checkpoint on the disk stays when it is the newest snapshot, by names, sizes and times, or is newer: then it was written
    before the last upload came to its end. What is not whole is put aside.

    Args:
        run: where from.
        directory: of nothing but checkpoints; made when it is not there.
        rule: by which a checkpoint on the disk is whole.
        quiet_s: of the rule `quiet`.

    Raises:
        ConfigError: the directory cannot be used.
        DiskError: something cannot be put aside, or the disk is full.
        IntegrityError: every snapshot is bad.
        StoreError: the bucket failed for good.
    """
    check_directory(directory)
    looking = _Looking(directory, rule, quiet_s, run.clock, _recent(run) if directory.is_dir() else ())
    return replace(_begun(run, directory, looking), recent=looking.recent)


@dataclass(frozen=True, slots=True)
class _Looking:
    """How a directory is looked at."""

    directory: Path
    rule: str
    quiet_s: float | None
    clock: Clock
    recent: tuple[frozenset[str], ...]

    def look(self) -> Looked:
        """Look once, as somebody who knows the last snapshots."""
        recogniser = Recogniser(self.directory, rule=self.rule, quiet_s=self.quiet_s)
        recogniser.remember(self.recent)
        return recogniser.look(self.clock.now())


def _recent(run: Run) -> tuple[frozenset[str], ...]:
    """Paths of each of the last snapshots that can be read."""
    recent: list[frozenset[str]] = []
    for listed in run.catalog.listed(limit=_RECENT):
        with suppress(ManifestError, NotFoundError):
            recent.append(frozenset(file.path for file in run.catalog.load(listed).files))
    return tuple(recent)


def _begun(run: Run, directory: Path, looking: _Looking) -> Begun:
    """Let the newest checkpoint stand in the directory."""
    looked = looking.look() if directory.is_dir() else None
    newest = run.catalog.latest()
    if newest is not None and looked is not None:
        if newer := [ready for ready in looked.snapshots if _is_newer(ready, looked, newest)]:
            aside = put_aside(directory, looked.tree, _half(looked))
            lost = looked.unfinished | _best_of(newer[-1], looked, newest)
            _bring_back(run, directory, newest, lost)
            return Begun(kept=newer[-1].name or str(directory), step=newest.id.step, aside=aside)
        if (same := _same(looked, newest, directory)) is not None:
            in_the_way = _half(looked) | _later(looked, newest)
            return Begun(kept=same, step=newest.id.step, aside=put_aside(directory, looked.tree, in_the_way))
    try:
        restored = restore(run, directory)
    except NoSnapshotError:
        _make(directory)
        return Begun(aside=None if looked is None else put_aside(directory, looked.tree, _half(looked)))
    aside = _put_others_aside(run, looking, restored) if must_stay(directory) else None
    return Begun(restored=restored, step=restored.step, aside=aside)


def _put_others_aside(run: Run, looking: _Looking, restored: Restored) -> Path | None:
    """Move every other checkpoint out of a directory that cannot be replaced as a whole, as a mount point."""
    looked = looking.look()
    snapshot = parse_snapshot_id(restored.snapshot)
    if snapshot is None:
        return None
    ours = {entry.path for entry in run.catalog.get(snapshot).entries}
    theirs = _half(looked).union(*(one.paths for one in looked.checkpoints))
    return put_aside(looking.directory, looked.tree, theirs - ours)


def check_directory(directory: Path) -> None:
    """Refuse a directory that holds more than checkpoints for sure: a restore replaces it.

    Raises:
        ConfigError: it is the root, a home, the current directory or one above it, or no directory.
    """
    try:
        real = directory.resolve()
    except RuntimeError as error:
        raise ConfigError(f"{directory} is a link that leads to itself") from error
    here = Path.cwd()
    if real in {here, *here.parents, Path.home().resolve()}:
        raise ConfigError(
            f"{directory} holds more than checkpoints, and a restore replaces it; name a folder of its own"
        )
    if real.exists() and not real.is_dir():
        raise ConfigError(f"{directory} is no directory")


def _make(directory: Path) -> None:
    """Make the directory, where nothing was restored.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {directory}: {error.strerror}") from error


def _same(looked: Looked, newest: Manifest, directory: Path) -> str | None:
    """Name of the checkpoint on the disk that is a snapshot, whole and with all that it has; None when it is not."""
    there = {file.path: (file.size, file.identity.mtime_ns) for file in looked.tree.files}
    if any(there.get(file.path) != (file.size, file.mtime_ns) for file in newest.files):
        return None
    if looked.unfinished.intersection(file.path for file in newest.files):
        return None
    found = [ready for ready in looked.snapshots if is_in(newest, chosen(looked.tree, ready.paths), ready)]
    return (found[-1].name if found else "") or str(directory)


def _half(looked: Looked) -> frozenset[str]:
    """Paths of what is no checkpoint, and what the training would take for one.

    That is what is not whole for sure, and a folder of a later step than any that is whole, of the same kind, in which nothing of a checkpoint
    is yet: the save was killed as it began.
    """
    last: dict[str, int] = {}
    for one in looked.checkpoints:
        if (number := number_of_unit(one.name)) is not None:
            last[family(one.name)] = max(number, last.get(family(one.name), 0))
    paths = set(looked.unfinished)
    for folder in (directory.path for directory in looked.tree.directories):
        if (number_of_unit(folder) or 0) > last.get(family(folder), sys.maxsize):
            inside = {file.path for file in looked.tree.files if file.path.startswith(f"{folder}/")}
            if all(PurePosixPath(path).suffix in _BESIDE for path in inside):
                paths |= inside or {folder}
    return frozenset(paths)


def _later(looked: Looked, newest: Manifest) -> frozenset[str]:
    """Paths of checkpoints of a later step than a snapshot, and written before it: those of a training that another machine has begun anew.

    A step that is counted anew in each epoch, as in `epoch_0_iter_900.pt` before `epoch_1_iter_100.pt`, is no later one.
    """
    of_snapshot = {file.path for file in newest.files}
    last = {family(path): numbers_in(path) for path in of_snapshot}
    overtaken = (
        one.paths
        for one in looked.checkpoints
        if one.step is not None
        and one.step > newest.id.step
        and not any(numbers_in(path) < last.get(family(path), ()) for path in one.paths)
        and not _is_written_later(one, looked, newest)
    )
    return frozenset().union(*overtaken) - of_snapshot


def _best_of(newer: Ready, looked: Looked, newest: Manifest) -> frozenset[str]:
    """Paths of what a checkpoint names as its best, where the snapshot has it and the disk has not."""
    there = {file.path for file in looked.tree.files}
    inside = f"{newer.best}/"
    return frozenset(
        file.path
        for file in newest.files
        if newer.best and file.path not in there and (file.path == newer.best or file.path.startswith(inside))
    )


def _bring_back(run: Run, directory: Path, newest: Manifest, lost: Collection[str]) -> None:
    """Fetch what is torn or gone on the disk and whole in the snapshot, beside a newer checkpoint that stays: `best.pt` beside `last.pt`."""
    wanted = sorted({file.path for file in newest.files}.intersection(lost))
    if not wanted:
        return
    with tempfile.TemporaryDirectory(dir=directory, prefix=".ckptsync-") as folder:
        try:
            restore(run, Path(folder) / "back", snapshot=newest.snapshot, include=[*map(glob.escape, wanted)])
        except IntegrityError as error:  # the newer checkpoint is there all the same
            run.observer(Event(kind=Kind.NOTICE, message=f"not brought back: {error}"))
            return
        for path in wanted:
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (Path(folder) / "back" / path).replace(directory / path)


def _is_newer(ready: Ready, looked: Looked, newest: Manifest) -> bool:
    """Whether a checkpoint is newer than a snapshot: it was written later, and is of a later step as far as it tells.

    A later step alone is not enough: the training may have begun anew on another machine since.
    """
    return (ready.step is None or ready.step > newest.id.step) and _is_written_later(ready, looked, newest)


def _is_written_later(ready: Ready, looked: Looked, newest: Manifest) -> bool:
    """Whether something of a checkpoint was written after everything of a snapshot."""
    wrote_ns = max((file.identity.mtime_ns for file in looked.tree.files if file.path in ready.paths), default=0)
    return wrote_ns > max((file.mtime_ns for file in newest.files), default=0)
