"""Whatever is in it, however it is cut and whenever it was killed: a packed file comes back, and nothing is sent twice."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from ckptsync.events import Event
from ckptsync.options import MIB, Config, Transfer
from ckptsync.run import Run, run_on
from ckptsync.snapshot.encoding import BLOCK_BYTES, Shuffle, encoding_of, packed_bound
from ckptsync.snapshot.manifest import Provenance
from ckptsync.store.base import PartTag, StoreWrapper, Upload
from ckptsync.store.memory import MemoryStore
from ckptsync.testing.clock import FakeClock
from ckptsync.transfer.journal import journal_path
from ckptsync.transfer.packing import pack, unpack
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify

_SHUFFLES: tuple[Shuffle, ...] = (1, 2, 4, 8)
_PARTS = 4


def _content(seed: int, size: int) -> bytes:
    """Runs of noise, zeros and repetitions, in that mixture."""
    dice, pieces, left = random.Random(seed), [], size
    while left > 0:
        length = min(left, dice.choice([1, 3, 1000, 100_000, 700_000]))
        pieces.append(dice.choice([dice.randbytes, bytes, lambda n: (b"weights " * n)[:n]])(length))
        left -= length
    return b"".join(pieces)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1 << 30),
    size=st.integers(1, 3 * BLOCK_BYTES) | st.sampled_from([BLOCK_BYTES, 2 * BLOCK_BYTES]),
    shuffle=st.sampled_from(_SHUFFLES),
    least=st.integers(0, 100_000),
    blocks=st.integers(1, 3),
    cut=st.integers(1, 1 << 20),
)
def test_any_part_comes_back(seed: int, size: int, shuffle: Shuffle, least: int, blocks: int, cut: int) -> None:
    content = _content(seed, size)
    stored = pack(memoryview(content), memoryview(bytearray(packed_bound(size))), shuffle, min(least, size))
    assert len(stored) >= min(least, size)
    assert encoding_of(shuffle, [len(stored)]).fits(size, size)
    left = [stored]

    def read(count: int) -> memoryview:
        piece, left[0] = left[0][: min(cut, count)], left[0][min(cut, count) :]
        return piece

    room = memoryview(bytearray(blocks * BLOCK_BYTES))
    assert b"".join(bytes(piece) for piece in unpack(read, size, shuffle, room)) == content


class KilledError(BaseException):
    """As SIGKILL."""


class Killing(StoreWrapper):
    """Lets so many parts through, then ends everything."""

    def __init__(self, inner: MemoryStore) -> None:
        super().__init__(inner)
        self.left = -1
        self.sent: list[int] = []

    def put_part(self, upload: Upload, number: int, data: Any) -> PartTag:
        if self.left == 0:
            raise KilledError
        self.left -= 1
        self.sent.append(number)
        return super().put_part(upload, number, data)


def _ignore(event: Event) -> None:
    del event


@contextmanager
def _opened(part_bytes: int) -> Iterator[tuple[Run, Killing, Path]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch("ckptsync.verbs.sending.provenance", return_value=Provenance()),
        mock.patch("os.fsync"),
    ):
        store = Killing(MemoryStore())
        options = Transfer(part_bytes=part_bytes, workers=1, compress="zstd")
        config = Config(transfer=options, state_dir=f"{folder}/state")
        yield run_on(store, config, observer=_ignore, clock=FakeClock()), store, Path(folder).resolve()


@settings(max_examples=12)
@given(
    seed=st.integers(0, 1 << 30),
    kills=st.lists(st.integers(0, _PARTS), max_size=3),
    losses=st.lists(st.booleans(), min_size=3, max_size=3),
    changes=st.lists(st.sets(st.integers(1, _PARTS), max_size=2), min_size=3, max_size=3),
)
def test_killed_again_and_again_no_unchanged_part_is_sent_twice(
    seed: int, kills: list[int], losses: list[bool], changes: list[set[int]]
) -> None:
    with _opened(MIB) as (run, store, folder):
        source = folder / "model.bin"
        halves = (_content(seed + number, MIB // 2) + bytes([number]) * (MIB // 2) for number in range(_PARTS))
        content = bytearray(b"".join(halves))
        source.write_bytes(content)
        held: set[int] = set()  # parts the bucket has as they are on the disk
        for after, lost, changed in zip(kills, losses, changes, strict=False):
            store.left, store.sent = after, []
            try:
                save(run, source, step=7)
            except KilledError:
                pass
            else:
                break
            held |= set(store.sent)
            for number in changed:
                content[number * MIB - 1] ^= 255
            source.write_bytes(content)
            held -= changed
            if lost:
                journal_path(run.config.state_path(), run.url, source).unlink(missing_ok=True)
        store.left, store.sent = -1, []
        save(run, source, step=7)
        assert set(store.sent) <= set(range(1, _PARTS + 1)) - held
        assert verify(run).bad == ()
        restore(run, folder / "target")
        assert (folder / "target").read_bytes() == bytes(content)
        manifest = run.catalog.latest()
        assert manifest is not None
        assert manifest.files[0].packing


@settings(max_examples=15)
@given(seed=st.integers(0, 1 << 30), size=st.integers(0, 3 * MIB), part_mib=st.integers(1, 3), steps=st.integers(1, 3))
def test_any_file_comes_back_beside_any_earlier_one(seed: int, size: int, part_mib: int, steps: int) -> None:
    with _opened(part_mib * MIB) as (run, _, folder):
        source = folder / "model.bin"
        for step in range(steps):
            source.write_bytes(_content(seed, size) + _content(seed + step, step * 100_000))
            save(run, source, step=step)
            assert verify(run).bad == ()
            restore(run, folder / "target")
            assert (folder / "target").read_bytes() == source.read_bytes()
