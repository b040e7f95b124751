"""What an attempt may write: read back with as little trust as a manifest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ckptsync.errors import ManifestError
from ckptsync.snapshot import attempt as attempts
from ckptsync.snapshot.attempt import Attempt, decode_attempt, encode_attempt
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Writer

ID = "00000001-000000000007-abcdefgh"


def make(**changed: Any) -> Attempt:
    facts: dict[str, Any] = {
        "snapshot": ID,
        "files": (("a", 1), ("b/ä", 2)),
        "created": "2026-01-01T00:00:00.000Z",
        "writer": Writer(host="node-1", pid=7),
    }
    return Attempt(**(facts | changed))


def test_it_comes_back_and_names_its_keys() -> None:
    found = decode_attempt(encode_attempt(make()), SnapshotId(1, 7, "abcdefgh"))
    assert found == make()
    assert found.keys == {f"data/{ID}/a", f"data/{ID}/b/ä"}
    assert found.size == 3


@pytest.mark.parametrize(
    "changed",
    [
        {"files": (("../x", 1),)},
        {"files": (("/x", 1),)},
        {"files": (("a", 1), ("a", 2))},
        {"files": (("a", -1),)},
        {"files": (("a" * 1000, 1),)},
        {"snapshot": "x"},
    ],
)
def test_unsafe_ones_are_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        decode_attempt(encode_attempt(make(**changed)))


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 100_000, b"\xff", b'{"snapshot":"\\ud800"}'])
def test_damaged_ones_are_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match="damaged"):
        decode_attempt(data)


def test_one_under_anothers_key_or_with_more_in_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ManifestError, match="stands under the key of"):
        decode_attempt(encode_attempt(make()), SnapshotId(2, 7, "abcdefgh"))
    with pytest.raises(ManifestError, match="damaged"):
        decode_attempt(msgspec.json.encode(msgspec.to_builtins(make()) | {"surprise": 1}))
    monkeypatch.setattr(attempts, "MAX_ATTEMPT_BYTES", 5)
    with pytest.raises(ManifestError, match="larger than 5"):
        decode_attempt(encode_attempt(make()))
