"""A stranger who may write to the bucket: what a packed file of theirs cannot do."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard

from ckptsync.errors import IntegrityError, ManifestError, VersionError
from ckptsync.options import MIB
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FORMAT, MAX_PARTS, PACKED_VERSION, VERSION, decode
from ckptsync.snapshot.report import FORMAT as REPORT
from ckptsync.snapshot.report import decode_report
from ckptsync.transfer.packing import pack
from ckptsync.verbs.restore import restore
from ckptsync.verbs.verify import verify

EVIL = SnapshotId(9, 9, "stranger")
CONTENT = b"x" * 100
DIGEST = part_digest(CONTENT)


def ends(*places: int) -> str:
    return "".join(f"{place:016x}" for place in places)


def packed(*, size: int = 100, part_bytes: int = 100, parts: int = 1, **encoding: Any) -> dict[str, Any]:
    """An entry of one packed part, unless told otherwise."""
    return {
        "type": "file",
        "path": "x",
        "size": size,
        "key": "stuff/x",
        "part_bytes": part_bytes,
        "parts": [DIGEST] * parts,
        "encoding": {"name": "zstd", "shuffle": 1, "ends": ends(20)} | encoding,
    }


def manifest(*entries: dict[str, Any], version: int = PACKED_VERSION) -> bytes:
    facts = {"snapshot": str(EVIL), "commit_id": "", "created": "", "writer": {"host": "", "pid": 0}}
    return sealed(facts | {"entries": entries}, FORMAT, version)


def sealed(value: object, name: str, version: int) -> bytes:
    body = msgspec.json.encode(value)
    envelope = {"blake3": part_digest(body), "format": name, "manifest": msgspec.Raw(body), "version": version}
    return msgspec.json.encode(envelope)


@pytest.fixture
def forge(run: Run) -> Callable[..., None]:
    """Commit an entry, and what stands under its key."""

    def make(stored: bytes, **changed: Any) -> None:
        run.store.put("stuff/x", stored)
        run.store.put(layout.manifest_key(EVIL), manifest(packed(**({"ends": ends(len(stored))} | changed))))

    return make


def test_one_that_keeps_to_the_rules_is_read(run: Run, forge: Callable[..., None], target: Path) -> None:
    forge(bytes(pack(memoryview(CONTENT), memoryview(bytearray(2000)), 1)))
    assert verify(run).bad == ()
    restore(run, target)
    assert (target / "x").read_bytes() == CONTENT


@pytest.mark.parametrize(
    "entry",
    [
        packed(name="brotli"),
        packed(shuffle=3),
        packed(shuffle=0),
        packed(shuffle=1 << 20),
        packed(surprise=1),
        packed(ends=""),
        packed(ends="0"),
        packed(ends=ends(20) + "\n"),
        packed(ends=ends(20)[:-1] + "\n"),
        packed(ends=ends(20)[:-1] + " "),
        packed(ends=ends(20).upper().replace("1", "A")),
        packed(ends=ends(20).replace("0", "x")),
        packed(ends=[20]),
        packed(ends=20),
        packed(ends=ends(0)),
        packed(ends=ends(10, 20)),
        packed(ends=ends(10, 10), size=200, parts=2),
        packed(ends=ends(20, 10), size=200, parts=2),
        packed(ends=ends(1 << 40)),
        packed(ends=ends((1 << 64) - 1)),
        packed(ends=ends(20), size=1 << 40, part_bytes=1 << 40),
        packed(ends="", size=0, part_bytes=0, parts=0),
        packed() | {"encoding": None},
        packed() | {"encoding": []},
        packed() | {"encoding": "zstd"},
    ],
)
def test_a_manifest_that_says_impossible_things_is_refused(
    run: Run, target: Path, store: Any, entry: dict[str, Any]
) -> None:
    store.put("stuff/x", b"x" * 20)
    store.put(layout.manifest_key(EVIL), manifest(entry))
    with pytest.raises(ManifestError):
        restore(run, target, snapshot=str(EVIL))
    assert not target.exists()


def test_the_first_version_has_no_packed_files() -> None:
    """Another implementation of it would refuse them; so do we, lest nobody notices that such manifests are written."""
    assert decode(manifest(packed())).files[0].packing
    with pytest.raises(ManifestError, match="version 1 has a packed file"):
        decode(manifest(packed(), version=VERSION))
    with pytest.raises(VersionError, match="install a newer"):
        decode(manifest(packed(), version=PACKED_VERSION + 1))


def test_a_rank_reports_none() -> None:
    report = {"snapshot": str(EVIL), "rank": 0, "world": 1, "created": "", "writer": {"host": "", "pid": 0}}
    entry = packed() | {"key": layout.data_key(EVIL, "x")}
    with pytest.raises(ManifestError, match="ranks do not pack"):
        decode_report(sealed(report | {"entries": [entry]}, REPORT, 1), EVIL, 0, 1)


def bomb() -> bytes:
    """64 GiB of zeros in 2 MiB."""
    compressor = zstandard.ZstdCompressor(level=1).compressobj()
    piece = bytes(64 * MIB)
    one = b"".join(compressor.compress(piece) for _ in range(16)) + compressor.flush()
    return one * 64


@pytest.mark.parametrize(
    ("stored", "size"),
    [
        (bomb(), 4 * MIB),
        (zstandard.ZstdCompressor().compress(b"") * 400_000, 4 * MIB),
        (
            zstandard.ZstdCompressor(
                compression_params=zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
            )
            .compressobj(size=-1)
            .compress(b"x" * MIB)
            or b"x",
            4 * MIB,
        ),
    ],
    ids=["a bomb", "empty frames", "a large window"],
)
def test_hostile_frames_cost_no_more_than_the_part(
    run: Run, forge: Callable[..., None], target: Path, stored: bytes, size: int
) -> None:
    forge(stored, size=size, part_bytes=size)
    begun_s = time.process_time()
    tracemalloc.start()
    try:
        assert [bad.part for bad in verify(run, quarantine=False).bad] == [1]
        with pytest.raises(IntegrityError, match="part 1 of 1 of x"):
            restore(run, target)
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()
    assert time.process_time() - begun_s < 5
    assert not target.exists()


def test_a_part_of_a_gibibyte_costs_our_buffers(run: Run, forge: Callable[..., None]) -> None:
    """However large a part the manifest names, it goes through the memory that our options allow."""
    forge(bomb(), size=1 << 30, part_bytes=1 << 30)
    tracemalloc.start()
    try:
        assert verify(run, quarantine=False).bad
        assert tracemalloc.get_traced_memory()[1] < 16 * MIB
    finally:
        tracemalloc.stop()


def test_very_many_ends_cost_no_more_than_their_text() -> None:
    parts = MAX_PARTS // 10
    data = manifest(packed(size=parts, part_bytes=1, parts=parts, ends=ends(*range(1, parts + 1))))
    tracemalloc.start()
    try:
        assert decode(data).files[0].stored_size == parts
        assert tracemalloc.get_traced_memory()[1] < 4 * len(data)
    finally:
        tracemalloc.stop()
