"""A required signature: whatever is changed about a manifest, the key that signed it no longer did."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.keys import key_pair

from ckptsync.errors import ManifestError
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FORMAT, VERSION, Manifest, Writer, decode, encode
from ckptsync.snapshot.signature import DOMAIN, Keys, PublicKey, Signer, message, private_key, public_key, signed

SNAPSHOT = SnapshotId(1, 7, "abcdefgh")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    """A signer whose own signature is required."""
    return keys_in(tmp_path, "mine")


def keys_in(folder: Path, name: str) -> Keys:
    private, public = key_pair(folder, name)
    return Keys(
        signer=private_key(private.read_bytes(), str(private)), required=(public_key(public.read_bytes(), str(public)),)
    )


def manifest(snapshot: SnapshotId = SNAPSHOT, **changed: Any) -> Manifest:
    facts: dict[str, Any] = {"commit_id": "c", "created": "", "entries": (), "meta": {"colour": "green"}}
    return Manifest(snapshot=str(snapshot), writer=Writer(host="node-1", pid=7), **(facts | changed))


def envelope(data: bytes) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(data)
    return found


def put_together(parts: dict[str, Any]) -> bytes:
    """An envelope with the manifest's own digest, as a stranger who knows the format makes it."""
    body = msgspec.json.encode(parts["manifest"], order="sorted")
    return msgspec.json.encode(parts | {"manifest": msgspec.Raw(body), "blake3": part_digest(body)}, order="sorted")


def test_what_was_signed_is_read_with_the_key_and_without(keys: Keys) -> None:
    data = encode(manifest(), keys.signer)
    assert decode(data, SNAPSHOT, required=keys.required) == manifest()
    assert decode(data, SNAPSHOT) == manifest()
    assert msgspec.json.encode(envelope(data), order="sorted") == data
    assert list(envelope(data)) == ["blake3", "format", "manifest", "signature", "version"]


def test_the_same_manifest_and_key_give_the_same_bytes(keys: Keys) -> None:
    assert encode(manifest(), keys.signer) == encode(manifest(), keys.signer)


def test_the_message_is_the_one_of_the_specification(keys: Keys) -> None:
    assert message("name", 1, b"{}") == b"ckptsync signature of a manifest\nname\n1\n{}"
    assert keys.signer is not None
    data = encode(manifest(), keys.signer)
    body = msgspec.json.encode(manifest(), order="sorted")
    value = keys.signer.sign(b"%s\n%s\n%d\n%s" % (DOMAIN, FORMAT.encode(), VERSION, body)).hex()
    assert envelope(data)["signature"] == {"key": keys.signer.public.id, "value": value}


def test_unsigned_is_refused(keys: Keys) -> None:
    with pytest.raises(ManifestError, match="is not signed") as refused:
        decode(encode(manifest()), SNAPSHOT, required=keys.required)
    assert keys.required[0].id in str(refused.value)


def test_stripped_is_refused(keys: Keys) -> None:
    parts = envelope(encode(manifest(), keys.signer))
    del parts["signature"]
    assert decode(put_together(parts), SNAPSHOT) == manifest()
    with pytest.raises(ManifestError, match="is not signed"):
        decode(put_together(parts), SNAPSHOT, required=keys.required)


def test_another_keys_signature_is_refused(keys: Keys, tmp_path: Path) -> None:
    other = keys_in(tmp_path, "other")
    with pytest.raises(ManifestError, match="is signed by"):
        decode(encode(manifest(), other.signer), SNAPSHOT, required=keys.required)
    both = keys.required + other.required
    assert decode(encode(manifest(), other.signer), SNAPSHOT, required=both) == manifest()
    assert decode(encode(manifest(), keys.signer), SNAPSHOT, required=both) == manifest()


def test_another_keys_signature_under_our_keys_name_is_refused(keys: Keys, tmp_path: Path) -> None:
    other = keys_in(tmp_path, "other").signer
    assert other is not None
    liar = Signer(keys.required[0], other.sign)
    with pytest.raises(ManifestError, match="was altered"):
        decode(encode(manifest(), liar), SNAPSHOT, required=keys.required)


