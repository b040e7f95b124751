"""Parts out of a bucket: fetched by ranges, hashed, and handed on only where they are what was committed.

A part that is larger than a buffer is read in windows: memory follows our own options, never what a manifest says. Of such a part
all but the last window are handed on before its digest is known.

A packed part needs room for its stored bytes as well; it is unpacked within that, and hashed as it was before it was packed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from ckptsync.errors import ConflictError, IntegrityError, NotFoundError, naming
from ckptsync.events import Event, Kind, Observer
from ckptsync.snapshot.digest import part_hasher, part_span
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.store.base import Store, Tag
from ckptsync.transfer.budget import Buffers
from ckptsync.transfer.packing import need_zstandard, unpack
from ckptsync.transfer.pipe import Done, Told


@dataclass(slots=True)
class Received:
    """Counts of one download; safe for many threads.

    Attributes:
        bytes_received: payload fetched and found good, as it is stored.
        bytes_kept: payload that was on the disk already, verified.
        parts_received: good parts fetched.
        parts_refetched: parts that were bad at the first try.
    """

    bytes_received: int = 0
    bytes_kept: int = 0
    parts_received: int = 0
    parts_refetched: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, *, received: int = 0, kept: int = 0, refetched: int = 0) -> None:
        """Count one part."""
        with self.lock:
            self.bytes_received += received
            self.bytes_kept += kept
            self.parts_received += bool(received)
            self.parts_refetched += refetched


_MOST_CONFLICTS = 2
"""One of a version that the manifest names and this bucket never had, and one of an object that was replaced since."""
_LONGEST_TAG = 256
Keep = Callable[[memoryview, int], None]
"""Given bytes and their offset in the file."""


def _drop(piece: memoryview, offset: int) -> None:
    """Keep nothing: the part is only looked at."""
    del piece, offset


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Fetches parts and believes none of them.

    Attributes:
        store: where from.
        buffers: memory for parts in flight.
        observer: told of every part.
        received: counts.
    """

    store: Store
    buffers: Buffers
    observer: Observer
    received: Received

    def hear(self, report: Told | Done) -> None:
        """Count what a helper did, and hand its events on."""
        if isinstance(report, Done):
            return
        self.observer(report.event)
        self.received.add(
            received=report.bytes if report.kind == Kind.RECEIVED else 0,
            kept=report.bytes if report.kind == Kind.SKIPPED else 0,
            refetched=report.kind == Kind.REFETCHED,
        )

    def window(self, entry: FileEntry, number: int) -> int:
        """How long a view a part is read through."""
        size = part_span(number, entry.size, entry.part_bytes)[1]
        return min(size + (entry.stored_span(number)[1] if entry.packing else 0), self.buffers.size_bytes)

    def fetch(
        self, entry: FileEntry, number: int, window: memoryview, tag: Tag | None, keep: Keep = _drop
    ) -> Tag | None:
        """Read one part, a second time when its digest does not match; the version it came from.

        Args:
            entry: the file.
            number: 1-based part number.
            window: memory to read through, 1 byte or more, at most as long as the part; of a packed part as long as `window` says.
            tag: version of the object all parts are read from; when it was replaced, the one that is there then. Whichever it
                is, the part is good only when its digest says so.
            keep: given the part piece by piece. The last piece, which of a part that goes into `window` is the whole, is
                given only when the part is good; those before it are worth nothing unless this returns.

        Raises:
            IntegrityError: bad twice; names file and part.
            ConflictError: the object was replaced again and again.
        """
        size = part_span(number, entry.size, entry.part_bytes)[1]
        attempts = conflicts = 0
        while True:
            try:
                with naming(entry.path, part=number, parts=len(entry.parts)):
                    read = self._read_packed if entry.packing else self._read
                    count, digest = read(entry, number, window, tag, keep)
            except ConflictError:
                conflicts += 1
                if conflicts > _MOST_CONFLICTS:
                    raise
                tag = self.pin(entry)
                continue
            if count == size and digest == entry.parts[number - 1]:
                self.received.add(received=entry.stored_span(number)[1], refetched=attempts)
                self.observer(Event(kind=Kind.RECEIVED, path=entry.path, bytes=size))
                return tag
            problem = "is not what was committed" if count == size else f"ends after {count} of {size} bytes"
            if attempts:
                break
            attempts += 1
            message = f"part {number} of {entry.path} {problem}; it is fetched once more"
            self.observer(Event(kind=Kind.REFETCHED, path=entry.path, bytes=size, message=message))
        raise IntegrityError(f"part {number} of {len(entry.parts)} of {entry.path} {problem} (key {entry.key!r})")

    def _read(self, entry: FileEntry, number: int, window: memoryview, tag: Tag | None, keep: Keep) -> tuple[int, str]:
        """Read a part once; how many bytes came, and their digest."""
        offset, size = part_span(number, entry.size, entry.part_bytes)
        hasher, done = part_hasher(), 0
        while True:
            piece = window[: min(len(window), size - done)]
            count = self.store.get(entry.key, piece, offset=offset + done, tag=tag)
            hasher.update(piece[:count])
            is_last = done + count == size
            if count < len(piece) or (is_last and hasher.hexdigest() != entry.parts[number - 1]):
                return done + count, hasher.hexdigest()
            keep(piece, offset + done)
            done += count
            if is_last:
                return done, hasher.hexdigest()

    def _read_packed(
        self, entry: FileEntry, number: int, window: memoryview, tag: Tag | None, keep: Keep
    ) -> tuple[int, str]:
        """Read and unpack a part once; how many bytes it made, and their digest."""
        assert entry.packing  # noqa: S101  only called with one
        offset, size = part_span(number, entry.size, entry.part_bytes)
        at, stored = entry.packing.span(number)
        hasher, done = part_hasher(), 0
        room, rest = _divided(window, size, stored)
        source = _Stored(self.store, entry.key, at, stored, tag=tag, window=rest)
        for piece in unpack(source.read, size, entry.packing.shuffle, room):
            hasher.update(piece)
            if done + len(piece) == size and hasher.hexdigest() != entry.parts[number - 1]:
                return size, hasher.hexdigest()
            keep(piece, offset + done)
            done += len(piece)
        return done, hasher.hexdigest()

    def expected(self, entry: FileEntry) -> Tag | None:
        """Return the version all parts of a file should come from; None when one request fetches it whole.

        It is the one that was committed. Where the bucket has been moved since, and its versions are others, `fetch` finds that out.

        Raises:
            IntegrityError: the manifest does not tell, and the object is gone or of another size.
        """
        if not entry.parts:
            return None
        once = entry.size + (entry.stored_size if entry.packing else 0)
        if len(entry.parts) == 1 and self.window(entry, 1) == once:
            return None
        # who knows what a stranger's manifest says
        known = entry.tag.isascii() and entry.tag.isprintable() and len(entry.tag) <= _LONGEST_TAG
        return Tag(entry.tag) if entry.tag and known else self.pin(entry)

    def pin(self, entry: FileEntry) -> Tag:
        """Return the version that is there now.

        Raises:
            IntegrityError: the object is gone or of another size.
        """
        try:
            with naming(entry.path):
                found = self.store.stat(entry.key)
        except NotFoundError as error:
            raise IntegrityError(f"{entry.path} is missing from the bucket (key {entry.key!r})") from error
        if found.size != entry.stored_size:
            raise IntegrityError(
                f"{entry.path} has {found.size} bytes in the bucket instead of {entry.stored_size} (key {entry.key!r})"
            )
        return found.tag


