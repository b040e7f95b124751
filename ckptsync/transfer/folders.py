"""Folders as the operating system sees them: their names, their size, and how read-only ones are moved and deleted."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from ckptsync.errors import DiskError
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


def is_empty_folder(path: Path) -> bool:
    """Whether a path is a folder without entries."""
    if path.is_symlink() or not path.is_dir():
        return False
    with os.scandir(path) as entries:
        return next(entries, None) is None


def check_space(place: Path, needed_bytes: int) -> None:
    """Make sure that `needed_bytes` more fit on the disk of `place`.

    Raises:
        DiskError: they do not; says how many are free.
    """
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise DiskError(f"{place} has {free} bytes free and {needed_bytes} are needed; free some or restore elsewhere")


def disk_bytes(folder: Path) -> int:
    """Bytes that the files below a folder take up on the disk."""
    return sum(
        os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118  os.walk yields text
        for parent, _, names in os.walk(folder)
        for name in names
    )


def open_folder(folder: Path) -> int | None:
    """Open a folder to lock it; None when another restore removed it meanwhile."""
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def stands_at(descriptor: int, path: Path) -> bool:
    """Whether a folder we waited for still stands where it did."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def check_distinct(place: Path, paths: Iterable[str]) -> None:
    """Make sure that no two paths are one to the file system of `place`, as `a` and `A` are where it ignores case.

    Raises:
        DiskError: two are: one would be written over the other.
    """
    probe = place / "CASE"
    probe.touch()
    folds = (place / "case").exists()
    probe.unlink()
    seen: dict[str, str] = {}
    for path in paths if folds else ():
        if (other := seen.setdefault(unicodedata.normalize("NFC", path).casefold(), path)) != path:
            raise DiskError(
                f"{path!r} and {other!r} are one name to the file system of {place.parent}; restore elsewhere"
            )
