"""Folders of orbax's `CheckpointManager` and checkpointers: one has its name when all of it is written.

Source: orbax/checkpoint/_src/path/atomicity.py, AtomicRenameTemporaryPath
"""

from __future__ import annotations

import re

from ckptsync.readiness import whole
from ckptsync.readiness.base import NOTHING, Findings, Folder, Ready
from ckptsync.readiness.contents import Contents

RULE = "orbax"
METADATA = "_CHECKPOINT_METADATA"
STEP = re.compile(r"(?:.*_)?(\d+)")
_OF_ITEMS = frozenset({"_METADATA", "_sharding"})
_TEMPORARY = ".orbax-checkpoint-tmp"


def find(folder: Folder, contents: Contents) -> Findings:
    """Tell whether a folder is a whole checkpoint."""
    own = folder.path.rpartition("/")[2]
    if METADATA not in folder.files:
        begun = STEP.fullmatch(own) is not None and any(_OF_ITEMS & one.files.keys() for one in folder.all_folders())
        return Findings(waiting=(f"{folder.path} has no {METADATA} yet",), all_claimed=True) if begun else NOTHING
    for inner in folder.all_folders():
        if odd := next(iter(inner.odd.items()), None):
            return Findings(waiting=(f"{inner.inner(odd[0])} {odd[1]}",), all_claimed=True)
        if temporary := next((name for name in inner.folders if _TEMPORARY in name), None):
            return Findings(waiting=(f"{inner.inner(temporary)} is being written",), all_claimed=True)
    told = [file for file in folder.all_files() if file.location.name in {METADATA, *_OF_ITEMS}]
    if why := whole.why_not(folder.all_files(), contents) or whole.why_no_json(told, contents):
        return Findings(waiting=(why,), all_claimed=True)
    return Findings(checkpoints=(of(folder),), all_claimed=True)


def newest(folder: Folder) -> Ready | None:
    """Return the checkpoint of the highest step among the folders in one; None when there is none."""
    steps = {
        int(found[1]): inner
        for name, inner in folder.folders.items()
        if METADATA in inner.files and (found := STEP.fullmatch(name))
    }
    return of(steps[max(steps)]) if steps else None


def of(folder: Folder) -> Ready:
    """Return the checkpoint that a folder is. Its step is the number that its name ends with."""
    found = STEP.fullmatch(folder.path.rpartition("/")[2])
    return Ready(step=int(found[1]) if found else None, paths=folder.all_paths(), name=folder.path, rule=RULE)
