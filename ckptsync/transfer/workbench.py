"""What the upload of every file works with: the store, memory, the journal, counts, and where files are cut."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ckptsync.errors import ConfigError
from ckptsync.events import Event, Kind, Observer
from ckptsync.options import MIB, Transfer
from ckptsync.snapshot.digest import part_count
from ckptsync.snapshot.layout import SnapshotId, data_key
from ckptsync.store.base import Stat, Store, Traits, Upload
from ckptsync.transfer.budget import Buffers
from ckptsync.transfer.journal import Journal


@dataclass(slots=True)
class Tally:
    """Counts of one upload; safe for many threads.

    Attributes:
        bytes_sent: payload that crossed the network, as it is stored.
        bytes_reused: payload that was in the bucket already or was copied there, as it is stored.
        parts_sent: requests that carried payload.
    """

    bytes_sent: int = 0
    bytes_reused: int = 0
    parts_sent: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def sent(self, size: int) -> None:
        """Count a part that was sent."""
        with self.lock:
            self.bytes_sent += size
            self.parts_sent += 1

    def reused(self, size: int) -> None:
        """Count bytes that were not sent."""
        with self.lock:
            self.bytes_reused += size


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What the bucket shows of an earlier attempt whose journal is lost.

    Attributes:
        uploads: unfinished uploads by path.
        objects: finished files by path.
    """

    uploads: Mapping[str, Upload]
    objects: Mapping[str, Stat]


NOTHING_LEFT = Leftovers(uploads={}, objects={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What every file's upload works with.

    Attributes:
        store: where to.
        snapshot: the attempt, which makes the keys.
        transfer: part size and workers.
        buffers: memory for parts in flight.
        journal: where progress is noted.
        observer: told of every part.
        tally: counts.
        check_not_fenced: raises FencedError when a newer writer owns the run.
        shared: other ranks may write the same keys; whoever is first with a file of one part keeps it.
    """

    store: Store
    snapshot: SnapshotId
    transfer: Transfer
    buffers: Buffers
    journal: Journal
    observer: Observer
    tally: Tally
    check_not_fenced: Callable[[], None] = lambda: None
    shared: bool = False

    @property
    def packs(self) -> bool:
        """Whether files may be packed. Not where other ranks may write the same keys: the same content must then be the same bytes."""
        return self.transfer.compress != "none" and not self.shared

    def tell_sent(self, path: str, size: int, stored: int | None = None) -> None:
        """Count a part that was sent as it is stored, which is `size` unless told, and tell it as it is in the file."""
        self.tally.sent(size if stored is None else stored)
        self.observer(Event(kind=Kind.SENT, path=path, bytes=size))

    def tell_reused(self, path: str, size: int, stored: int | None = None) -> None:
        """Count bytes that were not sent as they are stored, and tell them as they are in the file."""
        self.tally.reused(size if stored is None else stored)
        self.observer(Event(kind=Kind.REUSED, path=path, bytes=size))

    def key(self, path: str) -> str:
        """Where a file of this attempt goes."""
        return data_key(self.snapshot, path)


def choose_part_bytes(size: int, wanted: int, traits: Traits, path: str) -> int:
    """Return the smallest multiple of 1 MiB, at least `wanted`, that fits a file into the store's number of parts.

    A store without multipart uploads takes every file as one part.

    Raises:
        ConfigError: the file is too large for this store.
    """
    if size > (traits.max_parts * traits.max_part_bytes if traits.multipart else traits.max_put_bytes):
        raise ConfigError(f"{path} has {size} bytes, more than this store takes as one object")
    if not traits.multipart:
        return max(wanted, -(-size // MIB) * MIB)
    needed = max(-(-size // traits.max_parts), traits.min_part_bytes)
    chosen = max(wanted, -(-needed // MIB) * MIB)
    return min(chosen, traits.max_part_bytes)


def fits(part_bytes: int, size: int, traits: Traits) -> bool:
    """Tell whether a file may be cut so; a part size from an earlier run or another store need not."""
    return max(traits.min_part_bytes, MIB) <= part_bytes <= traits.max_part_bytes and part_count(size, part_bytes) <= (
        traits.max_parts if traits.multipart else 1
    )
