"""What a scenario lies on: a bucket of some kind, a run on it whose requests can be made to fail, and trees to save."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from unittest.mock import patch

from ckptsync.errors import StoreError
from ckptsync.options import MIB, Config, Retry, Transfer
from ckptsync.run import Run, run_on
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Provenance
from ckptsync.store.base import Buffer, PartTag, Stat, Store, StoreWrapper, Upload
from ckptsync.store.local import LocalStore
from ckptsync.store.memory import MemoryStore
from ckptsync.store.retry import Retrying
from ckptsync.testing.clock import FakeClock
from ckptsync.testing.faults import Faulty

T = TypeVar("T")
Verified = tuple[str, str, tuple[str, ...]]
"""Key and tag of an object, and the digests its bytes have."""

_SHM = Path("/dev/shm")  # noqa: S108  only ever used below a fresh folder of a random name
IN_MEMORY = str(_SHM) if _SHM.is_dir() else None
"""Where writing costs nothing, where there is such a place."""

BEST, IMPORTED = "best", "imported"
AGE_S = 1000.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of bucket.

    Attributes:
        name: as the page shows it.
        traits: what it lacks.
        workers: parts in flight.
        on_disk: a directory, which vouches for no digests; else memory.
        single_writer: the user vouches for being alone.
    """

    name: str
    traits: dict[str, Any] = field(default_factory=dict)
    workers: int = 1
    on_disk: bool = False
    single_writer: bool = False


KINDS = (
    Kind("memory"),
    Kind("memory, 4 workers", workers=4),
    Kind("memory, no part copies", {"copy_part": False}),
    Kind("memory, no multipart", {"multipart": False, "copy_part": False}),
    Kind("memory, single writer", {"conditional_put": False}, single_writer=True),
    Kind("directory", on_disk=True),
)


class Answers(StoreWrapper):
    """Loses one answer, whether it says yes or no. (`Faulty` counts those that say yes.)"""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.seen: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.struck: tuple[str, int] | None = None
        self.strike: Callable[[], None] = lambda: None

    def heal(self) -> None:
        """Forget what was to be struck, and count anew."""
        self.seen.clear()
        self.struck = None

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        del key
        with self.lock:
            point = verb, self.seen[verb]
            self.seen[verb] += 1
        try:
            answer = request()
        except StoreError:
            self._lose(point)
            raise
        self._lose(point)
        return answer

    def _lose(self, point: tuple[str, int]) -> None:
        if point == self.struck:
            self.strike()


class Ledger(StoreWrapper):
    """Counts how often each piece of payload reached the bucket: `(path, part)`, part 0 for a whole object."""

    def __init__(self, inner: Store, traits: dict[str, Any]) -> None:
        super().__init__(inner)
        self.traits = replace(inner.traits, **traits)
        self.sent: list[tuple[str, int]] = []

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        made = self.inner.put(key, data, if_absent=if_absent)
        if key.startswith("data/") and made.size:
            self.sent.append((key.split("/", 2)[2], 0))
        return made

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        made = self.inner.put_part(upload, number, data)
        self.sent.append((upload.key.split("/", 2)[2], number))
        return made

    def repeats(self) -> int:
        """How many pieces came more than once."""
        return len(self.sent) - len(set(self.sent))


@dataclass(slots=True)
class Trees:
    """The old checkpoint, the new one, and an older one; made once, only ever read."""

    oldest: Path
    old: Path
    new: Path


def make_trees(root: Path) -> Trees:
    """A file of three parts of which the first never changes, small ones, an empty one, one that stays, a link."""
    dice = random.Random(11)
    first_part, same = dice.randbytes(MIB), dice.randbytes(3000)
    trees = Trees(*(root / name for name in ("oldest", "old", "new")))
    for tree in (trees.oldest, trees.old, trees.new):
        (tree / "sub" / "hollow").mkdir(parents=True)
        (tree / "model.bin").write_bytes(first_part + dice.randbytes(MIB + 7))
        (tree / "same.bin").write_bytes(same)
        (tree / "sub" / "state.json").write_bytes(dice.randbytes(40))
        (tree / "sub" / "empty").touch()
        (tree / "link").symlink_to("model.bin")
        for path in tree.rglob("*"):
            if not path.is_symlink():
                os.utime(path, (1_600_000_000, 1_600_000_000))
    return trees


