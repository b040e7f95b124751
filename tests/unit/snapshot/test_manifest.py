"""The commit record: canonical bytes, and a reader that believes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ckptsync.errors import ConfigError, ManifestError, VersionError
from ckptsync.snapshot import manifest as manifests
from ckptsync.snapshot.cost import Cost, Loop
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import (
    DirectoryEntry,
    FileEntry,
    LinkEntry,
    Manifest,
    Provenance,
    Writer,
    checked_meta,
    checked_metrics,
    decode,
    encode,
    link_stays_inside,
)

DIGEST = part_digest(b"x")
ID = "00000001-000000000007-abcdefgh"


def file(path: str, **changed: Any) -> FileEntry:
    facts: dict[str, Any] = {"size": 1, "key": f"data/{ID}/{path}", "part_bytes": 1, "parts": (DIGEST,)}
    return FileEntry(path=path, **(facts | changed))


def make(*entries: manifests.Entry, **changed: Any) -> Manifest:
    facts: dict[str, Any] = {
        "snapshot": ID,
        "commit_id": "0" * 32,
        "created": "2026-01-01T00:00:00.000Z",
        "writer": Writer(host="node-1", pid=7),
    }
    return Manifest(entries=entries, **(facts | changed))


def seal(body: bytes, **changed: Any) -> bytes:
    """An envelope around any body, its digest right."""
    envelope = {"blake3": part_digest(body), "format": manifests.FORMAT, "version": manifests.VERSION}
    return msgspec.json.encode(envelope | changed | {"manifest": msgspec.Raw(body)}, order="sorted")


def test_a_manifest_comes_back_as_it_was() -> None:
    sent = make(
        file("a/b", mode=0o600, mtime_ns=-5),
        DirectoryEntry(path="a", mode=0o700),
        LinkEntry(path="c", target="a/b"),
        metrics={"loss": 0.25, "nan": None},
        meta={"note": "läuft"},
        parent="00000001-000000000003-abcdefgh",
        provenance=Provenance(versions={"python": "3.11"}, git_commit="abc-dirty"),
        cost=Cost(seconds=1.5, bytes_sent=1, loop=Loop(stall_s=0.25, saves=3)),
    )
    assert decode(encode(sent), SnapshotId(1, 7, "abcdefgh")) == sent


def test_the_bytes_are_canonical_json() -> None:
    data = encode(make(file("ä"), meta={"z": "1", "a": "2"}))
    assert data.startswith(b'{"blake3":"')
    assert b'"meta":{"a":"2","z":"1"}' in data
    assert "ä".encode() in data
    assert msgspec.json.encode(msgspec.json.decode(data), order="sorted") == data


def test_what_people_are_told_it_cost_may_grow() -> None:
    """Figures of a later version make no snapshot unreadable; all else that is unknown does."""
    plain = make(cost=Cost(seconds=2.0))
    body = bytes(msgspec.json.encode(plain, order="sorted"))
    assert b"loop" not in body
    later = body.replace(b'"seconds":2.0', b'"joules":5,"loop":{"naps":1,"stall_s":0.5},"seconds":2.0')
    assert decode(seal(later)).cost == Cost(seconds=2.0, loop=Loop(stall_s=0.5))
    with pytest.raises(ManifestError, match="joules"):
        decode(seal(body.replace(b'"commit_id"', b'"joules":5,"commit_id"')))


def test_equal_manifests_give_equal_bytes() -> None:
    """Also where one of them names what the other leaves to the default."""
    short = make(file("a"), DirectoryEntry(path="d"))
    mode = int("644", 8)  # a number that is equal to the default, but another object
    long = make(
        file("a", mode=mode, mtime_ns=0),
        DirectoryEntry(path="d", mode=int("755", 8)),
        provenance=Provenance(git_commit=""),
        cost=Cost(seconds=float("0.0")),
        metrics={},
    )
    assert short == long
    assert encode(short) == encode(long) == encode(decode(encode(short)))


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"version": 3}, "version 3"), ({"format": "restic"}, "'restic'"), ({"version": 0}, "version 0")],
)
def test_what_it_does_not_know_is_refused_by_name(changed: dict[str, Any], said: str) -> None:
    """Before anything else is looked at: a later version may hash otherwise."""
    with pytest.raises(ManifestError, match=f"{said}.*install a newer ckptsync"):
        decode(seal(b"{}", **changed, blake3="another kind of digest"))


def test_a_later_version_is_told_from_damage_whatever_else_it_has() -> None:
    with pytest.raises(VersionError, match="version 3"):
        decode(b'{"format":"ckptsync-manifest","body":[],"version":3}')
    for damaged in (
        b'{"format":"ckptsync-manifest","version":1}',
        b'{"format":"restic","version":2}',
        b'{"version":2}',
    ):
        with pytest.raises(ManifestError) as found:
            decode(damaged)
        assert type(found.value) is ManifestError


def test_a_flipped_bit_in_the_body_is_found() -> None:
    data = encode(make(file("a")))
    with pytest.raises(ManifestError, match="digest does not match"):
        decode(data.replace(b'"pid":7', b'"pid":8'))


@pytest.mark.parametrize("data", [b"", b"null", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"blake3":"\\ud800"}'])
def test_rubbish_is_damaged(data: bytes) -> None:
    with pytest.raises(ManifestError, match="manifest is damaged"):
        decode(data)


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b"{}",
        b"[" * 100_000,
        msgspec.json.encode(make()).replace(b'"pid":7', b'"pid":"7"'),
        msgspec.json.encode(make()).replace(b'"entries":[]', b'"entries":[],"surprise":1'),
        msgspec.json.encode(make(file("a"))).replace(b'"type":"file"', b'"type":"device"'),
    ],
)
def test_a_body_that_is_no_manifest_is_refused(body: bytes) -> None:
    with pytest.raises(ManifestError):
        decode(seal(body))


def test_one_too_large_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptsync.snapshot.envelope.MAX_MANIFEST_BYTES", 10)
    with pytest.raises(ManifestError, match="larger than 10"):
        decode(encode(make()))


def test_another_snapshot_under_the_key_is_refused() -> None:
    with pytest.raises(ManifestError, match="stands under the key of 00000001-000000000008"):
        decode(encode(make()), SnapshotId(1, 8, "abcdefgh"))


@pytest.mark.parametrize("snapshot", ["", "../../x", "00000000-000000000007-abcdefgh", "latest"])
def test_an_id_that_is_none_is_refused(snapshot: str) -> None:
    with pytest.raises(ManifestError, match="is not a snapshot id"):
        decode(encode(make(snapshot=snapshot)))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ((file("../x"),), "unsafe path"),
        ((file("/etc/passwd"),), "unsafe path"),
        ((file("."),), "unsafe path"),
        ((DirectoryEntry(path=".."),), "unsafe path"),
        ((LinkEntry(path="a/../b", target="c"),), "unsafe path"),
        ((file("a"), file("a")), "stands twice"),
        ((file("a"), DirectoryEntry(path="a")), "stands twice"),
        ((file("a"), file("a/b")), "lies below 'a'"),
        ((file("a/b/c"), file("a")), "lies below 'a'"),
        ((LinkEntry(path="a", target="b"), file("a/passwd")), "lies below 'a'"),
        ((LinkEntry(path="a", target="../b"),), "leaves the snapshot"),
        ((LinkEntry(path="a", target="/b"),), "leaves the snapshot"),
        ((LinkEntry(path="a", target=""),), "leaves the snapshot"),
        ((file("a", key="../../other-run/secret"),), "unsafe path"),
        ((file("a", key="/x"),), "unsafe path"),
        ((file("a", part_bytes=0),), "no part size"),
        ((file("a", size=2),), "needs 2 part digests and has 1"),
        ((file("a", size=0),), "needs 0 part digests and has 1"),
        ((file("a", parts=(DIGEST, DIGEST)),), "needs 1 part digests and has 2"),
        ((file("a", parts=(DIGEST.upper(),)),), "not BLAKE3 in hex"),
        ((file("a", parts=("0" * 63,)),), "parts"),
        ((file("a", parts=("٣" * 64,)),), "not BLAKE3 in hex"),
    ],
)
def test_entries_that_make_no_tree_below_the_target_are_refused(entries: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ManifestError, match=said):
        decode(encode(make(*entries)))


@pytest.mark.parametrize(
    "changed",
    [{"size": -1}, {"mode": 0o10000}, {"mode": -1}, {"part_bytes": -1}, {"mtime_ns": 1 << 63}, {"mtime_ns": -1 << 64}],
)
def test_numbers_no_file_can_have_are_refused(changed: dict[str, int]) -> None:
    with pytest.raises(ManifestError):
        decode(encode(make(file("a", **changed))))


def test_an_empty_file_needs_no_parts() -> None:
    empty = make(file("a", size=0, part_bytes=0, parts=()))
    assert decode(encode(empty)).files[0].digest == part_digest(b"")


@pytest.mark.parametrize(
    "entries",
    [
        (),
        (file("a"), file("b")),
        (file("a/b"),),
        (LinkEntry(path="a", target="b"),),
        (DirectoryEntry(path="a"),),
        (file("a"), DirectoryEntry(path="b")),
    ],
)
def test_a_snapshot_of_a_single_file_holds_nothing_else(entries: tuple[Any, ...]) -> None:
    with pytest.raises(ManifestError, match="single file"):
        decode(encode(make(*entries, kind="file")))


def test_a_snapshot_of_a_single_file() -> None:
    assert decode(encode(make(file("model.pt"), kind="file"))).kind == "file"


def test_what_it_says_of_itself() -> None:
    manifest = make(file("a"), file("b", size=3, parts=(DIGEST,) * 3), LinkEntry(path="c", target="a"))
    assert manifest.id == SnapshotId(1, 7, "abcdefgh")
    assert manifest.size == 4
    assert [entry.path for entry in manifest.files] == ["a", "b"]


@pytest.mark.parametrize(
    ("path", "target", "inside"),
    [
        ("a", "b", True),
        ("a", ".", True),
        ("a/b", "..", True),
        ("a/b", "../c", True),
        ("a/b/c", "../../d", True),
        ("a/b", ".././c", True),
        ("a", "..", False),
        ("a/b", "../..", False),
        ("a", "b/../c", False),
        ("a", "b/../../c", False),
        ("a", "/b", False),
        ("a", "", False),
        ("a", "b\0", False),
    ],
)
def test_links_may_climb_only_out_of_their_own_folders(path: str, target: str, inside: bool) -> None:  # noqa: FBT001  a column
    assert link_stays_inside(path, target) is inside


def test_metrics_that_json_lacks_become_none() -> None:
    sent = {"a": 1, "b": math.nan, "c": math.inf, "d": -math.inf, "e": -0.5}
    checked = checked_metrics(sent)
    assert checked == {"a": 1.0, "b": None, "c": None, "d": None, "e": -0.5}
    assert decode(encode(make(metrics=checked))).metrics == checked


@pytest.mark.parametrize("name", ["", "a:b", "a=b", "\udc80", 3])
def test_metrics_that_best_could_not_name_are_refused(name: Any) -> None:
    with pytest.raises(ConfigError, match="metric name"):
        checked_metrics({name: 1.0})


@pytest.mark.parametrize("value", ["low", None, [1.0]])
def test_metrics_that_are_no_numbers_are_refused_by_name(value: Any) -> None:
    with pytest.raises(ConfigError, match="metric 'loss' is"):
        checked_metrics({"loss": value})


@pytest.mark.parametrize("meta", [{"lr": 0.1}, {1: "a"}, {"a": None}, {"a": "\udc80"}, {"\udc80": "a"}])
def test_meta_that_a_reader_would_refuse_is_refused(meta: Any) -> None:
    with pytest.raises(ConfigError, match="must be text"):
        checked_meta(meta)


def test_meta_is_any_text() -> None:
    assert checked_meta({"": "", "a:b": "läuft"}) == {"": "", "a:b": "läuft"}


class _Changes:
    """How a tree may be made dangerous, one at a time."""

    def __init__(self, change: Callable[[dict[str, Any]], None]) -> None:
        self.change = change


@pytest.mark.parametrize(
    "change",
    [
        _Changes(lambda body: body["entries"][0].update(path="../../x")),
        _Changes(lambda body: body["entries"][0].update(key="../x")),
        _Changes(lambda body: body["entries"][0].update(parts=[])),
        _Changes(lambda body: body.update(snapshot="x")),
        _Changes(lambda body: body.update(kind="block device")),
    ],
)
def test_a_right_digest_makes_nothing_safe(change: _Changes) -> None:
    body = msgspec.json.decode(msgspec.json.encode(make(file("a"))))
    change.change(body)
    with pytest.raises(ManifestError):
        decode(seal(msgspec.json.encode(body, order="sorted")))