def _divided(window: memoryview, size: int, stored: int) -> tuple[memoryview, memoryview]:
    """Divide memory between a part and its stored bytes; where it is too small for both, each goes through its half in pieces."""
    if len(window) >= size + stored:
        return window[:size], window[size:]
    half = len(window) // 2  # a block or more, as `reading_buffers` sees to
    return window[:half], window[half:]


class _Stored:
    """The stored bytes of a part, fetched through a window when they are asked for."""

    def __init__(self, store: Store, key: str, offset: int, size: int, *, tag: Tag | None, window: memoryview) -> None:
        self._get = partial(store.get, key, tag=tag)
        self._next, self._end = offset, offset + size
        self._window = window
        self._there = window[:0]

    def read(self, count: int) -> memoryview:
        """Return at most `count` further bytes, none at the end of the part or of the object."""
        if not self._there:
            wanted = self._window[: self._end - self._next]
            self._there = wanted[: self._get(wanted, offset=self._next)] if wanted else wanted
            self._next = self._next + len(wanted) if len(self._there) == len(wanted) else self._end
        piece, self._there = self._there[:count], self._there[count:]
        return piece


def check_readable(entries: Iterable[FileEntry]) -> None:
    """Make sure that what packed files need is installed.

    Raises:
        ConfigError: one is packed, and `zstandard` is not there.
    """
    if any(entry.packing for entry in entries):
        need_zstandard()
