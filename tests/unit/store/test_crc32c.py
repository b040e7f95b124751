from __future__ import annotations

import time

import google_crc32c
from hypothesis import given
from hypothesis import strategies as st

from ckptsync.store.gcs.crc32c import combine


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_pieces_make_the_crc_of_the_whole(pieces: list[bytes]) -> None:
    whole = google_crc32c.value(b"".join(pieces))
    assert combine((google_crc32c.value(piece), len(piece)) for piece in pieces) == whole


def test_nothing_makes_the_crc_of_the_empty_message() -> None:
    assert combine([]) == google_crc32c.value(b"") == 0


@given(st.integers(min_value=0, max_value=(1 << 24) + 3), st.binary(min_size=1, max_size=9))
def test_a_long_run_of_zeros_in_front_or_behind(size_bytes: int, text: bytes) -> None:
    zeros = bytes(size_bytes)
    pieces = [(google_crc32c.value(text), len(text)), (google_crc32c.value(zeros), size_bytes)]
    assert combine(pieces) == google_crc32c.value(text + zeros)
    assert combine(reversed(pieces)) == google_crc32c.value(zeros + text)


def test_sizes_beyond_memory_agree_with_combining_in_steps() -> None:
    # 5 TiB in 10 000 parts, against the same in two halves
    part = (0x12345678, 512 << 20)
    half = combine([part] * 5000)
    began = time.process_time()
    whole = combine([part] * 10_000)
    assert time.process_time() - began < 5
    assert whole == combine([(half, 5000 * part[1]), (half, 5000 * part[1])])
