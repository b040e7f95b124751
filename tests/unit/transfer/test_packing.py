"""Parts as frames and back, and what a stranger's frames cannot do."""

from __future__ import annotations

import os
import random
import time
import tracemalloc
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from ckptsync.snapshot.encoding import BLOCK_BYTES, Shuffle, encoding_of, packed_bound
from ckptsync.transfer import sampling
from ckptsync.transfer.packing import Piece, pack, room_bytes, shuffled, unpack
from ckptsync.transfer.sampling import best_shuffle
from ckptsync.transfer.source import scan

SIZES = (1, 7, 1000, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 3, 3 * BLOCK_BYTES + 9)
SHUFFLES: tuple[Shuffle, ...] = (1, 2, 4, 8)


def packed(content: bytes, shuffle: Shuffle = 4, least_bytes: int = 0) -> bytes:
    return bytes(pack(memoryview(content), memoryview(bytearray(packed_bound(len(content)))), shuffle, least_bytes))


def reading(stored: bytes, most: int = 1 << 30) -> Callable[[int], memoryview]:
    """Give stored bytes away, at most so many at once."""
    left = [memoryview(stored)]

    def read(count: int) -> memoryview:
        piece, left[0] = left[0][: min(count, most)], left[0][min(count, most) :]
        return piece

    return read


def unpacked(stored: bytes, size: int, shuffle: Shuffle = 4, room: int | None = None, most: int = 1 << 30) -> bytes:
    view = memoryview(bytearray(size if room is None else room))
    return b"".join(bytes(piece) for piece in unpack(reading(stored, most), size, shuffle, view))


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [os.urandom, bytes, lambda size: (b"weights " * size)[:size]])
def test_what_is_packed_is_unpacked(make: Callable[[int], bytes], size: int, shuffle: Shuffle) -> None:
    content = make(size)
    stored = packed(content, shuffle)
    assert len(stored) <= packed_bound(size)
    assert unpacked(stored, size, shuffle) == content
    assert unpacked(stored, size, shuffle, room=BLOCK_BYTES, most=100_000) == content


def test_bytes_of_the_same_place_stand_together() -> None:
    assert bytes(shuffled(memoryview(b"abcdefghij"), 4)) == b"aebfcgdhij"
    assert bytes(shuffled(memoryview(b"abcdefghij"), 1)) == b"abcdefghij"


def test_the_same_bytes_are_packed_the_same_way() -> None:
    """So a part that the bucket has is known again without a journal."""
    content = os.urandom(1000) * 3000
    assert packed(content) == packed(content)


def test_a_part_is_a_sequence_of_frames_that_say_how_long_they_are() -> None:
    content = os.urandom(1000) * 3000
    stored, sizes = packed(content, 1), []
    while stored:
        head = zstandard.get_frame_parameters(stored)
        assert head.window_size <= BLOCK_BYTES
        sizes.append(head.content_size)
        frame = zstandard.ZstdDecompressor().decompressobj()
        frame.decompress(stored)
        stored = frame.unused_data
    assert sizes == [BLOCK_BYTES, BLOCK_BYTES, 3_000_000 - 2 * BLOCK_BYTES]


@pytest.mark.parametrize("least", [0, 100, 101, 117, 2 * BLOCK_BYTES])
def test_a_part_that_is_too_small_for_the_store_is_filled_up(least: int) -> None:
    content = bytes(2 * BLOCK_BYTES)
    bare = len(packed(content, 1))
    stored = packed(content, 1, least)
    assert max(least, bare) <= len(stored) <= max(least, bare) + 8
    assert unpacked(stored, len(content), 1) == content
    with zstandard.ZstdDecompressor().stream_reader(stored, read_across_frames=True) as reader:
        assert reader.read() == content  # any decoder passes over what was filled in


def test_a_part_is_packed_once_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    room = memoryview(bytearray(room_bytes(1000, 4)))
    piece = Piece(room, 1000, 4, 0)
    piece.plain[:] = b"x" * 1000
    stored = piece.stored
    monkeypatch.setattr("ckptsync.transfer.packing.pack", None)
    assert piece.stored is stored
    assert Piece(room, 1000, None, 0).stored == piece.plain
    assert room_bytes(1000, None) == 1000


# -- strangers -----------------------------------------------------------------------------------------------------------


