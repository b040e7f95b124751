"""Folders of `torch.distributed.checkpoint`: whole when `.metadata`, which is written last, is there and every file that it names.

Source: torch/distributed/checkpoint/filesystem.py, `FileSystemWriter.finish`
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ckptsync.readiness import whole
from ckptsync.readiness.base import NOTHING, Findings, Folder, Ready
from ckptsync.readiness.contents import Contents, Opened, UnreadableError
from ckptsync.readiness.names import step_along
from ckptsync.readiness.pickled import PickleError, scan
from ckptsync.transfer.source import SourceFile

RULE = "dcp"
METADATA = ".metadata"
_OF_RANK = re.compile(r"__(\d+)\.metadata")
_SHARDS = re.compile(r"__\d+_\d+\.distcp")
_MAX_METADATA_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Metadata:
    """What a `.metadata` tells.

    Attributes:
        why: it is not whole, in words that follow its name; empty when it is.
        ends: offset behind the last item of each file that it names.
    """

    why: str
    ends: Mapping[str, int]


def find(folder: Folder, contents: Contents) -> Findings:
    """Tell whether a folder is a whole checkpoint."""
    if is_one(folder):
        if why := why_not(folder, contents):
            return Findings(waiting=(why,), all_claimed=True, torn=folder.names)
        ready = Ready(step=step_along(folder.path), paths=folder.all_paths(), name=folder.path, rule=RULE)
        return Findings(checkpoints=(ready,), all_claimed=True)
    return NOTHING


def is_one(folder: Folder) -> bool:
    """Tell whether a folder is a checkpoint, whole or not."""
    return METADATA in folder.files or any(_SHARDS.fullmatch(name) for name in folder.files)


def why_not(folder: Folder, contents: Contents) -> str:
    """Return a sentence about what a checkpoint lacks; empty when it is whole."""
    own = folder.path or "."
    told = list(_told(folder))
    if not told:
        return f"{own} has no {METADATA} yet"
    if odd := next(iter(folder.odd.items()), None):
        return f"{folder.inner(odd[0])} {odd[1]}"
    for file in told:
        try:
            metadata = contents.of(file, read_metadata)
        except UnreadableError as error:
            return str(error)
        if metadata.why:
            return f"{file.path} {metadata.why}"
        if why := _lacks(folder, file, metadata):
            return why
    return whole.why_not(folder.all_files(), contents)


def why_not_in(folder: Folder, contents: Contents) -> str:
    """As `whole.why_not_in`, with the checkpoints of this rule in the folder."""
    if why := whole.why_not_in(folder, contents):
        return why
    return next((why for one in folder.all_folders() if is_one(one) and (why := why_not(one, contents))), "")


def _told(folder: Folder) -> Iterator[SourceFile]:
    """The metadata: one file, or one of each rank where ranks save without each other."""
    if METADATA in folder.files:
        yield folder.files[METADATA]
        return
    ranks = [int(found[1]) for name in folder.files if (found := _OF_RANK.fullmatch(name))]
    if sorted(ranks) == list(range(len(ranks))):
        yield from (folder.files[f"__{rank}{METADATA}"] for rank in ranks)


def _lacks(folder: Folder, told: SourceFile, metadata: Metadata) -> str:
    """Compare the files with what the metadata tells of them."""
    for name, end in metadata.ends.items():
        file = folder.file_at(name)
        if file is None:
            return f"{folder.inner(name)} is not there"
        if file.size < end:
            return f"{file.path} should have {end} bytes and has {file.size}"
        if file.identity.mtime_ns > told.identity.mtime_ns:
            return f"{file.path} was written after {told.path}, so it is being written again"
    return ""


def read_metadata(opened: Opened) -> Metadata:
    """Read which files there are, and how long each must be; for `Contents.of`. Nothing that the file names is made."""
    if opened.size > _MAX_METADATA_BYTES:
        return Metadata(f"has more than {_MAX_METADATA_BYTES} bytes", {})
    ends: dict[str, int] = {}

    def watch(what: object, state: object) -> None:
        if not isinstance(state, dict) or getattr(getattr(what, "of", None), "name", "") != "_StorageInfo":
            return
        path, offset, length = (state.get(name) for name in ("relative_path", "offset", "length"))
        if isinstance(path, str) and isinstance(offset, int) and isinstance(length, int):
            ends[path] = max(ends.get(path, 0), offset + length)

    try:
        scanned = scan(opened.read(0, opened.size), watch=watch)
    except PickleError as error:
        return Metadata(str(error), {})
    return Metadata("" if scanned.end == opened.size else "goes on behind its end", ends)
