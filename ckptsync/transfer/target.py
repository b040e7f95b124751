"""Where a restore lands: filled aside, then put in place whole by one rename.

What stood there before is deleted only when the caller knows it to be in the bucket; otherwise it is kept beside the target
under another name.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ckptsync.errors import CkptsyncError, ConfigError, DiskError
from ckptsync.snapshot.layout import parse_snapshot_id

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_SUFFIX, _NOTE, _ASIDE = ".ckptsync-partial", "swapping.json", ".old"


Expendable = Callable[[Path, Path], bool]
"""Told where old content is now and where it stood; True lets it be deleted."""


@dataclass(frozen=True, slots=True)
class Landing:
    """A place being filled, held by a lock for as long as it is.

    Attributes:
        holder: our own folder, on the same filesystem as `target`.
        target: where the tree will appear.
        inside: `target` cannot be replaced (a mount point, the current directory, or its parent is not ours), so its
            entries are.
        kind: whether a tree or a single file will appear.
    """

    holder: Path
    target: Path
    inside: bool
    kind: Literal["directory", "file"] = "directory"

    @property
    def tree(self) -> Path:
        """The folder to fill."""
        return self.holder / "tree"

    def moves(self) -> dict[Path, Path]:
        """What goes where, by one rename each."""
        if self.kind == "file":
            return dict.fromkeys(self.tree.iterdir(), self.target)
        if not self.inside:
            return {self.tree: self.target}
        return {entry: self.target / entry.name for entry in sorted(self.tree.iterdir())}


@contextmanager
def landing(
    target: Path, name: str, *, expendable: Expendable, kind: Literal["directory", "file"] = "directory"
) -> Iterator[Landing]:
    """Make or find again the folder in which a restore of `name` to `target` is prepared, and lock it.

    Waits while another process fills the same. What restores of other snapshots left there is removed.

    Args:
        target: absolute, free of symbolic links.
        name: of the snapshot.
        expendable: decides about old content that a killed restore left in our folder.
        kind: whether a directory will appear at `target`, or a single file, which is to be put below `tree`.

    Raises:
        ConfigError: `target` is a file and the snapshot a directory, or the other way round.
        DiskError: no folder can be made there, or the disk is read-only or failing.
    """
    if target.exists() and target.is_dir() != (kind == "directory"):
        raise ConfigError(
            f"{target} is a {'directory' if target.is_dir() else 'file'}, and the snapshot is a {kind}; name another place"
        )
    inside = must_stay(target)
    folder, stem = (target, ".restore") if inside else (target.parent, f".{target.name}")
    place = Landing(folder / f"{stem}.{name}{_SUFFIX}", target, inside, kind)
    while True:
        with disk_errors(place.holder):
            place.holder.mkdir(parents=True, exist_ok=True)
            descriptor = _open_folder(place.holder)
        if descriptor is None:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_same(descriptor, place.holder):
                with disk_errors(place.holder):
                    _settle(place, expendable)
                    _remove_others(place, _holders(folder, stem), expendable)
                    place.tree.mkdir(exist_ok=True)
                yield place
                return
        finally:
            os.close(descriptor)


def must_stay(target: Path) -> bool:
    """Tell whether a folder cannot be replaced, only its entries: it cannot be renamed, or we stand in it."""
    if not target.is_dir():
        return False
    if target.is_mount() or not os.access(target.parent, os.W_OK | os.X_OK):
        return True
    return os.path.samestat(target.stat(), os.stat("."))  # noqa: PTH116  Path.cwd() fails where the folder is gone


def _settle(place: Landing, expendable: Expendable) -> None:
    """Finish what a restore killed while it swapped began: what stood at the target is not ours to overwrite.

    Before the first swap the inodes of everything to be moved are noted; an entry with another inode is the old content.
    """
    note = place.holder / _NOTE
    if note.exists():
        try:
            noted = json.loads(note.read_bytes())
        except ValueError:  # torn: written before the first swap, so nothing was swapped
            noted = {}
        for new, target in place.moves().items() if place.tree.exists() else ():
            if noted and noted.get(new.name) != new.lstat().st_ino:
                _retire(new, target, expendable)
        note.unlink()
    for left in place.holder.glob(f"*{_ASIDE}"):
        stood_at = place.target / left.name.removesuffix(_ASIDE) if place.inside else place.target
        _retire(left, stood_at, expendable)


def _remove_others(mine: Landing, holders: Iterable[Path], expendable: Expendable) -> None:
    """Drop what restores of other snapshots to the same target left, unless one is under way."""
    for holder in holders:
        if holder == mine.holder or not holder.is_dir():
            continue
        if (descriptor := _open_folder(holder)) is None:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _settle(replace(mine, holder=holder), expendable)
            shutil.rmtree(holder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether a folder we waited for still stands where it did."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _holders(folder: Path, stem: str) -> list[Path]:
    """Folders of restores to one target; its neighbours' names may begin with the same letters."""
    found = (
        entry
        for entry in folder.iterdir()
        if entry.name.startswith(f"{stem}.") and entry.name.endswith(_SUFFIX) and not entry.is_symlink()
    )
    return [entry for entry in found if parse_snapshot_id(entry.name[len(stem) + 1 : -len(_SUFFIX)])]


