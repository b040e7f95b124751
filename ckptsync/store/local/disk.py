"""Durable steps on a file system: a file appears whole, under its name, and stays after a power cut."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ckptsync.errors import (
    CkptsyncError,
    ConfigError,
    ConflictError,
    DeniedError,
    NotFoundError,
    StoreError,
    TransientError,
    UnsupportedError,
)

_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK}
_NO_EXCLUSIVE_RENAME = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF}
_ABSENT = (NotFoundError, "there is no {path}")
_TAKEN = (ConflictError, "{path} is there already")
_DENIED = (DeniedError, "{path} cannot be used: {why}; see who owns it and how it is mounted")
_FULL = (StoreError, "disk full at {path}: {needed_bytes} bytes needed: {why}")
_CLASH = (StoreError, "{path} cannot be both a file and a folder: {why}")
_SHAKY = (TransientError, "{path} failed: {why}")
_TABLE: dict[int, tuple[type[StoreError], str]] = {
    errno.ENOENT: _ABSENT,
    errno.ELOOP: _ABSENT,  # a symbolic link, opened without following it
    errno.EEXIST: _TAKEN,
    errno.EACCES: _DENIED,
    errno.EPERM: _DENIED,
    errno.EROFS: _DENIED,
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.ENOTDIR: _CLASH,
    errno.EISDIR: _CLASH,
    errno.EIO: _SHAKY,
    errno.ESTALE: _SHAKY,
    errno.EINTR: _SHAKY,
    errno.EAGAIN: _SHAKY,
    errno.ETIMEDOUT: _SHAKY,
}
_AT_FDCWD = -100
_RENAME_NOREPLACE = 1
_CHUNK_BYTES = 1 << 20


def translate(error: OSError, *, op: str, key: str, path: Path, needed_bytes: int = 0) -> CkptsyncError:
    """Turn what the operating system says into our own error: the one table.

    Args:
        error: from the operating system.
        op: the store verb.
        key: relative to the run.
        path: what was being touched.
        needed_bytes: size of what was being written.
    """
    why = os.strerror(error.errno) if error.errno else str(error)
    if error.errno == errno.ENAMETOOLONG:
        return ConfigError(f"key {key!r} is longer than the file system of {path} allows")
    kind, sentence = _TABLE.get(error.errno or 0, (StoreError, "{path} failed: {why}"))
    return kind(sentence.format(path=path, why=why, needed_bytes=needed_bytes), op=op, key=key)


def make_folder(folder: Path) -> None:
    """Make a folder and its missing ancestors, each of them durably. Safe to call again.

    Raises:
        FileNotFoundError: somebody removes folders at the same time; call again.
        NotADirectoryError: a file is in the way.
    """
    missing: list[Path] = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        with suppress(FileExistsError):
            path.mkdir()
        sync_folder(path.parent)


def file_above(folder: Path) -> Path | None:
    """Return the file that stands where `folder` or a folder above it should be; None when none does."""
    while not os.path.exists(folder) and folder != folder.parent:  # noqa: PTH110  Path.exists raises where it may not look
        folder = folder.parent
    return None if folder.is_dir() else folder


def sync_folder(folder: Path) -> None:
    """Write a folder's entries to the disk; one that is gone, or that its file system cannot sync, is left alone."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(fd)


def prune(folder: Path, root: Path) -> Path:
    """Remove a folder and its ancestors below `root` as far as they are empty; return the first that stays."""
    while folder != root:
        try:
            folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            break
        folder = folder.parent
    return folder


