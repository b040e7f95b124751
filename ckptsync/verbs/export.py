"""Export: a snapshot as one archive that anybody can unpack. The weights alone are `ckptsync.state.export`'s."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ckptsync.errors import ConfigError
from ckptsync.events import Event, Kind
from ckptsync.run import Run
from ckptsync.snapshot.manifest import DirectoryEntry, Entry, FileEntry, LinkEntry, Manifest
from ckptsync.transfer.appearing import appearing
from ckptsync.transfer.budget import reading_buffers
from ckptsync.transfer.packing import compressing, need_zstandard
from ckptsync.transfer.reader import Reader, Received
from ckptsync.transfer.stream import Write, stream_files
from ckptsync.verbs.ladder import Reached, Skipped, newest_good

ARCHIVES = (".tar", ".tar.zst")
_NS_PER_S = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A file that was made of a snapshot.

    Attributes:
        snapshot: its id.
        step: training step.
        epoch: which writer of the run.
        out: the file.
        files: how many files of the snapshot are in it.
        tensors: how many tensors are in it; 0 where it is an archive.
        bytes: its size.
        bytes_sent: payload fetched, as it is stored.
        seconds: this call.
        skipped: newer snapshots that were bad or quarantined, the newest first.
        steps_lost: how much newer the newest of those was, 0 or more.
    """

    snapshot: str
    step: int
    epoch: int
    out: str
    files: int
    tensors: int = 0
    bytes: int
    bytes_sent: int
    seconds: float
    skipped: tuple[Skipped, ...] = ()
    steps_lost: int = 0


def export_archive(run: Run, out: Path, *, snapshot: str = "latest", fallback: bool = True) -> Exported:
    """Write a snapshot into a tar archive, which appears whole or not at all. Safe to call again: what stands at `out` is replaced.

    Folders, files and links stand in it each in the order of their paths, with modes and times (to the second) and without owners, so
    that a snapshot always gives the same archive; packed, the same for one version of zstd. Every part is verified before it is written. Nothing
    else is put on the disk.

    Args:
        run: where from.
        out: a file that ends in `.tar` or `.tar.zst`.
        snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias.
        fallback: with `latest`, take the next older snapshot when one is damaged or quarantined.

    Raises:
        NoSnapshotError: there is none, or not the one asked for.
        IntegrityError: every snapshot tried was bad.
        ConfigError: `out` cannot be used, or what packs it is not installed.
        DiskError: the disk is full or read-only.
        StoreError: the bucket failed for good.
    """
    begun_s = run.clock.monotonic()
    if not out.name.endswith(ARCHIVES):
        raise ConfigError(f"{out} names no archive; end it in .tar or .tar.zst")
    if out.suffix == ".zst":
        need_zstandard()
    reached = newest_good(run, snapshot, fallback=fallback, use=lambda reading, found: _archive(reading, found, out))
    return exported(reached, out, files=len(reached.manifest.files), seconds=run.clock.monotonic() - begun_s)


def exported(reached: Reached[int], out: Path, *, files: int, seconds: float, tensors: int = 0) -> Exported:
    """Sum up what was written.

    Args:
        reached: the snapshot, and how many bytes of payload were fetched.
        out: the file.
        files: of the snapshot that are in it.
        seconds: it took.
        tensors: that are in it.
    """
    return Exported(
        snapshot=reached.manifest.snapshot,
        step=reached.manifest.id.step,
        epoch=reached.manifest.id.epoch,
        out=str(out),
        files=files,
        tensors=tensors,
        bytes=out.stat().st_size,
        bytes_sent=reached.value,
        seconds=round(seconds, 3),
        skipped=reached.skipped,
        steps_lost=reached.steps_lost,
    )


def _archive(run: Run, manifest: Manifest, out: Path) -> int:
    """Write one snapshot; returns how many bytes of payload were fetched."""
    files, received = manifest.files, Received()
    run.observer(Event(kind=Kind.PLANNED, bytes=manifest.size, count=len(files)))
    with _opened(out) as write, reading_buffers(files, run.config.transfer) as buffers:
        tar = _Tar(write)
        for entry in manifest.entries:  # folders come first, since they may be empty
            if isinstance(entry, DirectoryEntry):
                tar.begin(entry)
        reader = Reader(store=run.store, buffers=buffers, observer=run.observer, received=received)
        stream_files(files, reader, run.config.transfer, begin=tar.begin, write=tar.write)
        for entry in manifest.entries:
            if isinstance(entry, LinkEntry):
                tar.begin(entry)
        tar.end()
    return received.bytes_received


@contextmanager
def _opened(out: Path) -> Iterator[Write]:
    """Open the archive, packed where its name says so."""
    with appearing(out) as file:
        if out.suffix != ".zst":
            yield file.write
            return
        with compressing(file) as write:
            yield write


class _Tar:
    """An archive being written from its beginning to its end. Source: POSIX.1-2017, pax, "ustar Interchange Format"."""

    def __init__(self, write: Write) -> None:
        """Write by `write`."""
        self._write = write
        self._size = 0

    def begin(self, entry: Entry) -> None:
        """Begin an entry; the content of a file follows."""
        self._fill(tarfile.BLOCKSIZE)
        self.write(memoryview(_header(entry).tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")))

    def write(self, piece: memoryview) -> None:
        """Add to it."""
        self._write(piece)
        self._size += len(piece)

    def end(self) -> None:
        """End the archive, as tar does, with two blocks of zeros and as many as fill a record."""
        self._fill(tarfile.BLOCKSIZE)
        self.write(memoryview(bytes(2 * tarfile.BLOCKSIZE)))
        self._fill(tarfile.RECORDSIZE)

    def _fill(self, unit: int) -> None:
        """Fill what is begun of a unit."""
        self.write(memoryview(bytes(-self._size % unit)))


def _header(entry: Entry) -> tarfile.TarInfo:
    """What tar is told of an entry."""
    header = tarfile.TarInfo(entry.path)
    if isinstance(entry, FileEntry):
        header.size, header.mode, header.mtime = entry.size, entry.mode & 0o777, entry.mtime_ns // _NS_PER_S
    elif isinstance(entry, DirectoryEntry):
        header.type, header.mode = tarfile.DIRTYPE, entry.mode & 0o777
    else:
        header.type, header.linkname, header.mode = tarfile.SYMTYPE, entry.target, 0o777
    return header
