"""The quarantine record, there and back."""

from __future__ import annotations

import pytest

from ckptsync.errors import ManifestError
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Writer
from ckptsync.snapshot.quarantine import Quarantine, decode_quarantine, encode_quarantine

ID = SnapshotId(2, 200, "abcdefgh")
RECORD = Quarantine(
    snapshot=str(ID),
    reason="w part 1: is not what was committed",
    created="2026-11-24T10:00:00.000Z",
    writer=Writer(host="node", pid=7),
    bad=(("w", 1, "is not what was committed"),),
    bad_count=1,
)


def test_what_goes_in_comes_out() -> None:
    assert decode_quarantine(encode_quarantine(RECORD), ID) == RECORD


def test_its_bytes_are_canonical() -> None:
    assert encode_quarantine(RECORD).startswith(b'{"bad":[["w",1,"is not')
    assert encode_quarantine(RECORD) == encode_quarantine(decode_quarantine(encode_quarantine(RECORD), ID))


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"\xff", b"[" * 100_000, encode_quarantine(RECORD).replace(b'"pid":7', b'"pid":7,"x":1')]
)
def test_damage_is_a_manifest_error(data: bytes) -> None:
    with pytest.raises(ManifestError, match="quarantine record"):
        decode_quarantine(data, ID)


def test_the_record_of_another_snapshot_is_refused() -> None:
    with pytest.raises(ManifestError, match="stands under the key of"):
        decode_quarantine(encode_quarantine(RECORD), SnapshotId(2, 201, "abcdefgh"))