@contextmanager
def temporary(folder: Path) -> Iterator[tuple[int, Path]]:
    """Open a new file in an existing folder; what still bears its first name at the end is removed.

    Yields:
        A descriptor to read and write, and the path.
    """
    path = folder / secrets.token_hex(16)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        yield fd, path
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """Everything in a folder, in no order; nothing when there is no such folder."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except (FileNotFoundError, NotADirectoryError):
        return []


def remove_stale(folder: Path, before_s: float, *, spare: frozenset[str] = frozenset()) -> None:
    """Remove files and folders directly in `folder` that did not change since; what cannot be removed stays.

    Args:
        folder: where to look.
        before_s: seconds since the Unix epoch.
        spare: names to leave alone.
    """
    with suppress(OSError):
        for entry in entries(folder):
            with suppress(OSError):
                if entry.name in spare or entry.stat(follow_symlinks=False).st_mtime >= before_s:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink()


def octets(data: bytes | bytearray | memoryview) -> memoryview:
    """View a contiguous buffer of any item type as bytes, without copying."""
    view = memoryview(data)
    return view.cast("B") if view.nbytes else memoryview(b"")


def write(fd: int, data: memoryview) -> None:
    """Write all of `data`, of one-byte items, at the descriptor's position."""
    while data:
        data = data[os.write(fd, data) :]


def copy_range(source: int, target: int, offset: int, size: int) -> int:
    """Append bytes of one file to another, inside the kernel and sharing blocks where the file system can.

    Returns:
        Bytes copied; fewer than `size` when the source ends earlier.
    """
    copied = _copy_in_kernel(source, target, offset, size)
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, size - copied)))
    while copied < size:
        count = os.preadv(source, [buffer[: size - copied]], offset + copied)
        if not count:
            break
        write(target, buffer[:count])
        copied += count
    return copied


def _copy_in_kernel(source: int, target: int, offset: int, size: int) -> int:
    """Copy as much as copy_file_range will; some file systems refuse it, or claim the end at once."""
    if not hasattr(os, "copy_file_range"):
        return 0
    copied = 0
    while copied < size:
        try:
            count = os.copy_file_range(source, target, size - copied, offset_src=offset + copied)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}:
                raise
            break
        if not count:
            break
        copied += count
    return copied


def replace_by_link(name: Path, origin: Path, fd: int) -> bool:
    """Make `name` another name of the file that is open as `fd`, in place of the file it named.

    Returns:
        False when that cannot be done, or `origin` is another file by now; nothing changed then.
    """
    link = name.with_name(secrets.token_hex(16))
    try:
        os.link(origin, link, follow_symlinks=False)
    except OSError:
        return False
    try:
        is_same = os.path.samestat(link.lstat(), os.fstat(fd))
        if is_same:
            link.replace(name)
        return is_same
    finally:
        link.unlink(missing_ok=True)


def publish(temp: Path, path: Path, *, if_absent: bool) -> None:
    """Give a written and synced file its name, in a folder that exists; the folder is not synced.

    Args:
        temp: on the same file system; may keep its name too.
        path: the name.
        if_absent: leave alone what is there.

    Raises:
        FileExistsError: `if_absent`, and the name is taken.
        UnsupportedError: `if_absent`, and the file system knows no way to do that.
    """
    if not if_absent:
        temp.replace(path)
        return
    try:
        os.link(temp, path)
    except FileExistsError:
        if path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path)) from None
        # NFS sends a link again when the answer got lost, and then finds its own work
        if not _is_same(temp, path):
            raise
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        _rename_if_absent(temp, path)


def _is_same(one: Path, other: Path) -> bool:
    """Whether two names are of one file."""
    try:
        return os.path.samestat(one.lstat(), other.lstat())
    except FileNotFoundError:
        return False


def _rename_if_absent(source: Path, target: Path) -> None:
    """Rename, but never over anything: for file systems without hard links.

    Source: https://man7.org/linux/man-pages/man2/rename.2.html (RENAME_NOREPLACE)
    """
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    code = errno.ENOSYS
    if rename is not None:
        if rename(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
    if code in _NO_EXCLUSIVE_RENAME:
        raise UnsupportedError(
            f"the file system of {target.parent} can neither link nor rename exclusively, so two writers could commit over "
            "each other; set single_writer (--single-writer) if there is only one",
            op="put",
        )
    raise OSError(code, os.strerror(code), str(target))
