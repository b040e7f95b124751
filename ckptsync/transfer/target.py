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
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ckptsync.errors import CkptsyncError, ConfigError, DiskError
from ckptsync.events import Event, Kind, Observer, log_observer
from ckptsync.snapshot.layout import SNAPSHOT_ID_LETTERS, parse_snapshot_id
from ckptsync.transfer.folders import (
    PARTIAL,
    fitted_name,
    is_empty_folder,
    make_movable,
    open_folder,
    remove_tree,
    stands_at,
)

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_TREE, _NOTE, _ASIDE = "tree", "swapping.json", "old"


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
        observer: told what became of old content that could not be deleted.
    """

    holder: Path
    target: Path
    inside: bool
    kind: Literal["directory", "file"] = "directory"
    observer: Observer = log_observer

    @property
    def tree(self) -> Path:
        """The folder to fill."""
        return self.holder / _TREE

    @property
    def is_moved_whole(self) -> bool:
        """Whether `tree` itself becomes the target."""
        return self.kind == "directory" and not self.inside

    def moves(self) -> dict[Path, Path]:
        """What goes where, by one rename each."""
        if self.kind == "file":
            return dict.fromkeys(self.tree.iterdir(), self.target)
        if not self.inside:
            return {self.tree: self.target}
        return {entry: self.target_of(entry.name) for entry in sorted(self.tree.iterdir())}

    def target_of(self, name: str) -> Path:
        """Where what is moved under this name goes."""
        return self.target / name if self.inside and self.kind == "directory" else self.target


@contextmanager
def landing(
    target: Path,
    name: str,
    *,
    expendable: Expendable,
    kind: Literal["directory", "file"] = "directory",
    observer: Observer = log_observer,
) -> Iterator[Landing]:
    """Make or find again the folder in which a restore of `name` to `target` is prepared, and lock it.

    Waits while another process fills the same. What restores of other snapshots left there is removed.

    Args:
        target: absolute, free of symbolic links.
        name: of the snapshot.
        expendable: decides about old content that a killed restore left in our folder.
        kind: whether a directory will appear at `target`, or a single file, which is to be put below `tree`.
        observer: told what a person should read.

    Raises:
        ConfigError: `target` is a file and the snapshot a directory, or the other way round, or it is neither, or the root of
            the file system.
        DiskError: no folder can be made there, or the disk is read-only or failing.
    """
    _check_replaceable(target, kind)
    inside = must_stay(target)
    folder, stem = (target, ".restore") if inside else (target.parent, _stem(target.name))
    place = Landing(folder / f"{stem}.{name}{PARTIAL}", target, inside, kind, observer)
    while True:
        with disk_errors(place.holder):
            place.holder.mkdir(parents=True, exist_ok=True)
            descriptor = open_folder(place.holder)
        if descriptor is None:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if not stands_at(descriptor, place.holder):
                continue
            with disk_errors(place.holder):
                _settle(place, expendable)
                if not stands_at(descriptor, place.holder):
                    continue
                _remove_others(place, _holders(folder, stem), expendable)
                place.tree.mkdir(exist_ok=True)
            yield place
            return
        finally:
            os.close(descriptor)


def _check_replaceable(target: Path, kind: Literal["directory", "file"]) -> None:
    """Refuse a target that a snapshot of this kind cannot take the place of.

    Raises:
        ConfigError: says why.
    """
    check_target(target)
    if target.exists() and target.is_dir() != (kind == "directory"):
        raise ConfigError(
            f"{target} is a {'directory' if target.is_dir() else 'file'}, and the snapshot is a {kind}; name another place"
        )
    if target == target.parent:
        raise ConfigError(f"{target} is the root of the file system; name a directory below it")


def check_target(target: Path) -> None:
    """Refuse what is neither a file nor a directory, and is certainly no checkpoint.

    Raises:
        ConfigError: a device, a pipe, a socket, a link that leads nowhere, or a name that no file system takes.
        DiskError: it cannot be looked at.
    """
    try:
        target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise DiskError(f"cannot look at {target}: {error.strerror}") from error
        raise ConfigError(f"{target} cannot be a place to restore to: {error.strerror}") from error
    with disk_errors(target):
        if target.is_file() or target.is_dir():
            return
    what = "a link that leads nowhere" if target.is_symlink() else "neither a file nor a directory"
    raise ConfigError(f"{target} is {what}, and is not replaced; name another place")


def _stem(name: str) -> str:
    """What the names of our folders beside a target begin with."""
    return fitted_name(f".{name}", f".{'0' * SNAPSHOT_ID_LETTERS}{PARTIAL}")[
        : -(SNAPSHOT_ID_LETTERS + len(PARTIAL) + 1)
    ]


def must_stay(target: Path) -> bool:
    """Tell whether a folder cannot be replaced, only its entries: it cannot be renamed, or we stand in it."""
    if not target.is_dir():
        return False
    if target.is_mount() or not os.access(target.parent, os.W_OK | os.X_OK):
        return True
    return os.path.samestat(target.stat(), os.stat("."))  # noqa: PTH116  Path.cwd() fails where the folder is gone


def _settle(place: Landing, expendable: Expendable) -> None:
    """Finish what a restore killed while it swapped began: what stood at the target is not ours to overwrite.

    Before the first swap inode and mode of everything to be moved are noted. An entry of the tree with another inode is the old
    content; what has the inode at the target has arrived, perhaps without its mode.
    """
    note = place.holder / _NOTE
    old: dict[Path, Path] = {}
    if note.exists():
        try:
            noted = json.loads(note.read_bytes())
        except ValueError:  # torn: written before the first swap, so nothing was swapped
            noted = {}
        for name, (inode, mode) in noted.items():
            target = place.target_of(name)
            if os.path.lexists(target) and target.lstat().st_ino == inode:
                _set_mode(target, mode)
        if noted and place.tree.exists():
            inodes = {name: inode for name, (inode, _) in noted.items()}
            old = {new: to for new, to in place.moves().items() if inodes.get(new.name) != new.lstat().st_ino}
    aside = place.holder / _ASIDE
    old |= {left: place.target_of(left.name) for left in aside.iterdir()} if aside.exists() else {}
    failed = [error for left, target in old.items() if (error := _retired(left, target, expendable)[1])]
    if failed:
        _set_aside(place, failed[0])
    else:
        note.unlink(missing_ok=True)


def _remove_others(mine: Landing, holders: Iterable[Path], expendable: Expendable) -> None:
    """Drop what restores of other snapshots to the same target left, unless one is under way."""
    for holder in holders:
        if holder == mine.holder or not holder.is_dir():
            continue
        if (descriptor := open_folder(holder)) is None:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _settle(replace(mine, holder=holder), expendable)
            remove_tree(holder, ignore_errors=True)
        finally:
            os.close(descriptor)


def _holders(folder: Path, stem: str) -> list[Path]:
    """Folders of restores to one target; its neighbours' names may begin with the same letters."""
    found = (
        entry
        for entry in folder.iterdir()
        if entry.name.startswith(f"{stem}.") and entry.name.endswith(PARTIAL) and not entry.is_symlink()
    )
    return [entry for entry in found if parse_snapshot_id(entry.name[len(stem) + 1 : -len(PARTIAL)])]