def test_a_signature_moved_to_another_snapshot_is_refused(keys: Keys) -> None:
    later = SnapshotId(2, 8, "zzzzzzzz")
    good = envelope(encode(manifest(), keys.signer))
    moved = envelope(encode(manifest(later))) | {"signature": good["signature"]}
    with pytest.raises(ManifestError, match="was altered"):
        decode(put_together(moved), later, required=keys.required)
    with pytest.raises(ManifestError, match="stands under the key of"):
        decode(put_together(good), later, required=keys.required)


@pytest.mark.parametrize(
    "changed",
    [
        {"manifest": {"meta": {"colour": "red"}}},
        {"manifest": {"parent": "x"}},
        {"manifest": {"commit_id": "d"}},
        {"format": "other"},
        {"version": 2},
        {"blake3": "0" * 64},
        {"signature": None},
        {"signature": 5},
        {"signature": {}},
        {"signature": {"value": ""}},
        {"signature": {"value": "0" * 128}},
        {"signature": {"value": "zz"}},
        {"signature": {"key": ""}},
        {"signature": {"key": "0" * 16}},
        {"signature": {"extra": 1}},
        {"signature": [[]]},
    ],
)
def test_every_member_is_held_to_it(keys: Keys, changed: dict[str, Any]) -> None:
    parts = envelope(encode(manifest(), keys.signer))
    for name, value in changed.items():
        mixes = isinstance(value, dict) and value and isinstance(parts[name], dict)
        parts[name] = parts[name] | value if mixes else value
    data = put_together(parts) if "blake3" not in changed else msgspec.json.encode(parts, order="sorted")
    with pytest.raises(ManifestError):
        decode(data, SNAPSHOT, required=keys.required)


def test_every_bit_of_a_signed_manifest_counts(keys: Keys) -> None:
    """A flipped bit anywhere: refused. (The digits of the signature may change case and mean the same.)"""
    data = encode(manifest(), keys.signer)
    for place in range(len(data)):
        for bit in (1, 32):
            bad = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            try:
                assert decode(bad, SNAPSHOT, required=keys.required) == manifest()
            except ManifestError:
                continue
            assert bad.lower() == data.lower()


def test_a_second_manifest_in_the_same_envelope_is_not_taken_for_the_signed_one(keys: Keys) -> None:
    """Of two members of one name the last counts, for the digest, the signature and the reading alike."""
    data = encode(manifest(), keys.signer)
    bad_body = msgspec.json.encode(manifest(commit_id="evil"), order="sorted")
    before = data.replace(b'"manifest":', b'"manifest":' + bad_body + b',"manifest":', 1)
    behind = data[:-1] + b',"manifest":' + bad_body + b',"blake3":"' + part_digest(bad_body).encode() + b'"}'
    assert decode(before, SNAPSHOT, required=keys.required) == manifest()
    assert decode(behind, SNAPSHOT).commit_id == "evil"
    with pytest.raises(ManifestError, match="was altered"):
        decode(behind, SNAPSHOT, required=keys.required)


def test_a_key_of_no_order_proves_nothing() -> None:
    """A point of small order verifies nearly anything in some libraries; it must not come from a signature's own words."""
    weak = PublicKey("0" * 16, bytes(31) + b"\x80")
    data = envelope(encode(manifest()))
    data["signature"] = {"key": weak.id, "value": "00" * 64}
    with pytest.raises(ManifestError):
        decode(put_together(data), SNAPSHOT, required=(weak,))


def test_the_signature_is_checked_before_anything_of_the_manifest_is_understood(keys: Keys) -> None:
    parts = envelope(encode(manifest())) | {"manifest": {"anything": [1, 2, 3]}}
    with pytest.raises(ManifestError, match="is not signed"):
        decode(put_together(parts), SNAPSHOT, required=keys.required)


def test_a_signer_shows_nothing_of_its_key(keys: Keys) -> None:
    assert keys.signer is not None
    assert "sign=" not in repr(keys)
    assert signed(keys.signer, FORMAT, VERSION, b"{}").key == keys.required[0].id
