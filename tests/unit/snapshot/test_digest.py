"""Digests of parts and of files."""

from __future__ import annotations

from blake3 import blake3

from ckptsync.snapshot.digest import DIGEST_BYTES, file_digest, part_count, part_digest, part_span


def test_a_file_of_one_part_has_the_digest_that_b3sum_shows() -> None:
    data = b"weights"
    assert file_digest([part_digest(data)]) == blake3(data).hexdigest()
    assert len(part_digest(data)) == 2 * DIGEST_BYTES


def test_an_empty_file_has_the_digest_of_nothing() -> None:
    assert file_digest([]) == blake3(b"").hexdigest()


def test_a_file_of_more_parts_has_the_digest_of_their_digests_in_order() -> None:
    parts = [part_digest(b"one"), part_digest(b"two")]
    assert file_digest(parts) == blake3(blake3(b"one").digest() + blake3(b"two").digest()).hexdigest()
    assert file_digest(parts) != file_digest(parts[::-1])


def test_bytes_in_any_kind_of_memory_have_one_digest() -> None:
    assert part_digest(b"abc") == part_digest(bytearray(b"abc")) == part_digest(memoryview(b"zabc")[1:])


def test_parts_cover_a_file_without_gap_or_overlap() -> None:
    for size in range(40):
        spans = [part_span(number, size, 7) for number in range(1, part_count(size, 7) + 1)]
        assert b"".join(bytes(range(40))[offset : offset + length] for offset, length in spans) == bytes(range(size))
        assert all(length == 7 for _, length in spans[:-1])
