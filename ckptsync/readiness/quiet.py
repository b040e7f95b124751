"""What has not changed for a while, for who asks for it: nothing here knows whether a writer pauses or is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ckptsync.readiness import whole
from ckptsync.readiness.base import Findings, Folder, Ready
from ckptsync.readiness.contents import Contents
from ckptsync.readiness.names import is_plain, step_along, step_in
from ckptsync.readiness.torch import stem
from ckptsync.transfer.source import SourceFile

RULE = "quiet"


@dataclass(frozen=True, slots=True)
class _Unit:
    """What would be a checkpoint: a folder with all that is in it, or some files.

    Attributes:
        name: relative to the directory; empty for the directory itself.
        files: of it.
        folder: when it is one with all that is in it.
    """

    name: str
    files: Sequence[SourceFile]
    folder: Folder | None = None


def find(root: Folder, contents: Contents, *, quiet_s: float, now_s: float) -> Findings:
    """Find folders and files in which nothing has changed for `quiet_s`, by the times of the files.

    A folder whose name tells a step is one checkpoint, and so is one in which no name does; other folders are looked into. Of files
    beside folders those count whose names tell a step; files of a directory without any of these are one checkpoint together.
    """
    units = list(_units(root)) or [_Unit("", list(_plain(root)))]
    checkpoints: list[Ready] = []
    waiting: list[str] = []
    for unit in units:
        if not unit.files:
            continue
        changed_s = max(max(file.identity.mtime_ns, file.identity.ctime_ns) for file in unit.files) / 1e9
        if now_s - changed_s < quiet_s:
            left_s = quiet_s - (now_s - changed_s)
            waiting.append(
                f"{unit.name or '.'} changed a moment ago; it is whole when it stays so for {left_s:.0f} s more"
            )
        elif why := _why_not(unit, contents):
            waiting.append(why)
        else:
            checkpoints.append(_ready(unit))
    return Findings(checkpoints=tuple(checkpoints), waiting=tuple(waiting), all_claimed=True)


def _units(folder: Folder) -> Iterator[_Unit]:
    """What may be checkpoints in a folder."""
    for name, inner in folder.folders.items():
        if not is_plain(name):
            continue
        if step_in(name) is not None or not _tells_steps(inner):
            yield _Unit(inner.path, list(inner.all_files()), inner)
        else:
            yield from _units(inner)
    for file in _plain(folder):
        if step_in(stem(file.location.name)) is not None:
            yield _Unit(file.path, [file])


def _tells_steps(folder: Folder) -> bool:
    """Whether the name of a folder below tells a step."""
    return any(step_in(name) is not None for inner in folder.all_folders() for name in inner.folders)


def _plain(folder: Folder) -> Iterator[SourceFile]:
    """Files of a folder that are neither hidden nor temporary."""
    for name, file in folder.files.items():
        if is_plain(name):
            yield file


def _why_not(unit: _Unit, contents: Contents) -> str:
    """What speaks against it although it is quiet."""
    return whole.why_not(unit.files, contents) if unit.folder is None else whole.why_not_in(unit.folder, contents)


def _ready(unit: _Unit) -> Ready:
    """The checkpoint."""
    paths = unit.folder.all_paths() if unit.folder else frozenset(file.path for file in unit.files)
    return Ready(step=step_along(stem(unit.name)), paths=paths, name=unit.name, rule=RULE)
