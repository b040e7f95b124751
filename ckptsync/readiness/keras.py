"""Backups of `keras.callbacks.BackupAndRestore`: whole when the metadata, which is written last, is there.

Source: keras/src/callbacks/backup_and_restore.py, of Keras 3; HDF5 File Format Specification 3.0, II.A
"""

from __future__ import annotations

from ckptsync.readiness import whole
from ckptsync.readiness.base import NOTHING, Findings, Folder, Ready
from ckptsync.readiness.contents import Contents, Opened, UnreadableError

RULE = "keras"
WEIGHTS, METADATA = "latest.weights.h5", "training_metadata.json"
_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_SUPERBLOCK_BYTES = 64
_OFFSET_BYTES = 8
_PLACES = {0: (13, 40), 1: (13, 44), 2: (9, 28), 3: (9, 28)}
"""By version of the superblock: where the size of offsets is, and where the end of the file."""


def find(folder: Folder, contents: Contents) -> Findings:
    """Tell whether a folder is a whole backup."""
    if WEIGHTS not in folder.files:
        return NOTHING
    ready = newest(folder)
    if ready is None:
        return Findings(waiting=(f"{folder.path or '.'} has no {METADATA} yet",), all_claimed=True)
    if folder.files[WEIGHTS].identity.mtime_ns > folder.files[METADATA].identity.mtime_ns:
        why = f"{folder.inner(WEIGHTS)} was written after {METADATA}, so it is being written again"
        return Findings(waiting=(why,), all_claimed=True)
    why = _why_not(folder, contents)
    return Findings(waiting=(why,), all_claimed=True) if why else Findings(checkpoints=(ready,), all_claimed=True)


def newest(folder: Folder) -> Ready | None:
    """Return the backup; None when there is none. Nothing in it tells the step, and the next one is written in its place."""
    if not {WEIGHTS, METADATA} <= folder.files.keys():
        return None
    paths = folder.all_paths()
    return Ready(step=None, paths=paths, copied=paths, name=folder.path, rule=RULE)


def _why_not(folder: Folder, contents: Contents) -> str:
    """A sentence about a file that is cut short; empty when there is none."""
    try:
        if why := contents.of(folder.files[WEIGHTS], read_h5):
            return f"{folder.inner(WEIGHTS)} {why}"
    except UnreadableError as error:
        return str(error)
    return whole.why_not(folder.all_files(), contents)


def read_h5(opened: Opened) -> str:
    """Tell why a file of HDF5 is not whole; for `Contents.of`."""
    head = opened.read(0, _SUPERBLOCK_BYTES)
    if len(head) < _SUPERBLOCK_BYTES or not head.startswith(_SIGNATURE):
        return "is cut short or no file of HDF5"
    size_at, end_at = _PLACES.get(head[8], (0, 0))
    if not size_at or head[size_at] != _OFFSET_BYTES:
        return "is of a version of HDF5 that is not known here"
    end = int.from_bytes(head[end_at : end_at + _OFFSET_BYTES], "little")
    return "" if end == opened.size else f"should have {end} bytes and has {opened.size}"
