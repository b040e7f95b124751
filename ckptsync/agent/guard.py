"""Keeps the disk from filling up: deletes checkpoints that are durable, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path

from ckptsync.agent.lookout import Candidate
from ckptsync.errors import DiskError
from ckptsync.events import Event, Kind, Observer
from ckptsync.options import Agent
from ckptsync.transfer.source import Identity, SourceFile

_LEFT_ALONE = frozenset({"tensorflow", "orbax"})
"""Rules of frameworks that keep a list of their checkpoints and delete old ones by themselves."""


class Guard:
    """Deletes as the options ask for it."""

    def __init__(
        self, directory: Path, options: Agent, *, is_durable: Callable[[str], bool], observer: Observer
    ) -> None:
        """Delete nothing yet.

        Args:
            directory: that is watched.
            options: of the agent.
            is_durable: whether a checkpoint of that mark is in the bucket.
            observer: told of what is deleted.
        """
        self._directory, self._options, self._is_durable, self._observer = directory, options, is_durable, observer
        self._told: set[str] = set()

    def see_to(self, whole: Sequence[Candidate], *, busy: Collection[str]) -> None:
        """Delete what may be deleted and should. Safe to call again.

        Args:
            whole: checkpoints on the disk, the oldest first.
            busy: marks of those that are not durable yet.

        Raises:
            DiskError: something cannot be deleted, or has changed since it was committed.
        """
        keep_local, least_bytes = self._options.keep_local, self._options.min_free_bytes
        if keep_local is not None:
            for one in expendable(whole, is_durable=self._is_durable, busy=busy, keep_local=keep_local):
                self._delete(one, whole)
            self._tell_overtaken(whole[:-keep_local], busy)
        if not least_bytes:
            return
        for one in expendable(whole, is_durable=self._is_durable, busy=busy, keep_local=None):
            if free_bytes(self._directory) >= least_bytes:
                return
            self._delete(one, whole)
        if (free := free_bytes(self._directory)) < least_bytes:
            self._tell(
                "min-free",
                f"{free / (1 << 30):.1f} GiB are free on the disk, less than --min-free, and nothing more may be deleted",
            )

    def _tell_overtaken(self, old: Sequence[Candidate], busy: Collection[str]) -> None:
        """Tell that some will never be durable, and so never be deleted."""
        left = [one for one in old if one.ready.name and one.mark not in busy and not self._is_durable(one.mark)]
        if not left:
            return
        way_out = "; newer ones overtook them, and --backlog all commits every one"
        self._tell(
            "overtaken",
            f"checkpoints that are in no snapshot stay on the disk, {left[0].title} first: only what is durable is deleted"
            f"{way_out if self._options.backlog == 'latest' else ''}",
        )

    def _tell(self, topic: str, message: str) -> None:
        """Tell something of each topic, once."""
        if topic not in self._told:
            self._told.add(topic)
            self._observer(Event(kind=Kind.NOTICE, message=message))

    def _delete(self, candidate: Candidate, whole: Sequence[Candidate]) -> None:
        """Delete one checkpoint, and tell."""
        freed = delete(self._directory, candidate, [one for one in whole if one is not candidate])
        if freed:
            message = f"deleted {candidate.title} from the disk: it is durable"
            self._observer(Event(kind=Kind.DELETED, path=candidate.title, bytes=freed, message=message))


def expendable(
    whole: Sequence[Candidate],
    *,
    is_durable: Callable[[str], bool],
    busy: Collection[str],
    keep_local: int | None,
) -> tuple[Candidate, ...]:
    """Return the checkpoints that may be deleted, the oldest first.

    Args:
        whole: that are on the disk, the oldest first.
        is_durable: whether one of that mark is in the bucket.
        busy: marks of those that are under upload.
        keep_local: how many stay, the newest; None lets all but the newest go.
    """
    candidates = whole[: -(keep_local or 1)]
    return tuple(
        one
        for one in candidates
        if is_durable(one.mark) and one.mark not in busy and one.ready.name and one.ready.rule not in _LEFT_ALONE
    )


def free_bytes(directory: Path) -> int:
    """Return how much more fits on the disk.

    Raises:
        DiskError: it cannot be told.
    """
    try:
        found = os.statvfs(directory)
    except OSError as error:
        raise DiskError(f"cannot tell what is free on the disk of {directory}: {error.strerror}") from error
    return found.f_bavail * found.f_frsize


def delete(directory: Path, candidate: Candidate, others: Sequence[Candidate]) -> int:
    """Delete the files that belong to one checkpoint alone, each only if it is still as it was committed, and folders left empty.

    Args:
        directory: that is watched.
        candidate: to be deleted.
        others: the other whole checkpoints, whose files stay.

    Returns:
        Bytes that were freed.

    Raises:
        DiskError: something cannot be deleted, or has changed meanwhile; what was deleted is.
    """
    shared = frozenset[str]().union(*(one.ready.paths for one in others))
    freed, names = 0, (candidate.ready.name, *candidate.ready.joined)
    inside = tuple(f"{name}/" for name in names)
    own = [
        file
        for file in candidate.tree.files
        if file.path not in shared and (file.path in names or file.path.startswith(inside))
    ]
    # the smallest first: what says that a checkpoint is whole is small, and what is half deleted must not look whole
    for file in sorted(own, key=lambda one: one.size):
        freed += _delete_file(file)
    for link in candidate.tree.links:
        if link.path.startswith(inside):
            with suppress(OSError):
                (directory / link.path).unlink()
    folders = {str(folder) for file in own for folder in Path(file.path).parents} - {"."}
    for folder in sorted(folders, key=len, reverse=True):
        if f"{folder}/".startswith(inside):
            with suppress(OSError):  # somebody else has something in it
                (directory / folder).rmdir()
    return freed


def _delete_file(file: SourceFile) -> int:
    """Delete one file if it is the one that was committed."""
    try:
        found = file.location.lstat()
        if Identity.of(found) != file.identity:
            raise DiskError(f"{file.location} has changed since it was committed, and stays")
        file.location.unlink()
    except FileNotFoundError:
        return 0
    except OSError as error:
        if isinstance(error, DiskError):
            raise
        raise DiskError(f"cannot delete {file.location}: {error.strerror}") from error
    return file.size
