"""Files out of a bucket: ranged reads in parallel, each part hashed before it is written.

The files being filled are their own journal: what a killed restore left is hashed, and parts that match are not fetched
again. Parts not yet written are holes, which are recognised without reading them.

Of a part that is larger than a buffer all but the last window are on the disk before its digest is known, in a file that nobody sees
before every part is good.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from ckptsync.errors import ConflictError, IntegrityError, NotFoundError
from ckptsync.events import Event, Kind
from ckptsync.options import Transfer
from ckptsync.snapshot.digest import part_hasher, part_span
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import Tag
from ckptsync.transfer.helpers import SMALL_BYTES, Crew, move_with_help
from ckptsync.transfer.pipe import Fetch
from ckptsync.transfer.reader import Reader
from ckptsync.transfer.target import disk_errors
from ckptsync.transfer.workers import Task, run_tasks

_OPEN = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW


class _Target:
    """One file being filled."""

    def __init__(self, entry: FileEntry, location: Path, reader: Reader, *, done: Callable[[_Target], None]) -> None:
        self.entry = entry
        self.done = done
        self.location = location
        self.reader = reader
        self.left = len(entry.parts)
        self.lock = threading.Lock()
        self.tag: Tag | None = None
        self.descriptor = -1
        self.had_bytes = False

    def start(self) -> Iterable[Task]:
        """Open the file and give it its length."""
        self.tag = self.reader.expected(self.entry)
        with disk_errors(self.location):
            try:
                self.descriptor = os.open(self.location, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                self._open_again()
            if self.had_bytes or len(self.entry.parts) > 1:
                os.ftruncate(self.descriptor, self.entry.size)
        if not self.entry.parts:
            self._finish()
            return ()
        return [partial(self._part, number) for number in range(1, len(self.entry.parts) + 1)]

    def _open_again(self) -> None:
        """Open what an earlier restore has begun."""
        if self.location.is_file() and not self.location.is_symlink():
            self.location.chmod(0o600)  # it may have made it read-only
        self.descriptor = os.open(self.location, _OPEN, 0o600)
        self.had_bytes = os.fstat(self.descriptor).st_size > 0

    def _part(self, number: int) -> None:
        """Keep one part when it is there and good, else fetch and write it."""
        size = part_span(number, self.entry.size, self.entry.part_bytes)[1]
        with self.reader.buffers.take(self.reader.window(self.entry, number)) as window:
            if self._is_there(number, window):
                self.reader.received.add(kept=size)
                self.reader.observer(Event(kind=Kind.SKIPPED, path=self.entry.path, bytes=size))
            else:
                try:
                    self.tag = self.reader.fetch(self.entry, number, window, self.tag, self._write)
                except NotFoundError as error:
                    missing = f"{self.entry.path} is missing from the bucket (key {self.entry.key!r})"
                    raise IntegrityError(missing) from error
                except ConflictError as error:
                    raise IntegrityError(f"{self.entry.path} was replaced in the bucket while it was read") from error
        with self.lock:
            self.left -= 1
            last = not self.left
        if last:
            self._finish()

    def _is_there(self, number: int, window: memoryview) -> bool:
        """Whether an earlier restore left this part whole."""
        offset, size = part_span(number, self.entry.size, self.entry.part_bytes)
        if not self.had_bytes or _is_hole(self.descriptor, offset, size):
            return False
        hasher, done = part_hasher(), 0
        while done < size:
            piece = window[: size - done]
            with disk_errors(self.location):
                count = os.preadv(self.descriptor, [piece], offset + done)
            if count < len(piece):
                return False
            hasher.update(piece)
            done += count
        return hasher.hexdigest() == self.entry.parts[number - 1]

    def _write(self, view: memoryview, offset: int) -> None:
        """Put bytes where they belong."""
        done = 0
        with disk_errors(self.location):
            while done < len(view):
                done += os.pwrite(self.descriptor, view[done:], offset + done)

    def _finish(self) -> None:
        """Make the bytes durable and give the file its mode and time."""
        with disk_errors(self.location):
            os.fsync(self.descriptor)
            os.fchmod(self.descriptor, self.entry.mode & 0o777)
            if self.entry.mtime_ns:
                os.utime(self.descriptor, ns=(self.entry.mtime_ns, self.entry.mtime_ns))
        self.close()
        self.reader.observer(Event(kind=Kind.FILE_DONE, path=self.entry.path, bytes=self.entry.size, count=1))

    def close(self) -> None:
        """Close the file; safe to call again."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
        self.done(self)


def _is_hole(descriptor: int, offset: int, size: int) -> bool:
    """Whether nothing was ever written to a range; False where the filesystem cannot tell."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA) >= offset + size
    except OSError as error:
        return error.errno == errno.ENXIO


def fetch_whole(entry: FileEntry, folder: Path, reader: Reader) -> None:
    """Fill one file below `folder`, in this thread; it is durable when this returns. Errors are those of `download_files`."""
    target = _Target(entry, folder / entry.path, reader, done=lambda _: None)
    try:
        for task in target.start():
            task()
    except BaseException:
        target.close()
        raise


def _job(entry: FileEntry) -> Fetch | None:
    """What a helper is told that fetches it; None of what is large or packed."""
    is_small = entry.size <= SMALL_BYTES and len(entry.parts) <= 1 and not entry.packing
    return Fetch(entry) if is_small else None


def download_files(
    entries: Sequence[FileEntry], folder: Path, reader: Reader, transfer: Transfer, *, crew: Crew | None = None
) -> None:
    """Fill files below `folder`, whose directories are there already; each is durable when this returns.

    Args:
        entries: checked entries of one manifest.
        folder: where to.
        reader: what to fetch with.
        transfer: how many threads there may be.
        crew: processes that may help; None does everything here.

    Raises:
        IntegrityError: a file is missing, or a part was bad twice.
        DiskError: the disk is full or read-only.
        StoreError: the bucket failed for good. What was fetched stays for the next call.
    """
    targets: set[_Target] = set()

    def task(entry: FileEntry) -> Task:
        target = _Target(entry, folder / entry.path, reader, done=targets.discard)
        targets.add(target)
        return target.start

    def move(some: Iterable[FileEntry]) -> None:
        run_tasks(map(task, some), *transfer.threads)

    try:
        move_with_help(entries, crew, job=_job, move=move, hear=reader.hear, observer=reader.observer)
    except Exception:  # after Ctrl-C threads still write: their descriptors must not come to mean other files
        for target in list(targets):
            target.close()
        raise
