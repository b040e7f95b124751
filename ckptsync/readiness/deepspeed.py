"""Directories that DeepSpeed's `save_checkpoint` writes: a tag's folder is whole when `latest`, which is written last, names it.

Source: deepspeed/runtime/engine.py, `save_checkpoint`, `_get_zero_ckpt_name`, `_get_ckpt_name`
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from ckptsync.errors import ConfigError, DiskError, IncompleteError
from ckptsync.readiness import whole
from ckptsync.readiness.base import NOTHING, Findings, Folder, Ready
from ckptsync.readiness.contents import Contents, Opened, told
from ckptsync.readiness.names import step_along

RULE = "deepspeed"
LATEST = "latest"
_NUMBER = re.compile(r"(\d+)$")
_STATES = re.compile(r".*_(?:model|optim)_states\.pt")
_OF_RANK = re.compile(r"(.*pp_rank_)(\d+)(_mp_rank_\d+.*_states\.pt)|(mp_rank_)(\d+)(_model_states\.pt)")
_MAX_TAG_BYTES = 4096


def find(folder: Folder, contents: Contents) -> Findings:
    """Tell whether the newest tag in a folder is whole."""
    tags = {name for name, inner in folder.folders.items() if any(_STATES.fullmatch(file) for file in inner.files)}
    if not tags and LATEST not in folder.files:
        return NOTHING
    if LATEST not in folder.files:
        return Findings(
            waiting=(f"{folder.path or '.'} has no file {LATEST} of DeepSpeed's yet",), claimed=frozenset(tags)
        )
    try:
        ready = newest(folder, contents)
    except (ConfigError, IncompleteError, DiskError) as error:
        return Findings(waiting=(str(error),), claimed=frozenset(tags | {LATEST})) if tags else NOTHING
    if not tags:  # another program's `latest`, which names a folder of its own
        return NOTHING
    if why := why_not(folder, contents):
        return Findings(waiting=(why,), claimed=frozenset(tags | {LATEST}))
    return Findings(checkpoints=(ready,), claimed=frozenset(tags | set(folder.files)))


def newest(folder: Folder, contents: Contents) -> Ready:
    """Return the checkpoint that `latest` names, and what lies beside the folders of tags.

    Raises:
        ConfigError: `latest` names no tag.
        IncompleteError: nothing is there by that name, or `latest` is being written.
        DiskError: it cannot be read.
    """
    tag = _tag(folder, contents)
    if tag not in folder.folders or not (of_tag := folder.folders[tag].all_paths()):
        raise IncompleteError(f"{LATEST} in {_place(folder)} names {tag}, and nothing is there")
    beside = frozenset(file.path for file in folder.files.values())
    number = _NUMBER.search(tag)
    return Ready(
        step=int(number[1]) if number else step_along(folder.path),
        paths=beside | of_tag,
        copied=beside,
        name=folder.inner(tag),
        rule=RULE,
    )


def why_not(folder: Folder, contents: Contents) -> str:
    """Return a sentence about what the newest tag lacks; empty when it is whole."""
    try:
        inner = folder.folders.get(_tag(folder, contents))
    except (ConfigError, IncompleteError, DiskError) as error:
        return str(error)
    if inner is None:
        return f"{folder.inner(LATEST)} names a folder that is not there"
    written = folder.files[LATEST].identity.mtime_ns
    for file in inner.all_files():
        if file.identity.mtime_ns > written:
            return f"{file.path} was written after {folder.inner(LATEST)}, so it is being written again"
    if missing := _missing(inner.files):
        return f"{inner.inner(missing)} is not there"
    if odd := next(iter(inner.odd.items()), None):
        return f"{inner.inner(odd[0])} {odd[1]}"
    return whole.why_not(inner.all_files(), contents)


def _missing(names: Mapping[str, object]) -> str:
    """A file of a rank that is not there, while one of a higher rank is."""
    ranks: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name in names:
        if found := _OF_RANK.fullmatch(name):
            before, number, behind = found.groups()[:3] if found[2] else found.groups()[3:]
            ranks[before, behind].add(number)
    for (before, behind), found_ranks in ranks.items():
        width = (
            len(max(found_ranks, key=len))
            if any(number.startswith("0") and len(number) > 1 for number in found_ranks)
            else 1
        )
        for number in range(min(max(map(int, found_ranks)), 1_000_000)):
            if f"{number:0{width}d}" not in found_ranks:
                return f"{before}{number:0{width}d}{behind}"
    return ""


def _tag(folder: Folder, contents: Contents) -> str:
    """The newest tag.

    Raises:
        ConfigError: what stands there is none.
        IncompleteError: it is being written.
        DiskError: it cannot be read.
    """
    with told():
        tag = contents.of(folder.files[LATEST], read_tag)
    if not tag or "/" in tag or tag in {".", ".."}:
        raise ConfigError(f"{folder.files[LATEST].location} names no tag")
    return tag


def read_tag(opened: Opened) -> str:
    """Read `latest`; for `Contents.of`. Empty when it is no text."""
    try:
        return opened.read(0, _MAX_TAG_BYTES).decode().strip()
    except UnicodeDecodeError:
        return ""


def _place(folder: Folder) -> str:
    """Where a folder is on this machine."""
    return str(folder.files[LATEST].location.parent)