def damaged(stored: bytes) -> dict[str, bytes]:
    flipped = bytearray(stored)
    flipped[0] ^= 1
    other = packed(os.urandom(BLOCK_BYTES))
    return {
        "nothing": b"",
        "noise": os.urandom(1000),
        "half a head": stored[:3],
        "half a frame": stored[: len(stored) // 2],
        "no magic number": bytes(flipped),
        "a frame is missing": other,
        "a frame too many": stored + other,
        "noise behind": stored + b"noise behind it",
    }


@pytest.mark.parametrize("what", damaged(b"1234"))
@pytest.mark.parametrize("room", [None, BLOCK_BYTES])
def test_what_is_no_such_part_comes_short(what: str, room: int | None) -> None:
    content = os.urandom(2 * BLOCK_BYTES + 5)
    assert len(unpacked(damaged(packed(content))[what], len(content), 4, room)) < len(content)


def bomb(size: int, window_log: int = 20) -> bytes:
    """One frame of zeros."""
    parameters = zstandard.ZstdCompressionParameters(window_log=window_log, compression_level=1)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    piece = bytes(16 << 20)
    return b"".join(compressor.compress(piece) for _ in range(size // len(piece))) + compressor.flush()


@pytest.mark.parametrize(
    "stored",
    [
        bomb(1 << 30),
        bomb(16 << 20, window_log=27),
        zstandard.ZstdCompressor().compress(b"") * 1_000_000,
        b"\x50\x2a\x4d\x18\xff\xff\xff\xff" + bytes(1000),
    ],
    ids=[
        "a gibibyte of zeros",
        "a window of 128 MiB",
        "a million empty frames",
        "a frame to pass over that never ends",
    ],
)
def test_bombs_cost_no_more_memory_or_time_than_the_part(stored: bytes) -> None:
    room = memoryview(bytearray(BLOCK_BYTES))
    tracemalloc.start()
    begun_s = time.process_time()
    try:
        pieces = [len(piece) for piece in unpack(reading(stored), BLOCK_BYTES, 4, room)]
        assert tracemalloc.get_traced_memory()[1] < 6 * BLOCK_BYTES
    finally:
        tracemalloc.stop()
    assert pieces == []
    assert time.process_time() - begun_s < 2


def test_a_window_larger_than_a_block_is_refused() -> None:
    """Whoever packs by the rules needs none; a decoder would take that much memory before it gave a byte."""
    content = bytes(BLOCK_BYTES)
    for window_log, wanted in ((20, content), (21, b"")):
        parameters = zstandard.ZstdCompressionParameters(window_log=window_log, compression_level=1)
        frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        stored = frame.compress(content) + frame.flush()
        assert zstandard.get_frame_parameters(stored).window_size == 1 << window_log
        assert unpacked(stored, BLOCK_BYTES, 1) == wanted


@pytest.mark.parametrize(
    ("ends", "size", "part_bytes", "good"),
    [
        ([10], 100, 100, True),
        ([10, 20], 200, 100, True),
        ([10, 10], 200, 100, False),
        ([20, 10], 200, 100, False),
        ([0], 100, 100, False),
        ([10], 200, 100, False),
        ([10, 20, 30], 200, 100, False),
        ([packed_bound(100)], 100, 100, True),
        ([packed_bound(100) + 1], 100, 100, False),
        ([10, 10 + packed_bound(50) + 1], 150, 100, False),
        ([packed_bound(100) + 1, packed_bound(100) + 11], 200, 100, False),
        ([(1 << 64) - 1], 100, 100, False),
        ([10], 1 << 40, 1 << 40, False),
    ],
)
def test_ends_that_make_no_sense(ends: list[int], size: int, part_bytes: int, good: bool) -> None:  # noqa: FBT001
    encoding = encoding_of(1, [end - begin for begin, end in zip([0, *ends], ends, strict=False)])
    if min(end - begin for begin, end in zip([0, *ends], ends, strict=False)) >= 0:
        assert encoding.size == ends[-1]
        assert [encoding.span(number + 1) for number in range(len(ends))] == [
            (begin, end - begin) for begin, end in zip([0, *ends], ends, strict=False)
        ]
    assert encoding.fits(size, part_bytes) is good


# -- does it pay? --------------------------------------------------------------------------------------------------------


@pytest.fixture
def floats() -> bytes:
    """Weights as trained nets have them, 32 bits each."""
    dice = random.Random(1)
    return array("f", [dice.gauss(0, 0.02) for _ in range(256 << 10)]).tobytes()


@pytest.fixture
def choose(tmp_path: Path) -> Callable[[bytes], Shuffle | None]:
    def make(content: bytes) -> Shuffle | None:
        (tmp_path / "file").write_bytes(content)
        (file,) = scan(tmp_path / "file", now_ns=0).files
        return best_shuffle(file)

    return make


def test_floats_are_shuffled(choose: Callable[[bytes], Shuffle | None], floats: bytes) -> None:
    assert choose(floats) == choose(floats * 3) == 4
    halves = b"".join(floats[place : place + 2] for place in range(2, len(floats), 4))  # as bfloat16 has them
    assert choose(halves) == 2
    doubles = array("d", array("f", floats)).tobytes()
    assert choose(doubles) in {4, 8}


def test_what_does_not_shrink_is_left_as_it_is(choose: Callable[[bytes], Shuffle | None]) -> None:
    assert choose(os.urandom(300_000)) is None
    assert choose(os.urandom(900_000) + bytes(80_000)) is None
    assert choose(bytes(sampling.SMALLEST_BYTES - 1)) is None


def test_what_shuffling_does_not_help_is_not_shuffled(choose: Callable[[bytes], Shuffle | None]) -> None:
    assert choose(bytes(sampling.SMALLEST_BYTES)) == 1
    assert choose(Path(__file__).read_bytes() * 10) == 1


def test_a_file_is_sampled_all_over(choose: Callable[[bytes], Shuffle | None]) -> None:
    noise = os.urandom(1 << 20)
    assert choose(bytes(33 << 20) + noise * 33) == 1
    assert choose(noise * 33 + bytes(33 << 20)) == 1