class Bed:
    """A bucket, the run on it, and places on the disk.

    Attributes:
        inner: the bucket itself, to look at and to arrange.
        ledger: around it, counting.
        faulty: around that.
        answers: around that; what the run sees, with retries.
        run: the verbs' run.
        trees: to save.
        folder: for whatever this bed keeps on the disk.
        verified: versions of objects that were read and found good.
        remembered: the snapshot a scenario is about.
    """

    def __init__(self, kind: Kind, trees: Trees, folder: Path) -> None:
        self.kind, self.trees, self.folder = kind, trees, folder
        self.clock = FakeClock()
        self.inner: Store = LocalStore(folder / "bucket") if kind.on_disk else MemoryStore(clock=self.clock)
        self._numbers = itertools.count()
        self.verified: set[Verified] = set()
        self.remembered: SnapshotId | None = None
        self._open()

    def _open(self) -> None:
        self.ledger = Ledger(self.inner, self.kind.traits)
        self.faulty = Faulty(self.ledger)
        config = Config(
            transfer=Transfer(part_bytes=MIB, workers=self.kind.workers),
            state_dir=str(self.folder / "state"),
            single_writer=self.kind.single_writer,
        )
        self.answers = Answers(self.faulty)
        store = Retrying(self.answers, Retry(), clock=self.clock, observer=lambda _: None)
        self.run: Run = run_on(store, config, observer=lambda _: None, clock=self.clock)
        self.plain: Run = run_on(self.ledger, config, observer=lambda _: None, clock=self.clock)

    def cloned(self, folder: Path) -> Bed:
        """The same run in the same state, to go another way. Only of buckets in memory."""
        other = Bed(self.kind, self.trees, folder)
        here, there = self.inner, other.inner
        assert isinstance(here, MemoryStore)
        assert isinstance(there, MemoryStore)
        there._bucket.objects = dict(here._bucket.objects)
        there._bucket.order = list(here._bucket.order)
        there._bucket.uploads = {
            name: replace(pending, parts=dict(pending.parts)) for name, pending in here._bucket.uploads.items()
        }
        there._bucket.finished = dict(here._bucket.finished)
        there._bucket.generations = itertools.count(1_000_000)
        other.clock.advance(self.clock.monotonic())
        other.verified = set(self.verified)
        for name in ("state", "target"):
            if (self.folder / name).exists():
                shutil.copytree(self.folder / name, folder / name, symlinks=True)
        return other

    def heal(self) -> None:
        """Let nothing fail any more, and count anew."""
        self.faulty.heal()
        self.answers.heal()

    def place(self) -> Path:
        """A name nothing has."""
        return self.folder / f"place-{next(self._numbers)}"

    @property
    def grace_s(self) -> float:
        """A grace period that is over once the bed has aged."""
        return 0.0 if self.kind.on_disk else AGE_S / 2

    def age(self) -> None:
        """Let everything in the bucket become old: a directory, whose clock is the kernel's, by one tick of it."""
        self.clock.advance(AGE_S)
        if isinstance(self.inner, LocalStore) and self.inner.root.exists():
            newest_ns = max(path.lstat().st_ctime_ns for path in [self.inner.root, *self.inner.root.rglob("*")])
            probe = self.folder / "tick"
            probe.touch()
            while probe.stat().st_ctime_ns <= newest_ns:
                probe.touch()

    def lose_journal(self) -> None:
        """Forget what this machine knows of uploads."""
        shutil.rmtree(self.folder / "state", ignore_errors=True)


@contextmanager
def quick() -> Iterator[None]:
    """Leave out what only takes time: asking git, and waiting for the disk."""
    with patch("ckptsync.verbs.sending.provenance", lambda *_: Provenance()), patch("os.fsync", lambda _: None):
        yield
