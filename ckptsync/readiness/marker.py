"""Markers by which a person or a program says that a file or a folder is whole: `NAME.ckptsync-ready` beside it, or one inside a folder."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path

import msgspec

from ckptsync.errors import ConfigError
from ckptsync.readiness import huggingface, torch
from ckptsync.readiness.base import Findings, Folder, Ready
from ckptsync.readiness.contents import Contents, Opened, UnreadableError
from ckptsync.readiness.names import step_along
from ckptsync.readiness.walk import Walker
from ckptsync.snapshot.digest import part_hasher
from ckptsync.snapshot.layout import checked_step
from ckptsync.snapshot.manifest import copied_metrics
from ckptsync.transfer.appearing import appearing
from ckptsync.transfer.source import Identity, SourceFile

RULE = "marker"
ENDING = ".ckptsync-ready"
_UNFINISHED = f".{ENDING}."
_MAX_MARKER_BYTES = 1 << 20


class Marker(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a marker says; an empty file says nothing but that it is there.

    Attributes:
        step: training step.
        metrics: numbers to choose by later.
        files: digest of names, sizes and times of the files that it marks; empty when it tells none.
    """

    step: int | None = None
    metrics: dict[str, float] = {}
    files: str = ""


_decoder = msgspec.json.Decoder(Marker)
_encoder = msgspec.json.Encoder()


def ready(path: str | PathLike[str], *, step: int | None = None, metrics: Mapping[str, float] | None = None) -> None:
    """Tell `ckptsync agent` that a file or folder is whole. Call it when the last byte is written; safe to call again.

    A marker appears at once: `NAME.ckptsync-ready` beside a file, `.ckptsync-ready` in a folder. It counts for the files as they are
    now: who writes to them afterwards calls this again. What has a marker is never taken before it counts.

    Args:
        path: of a file or folder on a disk that the agent sees as well.
        step: training step, 0 to 999 999 999 999; None where names or files tell it.
        metrics: numbers to choose by later, as in `best:loss:min`.

    Raises:
        ConfigError: nothing is there, or step or metrics cannot be used; nothing was written.
        DiskError: the disk is full or read-only.
    """
    place = Path(path)
    if step is not None:
        checked_step(step)
    numbers = {name: value for name, value in copied_metrics(metrics or {}).items() if math.isfinite(value)}
    if place.is_dir():
        folder, _ = Walker(place).look(0)
        digest, marker = digest_of(_marked_files(folder)), place / ENDING
    elif place.is_file() and place.name:
        files = (SourceFile(place.name, place, Identity.of(place.stat()), 0),)
        digest, marker = digest_of(files), place.with_name(f"{place.name}{ENDING}")
    else:
        raise ConfigError(f"there is no file or folder at {place}, which could be whole")
    content = _encoder.encode(Marker(step=step, metrics=numbers, files=digest))
    with appearing(marker) as file:
        file.write(content)


def find(folder: Folder, contents: Contents) -> Findings:
    """Find what is marked in a folder, or the folder when it is."""
    if ENDING in folder.files:
        found = _judged(folder.path, folder, folder.files[ENDING], contents)
        return Findings(checkpoints=_whole(found), waiting=_not_whole(found), all_claimed=True)
    checkpoints: list[Ready] = []
    waiting: list[str] = []
    claimed: set[str] = set()
    for name, marker in folder.files.items():
        if not name.endswith(ENDING):
            continue
        marked = name[: -len(ENDING)]
        claimed |= {name, marked}
        what = folder.files.get(marked) or folder.folders.get(marked)
        if what is None:
            waiting.append(f"{marker.path} marks {folder.inner(marked)}, which is not there")
            continue
        found = _judged(folder.inner(marked), what, marker, contents)
        checkpoints += _whole(found)
        waiting += _not_whole(found)
    return Findings(checkpoints=tuple(checkpoints), waiting=tuple(waiting), claimed=frozenset(claimed))


def read_marker(opened: Opened) -> Marker | None:
    """Read a marker; for `Contents.of`. None when it makes no sense."""
    content = opened.read(0, _MAX_MARKER_BYTES).strip()
    try:
        return _decoder.decode(content) if content else Marker()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def digest_of(files: Iterable[SourceFile]) -> str:
    """Return the BLAKE3 of names, sizes and times of files, 64 hex digits."""
    hasher = part_hasher()
    for file in sorted(files, key=lambda file: file.path):
        hasher.update(f"{file.path}\0{file.size}\0{file.identity.mtime_ns}\n".encode())
    return hasher.hexdigest()


def _marked_files(folder: Folder) -> list[SourceFile]:
    """Files of a folder, named from there; without its marker, and what is left of one that was not finished."""
    prefix = len(folder.path) + 1 if folder.path else 0
    names = ((file.path[prefix:], file) for file in folder.all_files())
    return [
        SourceFile(name, file.location, file.identity, file.mode)
        for name, file in names
        if name != ENDING and not name.startswith(_UNFINISHED)
    ]


def _judged(name: str, what: Folder | SourceFile, marker: SourceFile, contents: Contents) -> Ready | str:
    """A checkpoint that is marked, or a sentence about why the marker does not count."""
    try:
        told = contents.of(marker, read_marker)
    except UnreadableError as error:
        return str(error)
    if told is None:
        return f"{marker.path} is neither empty nor what ckptsync.ready writes"
    if isinstance(what, Folder):
        files, paths = _marked_files(what), what.all_paths() | {marker.path}
        if odd := next(((one, entry) for one in what.all_folders() for entry in one.odd), None):
            return f"{odd[0].inner(odd[1])} {odd[0].odd[odd[1]]}"
    else:
        files = [SourceFile(what.location.name, what.location, what.identity, what.mode)]
        paths = frozenset({what.path, marker.path})
    if not files:
        return f"{marker.path} marks a folder without files"
    late = next((file for file in files if file.identity.mtime_ns > marker.identity.mtime_ns), None)
    if late is not None or (told.files and told.files != digest_of(files)):
        return f"{name or '.'} has changed since it was marked; mark it again when it is whole"
    step, metrics = _told(what, told, contents)
    return Ready(step=step, paths=paths, name=name, rule=RULE, metrics=metrics)


def _told(what: Folder | SourceFile, told: Marker, contents: Contents) -> tuple[int | None, Mapping[str, float]]:
    """Step and metrics, by the marker, or else by what the files tell."""
    step, metrics = told.step, told.metrics
    try:
        if isinstance(what, SourceFile):
            path = torch.stem(what.path)
            step = contents.of(what, torch.read).step if step is None else step
        else:
            path = what.path
            if huggingface.STATE in what.files:
                state = contents.of(what.files[huggingface.STATE], huggingface.read_state)
                step, metrics = state.step if step is None else step, metrics or dict(state.metrics or {})
    except UnreadableError:
        path = what.path
    return step_along(path) if step is None else step, metrics


def _whole(found: Ready | str) -> tuple[Ready, ...]:
    """What was found, when it is whole."""
    return () if isinstance(found, str) else (found,)


def _not_whole(found: Ready | str) -> tuple[str, ...]:
    """The sentence about it, when it is not."""
    return (found,) if isinstance(found, str) else ()
