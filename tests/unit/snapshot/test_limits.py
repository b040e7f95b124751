"""What is larger than the limits is refused before it costs memory; what is within them, however large, is read."""

from __future__ import annotations

import json
import time
import tracemalloc
from collections.abc import Callable, Iterable

import pytest

from ckptsync.errors import ManifestError
from ckptsync.snapshot import attempt as attempts
from ckptsync.snapshot import envelope
from ckptsync.snapshot import manifest as manifests
from ckptsync.snapshot.attempt import decode_attempt
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.manifest import decode

ID = "00000001-000000000001-abcdefgh"
HEAD = f'{{"snapshot":"{ID}","commit_id":"","created":"","writer":{{"host":"","pid":1}},'.encode()
DIGEST = b'"%s"' % (b"0" * 64)
TIB = 1 << 40


def sealed(body: bytes) -> bytes:
    return b'{"blake3":"%s","format":"ckptsync-manifest","manifest":%s,"version":1}' % (
        part_digest(body).encode(),
        body,
    )


def with_entries(entries: Iterable[bytes]) -> bytes:
    return sealed(HEAD + b'"entries":[' + b",".join(entries) + b"]}")


def peak_of(data: bytes, refused: str) -> int:
    """Memory that refusing these bytes takes at most."""
    tracemalloc.start()
    try:
        with pytest.raises(ManifestError, match=refused):
            decode(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_file_of_48_tebibytes_in_ten_thousand_parts() -> None:
    part_bytes = 5 << 30
    size = 10_000 * part_bytes
    entry = b'{"type":"file","path":"p","key":"k","size":%d,"part_bytes":%d,"parts":[%s]}' % (
        size,
        part_bytes,
        b",".join([DIGEST] * 10_000),
    )
    (found,) = decode(with_entries([entry])).files
    assert found.size > 48 * TIB
    assert len(found.parts) == 10_000


def with_parts(*parts: bytes) -> bytes:
    entry = b'{"type":"file","path":"p","key":"k","size":%d,"part_bytes":1,"parts":[%s]}'
    return with_entries([entry % (len(parts), b",".join(parts))])


def test_a_manifest_is_read_without_another_copy_of_it() -> None:
    data = with_parts(*(b'"%064x"' % number for number in range(50_000)))
    tracemalloc.start()
    try:
        decode(data)
        assert tracemalloc.get_traced_memory()[1] < 2.3 * len(data)  # 1.8 times are the digests themselves
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("files", [100, 100_000])
def test_a_million_parts_are_read_in_a_second_and_300_mb(files: int) -> None:
    parts = 1_000_000 // files
    entry = b'{"type":"file","path":"%d","key":"%d","size":%d,"part_bytes":1,"parts":[%s]}'
    digests = b",".join(b'"%064x"' % number for number in range(parts))
    data = with_entries(entry % (number, number, parts, digests) for number in range(files))
    allowed_s = max(1, 2 * cpu_s(lambda: json.loads(data)))  # the latter where the machine is slow
    assert cpu_s(lambda: decode(data)) < allowed_s
    tracemalloc.start()
    try:
        assert sum(len(file.parts) for file in decode(data).files) == 1_000_000
        assert len(data) + tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()


def cpu_s(work: Callable[[], object]) -> float:
    """Processor time that something takes, the best of three."""
    took = []
    for _ in range(3):
        begun_s = time.process_time()
        work()
        took.append(time.process_time() - begun_s)
    return min(took)


@pytest.mark.parametrize("place", [0, 4095, 4096, 9_999])
@pytest.mark.parametrize("digest", [b"A" * 64, b"0" * 63 + b"g", b"0" * 63 + b" ", "é".encode() * 64])
def test_a_digest_that_is_none_is_found_among_ten_thousand(place: int, digest: bytes) -> None:
    parts = [DIGEST] * 10_000
    parts[place] = b'"%s"' % digest
    with pytest.raises(ManifestError, match="not BLAKE3"):
        decode(with_parts(*parts))


def test_fifty_thousand_small_files() -> None:
    entry = b'{"type":"file","path":"d%02d/f%d","key":"data/x/d%d/f%d","size":1,"part_bytes":1,"parts":[%s]}'
    data = with_entries(entry % (n % 50, n, n % 50, n, DIGEST) for n in range(50_000))
    assert len(decode(data).entries) == 50_000
    assert len(data) * 20 < envelope.MAX_MANIFEST_BYTES  # a million fit


def test_parts_that_are_no_digests_cost_nothing() -> None:
    data = with_entries(
        [b'{"type":"file","path":"p","key":"k","size":1,"part_bytes":1,"parts":[%s]}' % b",".join([b'"a"'] * 5_000_000)]
    )
    assert peak_of(data, "parts") < 2 * len(data)


def test_entries_are_counted_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_ENTRIES", 10_000)
    data = with_entries(b'{"type":"directory","path":"%x"}' % n for n in range(100_000))
    assert peak_of(data, "more than 10000 entries") < 2 * len(data)


def test_what_stands_beside_the_entries_is_bounded() -> None:
    data = sealed(HEAD + b'"entries":[],"meta":{%s}}' % b",".join(b'"%x":""' % n for n in range(2_000_000)))
    assert peak_of(data, "beside its entries") < 2 * len(data)


def test_entries_that_are_there_twice_are_no_way_around_it() -> None:
    """The last of two members counts, and is what is measured."""
    many = b",".join(b'"%x":""' % n for n in range(2_000_000))
    data = sealed(HEAD + b'"meta":{%s},"entries":[],"entries":[]}' % many)
    assert peak_of(data, "beside its entries") < 2 * len(data)


def test_deep_paths_make_no_more_folders_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifests, "MAX_FOLDERS", 1000)
    deep = b"/".join([b"a"] * 400)
    data = with_entries(b'{"type":"symlink","path":"%x/%s","target":"b"}' % (n, deep) for n in range(100))
    assert peak_of(data, "more than 1000 folders") < 20 * len(data)


@pytest.mark.parametrize("member", ["entries", "meta", "unknown"])
@pytest.mark.parametrize("bracket", [b"[", b'{"a":'])
def test_deep_nesting_is_refused(member: str, bracket: bytes) -> None:
    with pytest.raises(ManifestError):
        decode(sealed(HEAD + b'"%s":' % member.encode() + bracket * 1_000_000 + b"}"))
    with pytest.raises(ManifestError):
        decode(b'{"%s":' % member.encode() + bracket * 1_000_000)
    with pytest.raises(ManifestError):
        decode_attempt(b'{"files":' + bracket * 1_000_000)


def test_a_manifest_that_is_too_large_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(envelope, "MAX_MANIFEST_BYTES", 1000)
    with pytest.raises(ManifestError, match="larger than 1000"):
        decode(b"x" * 1001)


def test_files_of_a_journal_are_counted_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "MAX_ENTRIES", 1000)
    names = b",".join(b'["%x",0]' % n for n in range(100_000))
    with pytest.raises(ManifestError, match="more than 1000"):
        decode_attempt(
            b'{"snapshot":"%s","created":"","writer":{"host":"","pid":1},"files":[%s]}' % (ID.encode(), names)
        )
    some = b",".join(b'["%x",0]' % n for n in range(1001))
    with pytest.raises(ManifestError, match="1001 files"):
        decode_attempt(
            b'{"snapshot":"%s","created":"","writer":{"host":"","pid":1},"files":[%s]}' % (ID.encode(), some)
        )