def put_in_place(place: Landing, *, expendable: Expendable) -> list[Path]:
    """Let the filled tree appear at the target: a reader sees the old content or the new, never a mixture.

    Args:
        place: filled, its files durable, every folder with its mode. What is moved gives its owner all rights meanwhile.
        expendable: decides about what stood at the target before.

    Returns:
        Where old content is that was not expendable, or could not be deleted; a notice tells the latter.

    Raises:
        DiskError: the disk refused; the target is as before (with `inside`, some entries may be replaced already).
    """
    kept: list[Path] = []
    failed: list[OSError] = []
    with disk_errors(place.target):
        moves = place.moves()
        noted = {new.name: (new.lstat().st_ino, stat.S_IMODE(new.lstat().st_mode)) for new in moves}
        _write_note(place.holder / _NOTE, noted)
        for new, target in moves.items():
            make_movable(new)
            keep, error = _replace(new, target, place.holder, expendable)
            kept += [keep] if keep else []
            failed += [error] if error else []
            _set_mode(target, noted[new.name][1])
        sync_folder(place.target if place.inside else place.target.parent)
        if not failed:
            try:
                remove_tree(place.holder)
            except OSError as error:
                failed.append(error)
        if failed and (keep := _set_aside(place, failed[0])):
            kept.append(keep)
    return kept


def _write_note(note: Path, noted: Mapping[str, tuple[int, int]]) -> None:
    """Note what is about to be swapped, durably: a swap that outlives a power cut must not do so without its note."""
    with note.open("w") as file:
        json.dump(noted, file)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(note.parent)


def _set_mode(path: Path, mode: int) -> None:
    """Give a folder its permission bits."""
    if path.is_dir() and not path.is_symlink() and stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)


def _replace(new: Path, target: Path, holder: Path, expendable: Expendable) -> tuple[Path | None, OSError | None]:
    """Put `new` where `target` is, and dispose of what was there; returns where that was kept, or why it is still in `holder`."""
    if not os.path.lexists(target) or (is_empty_folder(target) and new.is_dir() and not new.is_symlink()):
        new.rename(target)
        return None, None
    mode = make_movable(target)
    aside = holder / _ASIDE / new.name
    try:
        old = new if _exchange(new, target) else None
        if old is None:
            aside.parent.mkdir(exist_ok=True)
            target.rename(aside)
            new.rename(target)
    except OSError:
        if mode is not None and os.path.lexists(target):
            _set_mode(target, mode)
        raise
    keep, error = _retired(old or aside, target, expendable)
    if keep is not None and mode is not None:
        _set_mode(keep, mode)
    return keep, error


def _retired(old: Path, target: Path, expendable: Expendable) -> tuple[Path | None, OSError | None]:
    """As `_retire`; an error is returned, because the target is as it should be."""
    try:
        return _retire(old, target, expendable), None
    except OSError as error:
        return None, error


def _retire(old: Path, target: Path, expendable: Expendable) -> Path | None:
    """Delete what stood at the target, or keep it beside the target and return where."""
    try:
        is_expendable = expendable(old, target)
    except CkptsyncError:  # cannot be known now, and the target is as it should be
        is_expendable = False
    if is_expendable:
        _delete(old)
        return None
    keep = _free_name(target)
    old.rename(keep)
    return keep


def _set_aside(place: Landing, error: OSError) -> Path | None:
    """Move our folder out of the way of later restores, with the old content in it that can be neither deleted nor moved."""
    keep = _free_name(place.target / "replaced" if place.inside else place.target)
    try:
        place.holder.rename(keep)
    except OSError:
        keep = place.holder
    why = f"what stood at {place.target} before could not be deleted ({error.strerror or error})"
    place.observer(Event(kind=Kind.NOTICE, path=str(keep), message=f"{why}; what is left of it is in {keep}"))
    return keep


def _delete(path: Path) -> None:
    """Delete a file, link or folder."""
    if path.is_dir() and not path.is_symlink():
        remove_tree(path)
    else:
        path.unlink()


def _free_name(target: Path) -> Path:
    """A name beside the target that nothing has."""
    number = 1
    while os.path.lexists(keep := target.with_name(fitted_name(target.name, f".before-restore-{number}"))):
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