def _open_folder(folder: Path) -> int | None:
    """Open a folder to lock it; None when another restore removed it meanwhile."""
    try:
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None


def check_space(place: Path, needed_bytes: int) -> None:
    """Make sure that `needed_bytes` more fit on the disk of `place`.

    Raises:
        DiskError: they do not; says how many are free.
    """
    free = shutil.disk_usage(place).free
    if free < needed_bytes:
        raise DiskError(f"{place} has {free} bytes free and {needed_bytes} are needed; free some or restore elsewhere")


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


def disk_bytes(folder: Path) -> int:
    """Bytes that the files below a folder take up on the disk."""
    return sum(
        os.lstat(os.path.join(parent, name)).st_blocks * 512  # noqa: PTH118  os.walk yields text
        for parent, _, names in os.walk(folder)
        for name in names
    )


def put_in_place(place: Landing, *, expendable: Expendable) -> list[Path]:
    """Let the filled tree appear at the target: a reader sees the old content or the new, never a mixture.

    Args:
        place: filled, its files durable.
        expendable: decides about what stood at the target before.

    Returns:
        Where content that was not expendable was kept.

    Raises:
        DiskError: the disk refused; the target is as before (with `inside`, some entries may be replaced already).
    """
    kept: list[Path] = []
    with disk_errors(place.target):
        moves = place.moves()
        _write_note(place.holder / _NOTE, {new.name: new.lstat().st_ino for new in moves})
        for new, target in moves.items():
            if keep := _replace(new, target, place.holder, expendable):
                kept.append(keep)
        sync_folder(place.target if place.inside else place.target.parent)
        shutil.rmtree(place.holder)
    return kept


def _write_note(note: Path, inodes: Mapping[str, int]) -> None:
    """Note what is about to be swapped, durably: a swap that outlives a power cut must not do so without its note."""
    with note.open("w") as file:
        json.dump(inodes, file)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(note.parent)


def _replace(new: Path, target: Path, holder: Path, expendable: Expendable) -> Path | None:
    """Put `new` where `target` is, and dispose of what was there; returns where that was kept."""
    if not os.path.lexists(target) or (_is_empty_folder(target) and new.is_dir() and not new.is_symlink()):
        new.rename(target)
        return None
    if _exchange(new, target):
        return _retire(new, target, expendable)
    aside = holder / f"{new.name}{_ASIDE}"
    target.rename(aside)
    new.rename(target)
    return _retire(aside, target, expendable)


def _retire(old: Path, target: Path, expendable: Expendable) -> Path | None:
    """Delete what stood at the target, or keep it beside the target and return where."""
    if expendable(old, target):
        _delete(old)
        return None
    keep = _free_name(target)
    old.rename(keep)
    return keep


def _is_empty_folder(path: Path) -> bool:
    """Whether a path is a folder without entries."""
    if path.is_symlink() or not path.is_dir():
        return False
    with os.scandir(path) as entries:
        return next(entries, None) is None


def _delete(path: Path) -> None:
    """Delete a file, link or folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _free_name(target: Path) -> Path:
    """A name beside the target that nothing has."""
    number = 1
    while os.path.lexists(keep := target.with_name(f"{target.name}.before-restore-{number}")):
        number += 1
    return keep


def _exchange(one: Path, other: Path) -> bool:
    """Swap two paths in one step; False where the system cannot. Source: renameat2(2)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
        return False
    raise OSError(code, os.strerror(code), str(other))


def sync_folder(folder: Path) -> None:
    """Make names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(location: Path) -> Iterator[None]:
    """Turn an OSError about a path into ours, with its reason in words."""
    try:
        yield
    except CkptsyncError:
        raise
    except OSError as error:
        raise DiskError(f"cannot write {location}: {error.strerror or error}") from error
