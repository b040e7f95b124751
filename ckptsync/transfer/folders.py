"""Folders as the operating system sees them: whose names fit, which are ours, and how the read-only ones are moved and deleted."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from pathlib import Path

from ckptsync.snapshot.layout import parse_snapshot_id

PARTIAL = ".ckptsync-partial"
_PARTIAL = re.compile(rf"\..+\.([^.]+){re.escape(PARTIAL)}", re.DOTALL)
_MAX_NAME_BYTES = 255
_OWNERS = 0o700


def is_partial(name: str) -> bool:
    """Tell whether a folder of this name is one in which a restore is prepared, or was when it was killed."""
    found = _PARTIAL.fullmatch(name)
    return found is not None and parse_snapshot_id(found[1]) is not None


def fitted_name(name: str, suffix: str) -> str:
    """Return `name` with a suffix, as one name that file systems take: what is too long is cut, and a digest tells it from others.

    Args:
        name: of at most 255 bytes.
        suffix: in ASCII.

    Source: NAME_MAX of Linux and macOS
    """
    whole = os.fsencode(name)
    if len(whole) + len(suffix) <= _MAX_NAME_BYTES:
        return f"{name}{suffix}"
    digest = hashlib.blake2b(whole, digest_size=8).hexdigest()
    kept = whole[: _MAX_NAME_BYTES - len(suffix) - len(digest) - 1].decode(errors="ignore")
    return f"{kept}~{digest}{suffix}"


def make_movable(path: Path) -> int | None:
    """Let a folder of ours be moved to another folder and be emptied, which takes the right to write to it.

    Returns:
        Its permission bits, when they were changed and may be given back; None otherwise, as for files and links.
    """
    found = path.lstat()
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISDIR(found.st_mode) or mode & _OWNERS == _OWNERS or found.st_uid != os.geteuid():
        return None
    path.chmod(mode | _OWNERS)
    return mode


def make_removable(folder: Path) -> None:
    """Let everything below a folder be deleted, as far as it is ours. Links are not followed."""
    make_movable(folder)
    for parent, names, _ in os.walk(folder):
        for name in names:
            make_movable(Path(parent, name))


def remove_tree(folder: Path, *, ignore_errors: bool = False) -> None:
    """Delete a folder with all that is below it, read-only folders too.

    Raises:
        OSError: something cannot be deleted, unless `ignore_errors`; the rest may be gone.
    """
    try:
        make_removable(folder)
        shutil.rmtree(folder)
    except OSError:
        if not ignore_errors:
            raise
