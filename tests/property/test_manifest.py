"""Whatever a manifest holds it comes back; whatever stands in its place is refused in our own words."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from ckptsync.errors import ManifestError
from ckptsync.snapshot.cost import Cost, Loop
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.manifest import (
    FORMAT,
    VERSION,
    DirectoryEntry,
    FileEntry,
    LinkEntry,
    Manifest,
    Provenance,
    Writer,
    decode,
    encode,
    link_stays_inside,
)

_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_NAME = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=6).filter(
    lambda name: name not in {".", ".."}
)
_MODE = st.integers(0, 0o7777)


@st.composite
def _files(draw: st.DrawFn, path: str) -> FileEntry:
    size = draw(st.integers(0, 20))
    part_bytes = draw(st.integers(1, 9)) if size else 0
    digests = draw(st.lists(st.binary(min_size=1), min_size=20, max_size=20))
    return FileEntry(
        path=path,
        size=size,
        mode=draw(_MODE),
        mtime_ns=draw(st.integers(-(1 << 62), 1 << 62)),
        key=f"data/x/{path}",
        part_bytes=part_bytes,
        parts=tuple(part_digest(one) for one in digests[: -(-size // part_bytes) if size else 0]),
    )


@st.composite
def _manifests(draw: st.DrawFn) -> Manifest:
    entries: list[FileEntry | LinkEntry | DirectoryEntry] = []
    for folder in sorted(draw(st.sets(_NAME, max_size=3))):
        entries.append(DirectoryEntry(path=folder, mode=draw(_MODE)))
        for name in sorted(draw(st.sets(_NAME, max_size=3))):
            path = f"{folder}/{name}"
            entries.append(draw(st.one_of(_files(path), st.builds(LinkEntry, path=st.just(path), target=_NAME))))
    number = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))
    return Manifest(
        snapshot="00000001-000000000001-abcdefgh",
        commit_id=draw(_TEXT),
        created=draw(_TEXT),
        entries=tuple(entries),
        metrics=draw(st.dictionaries(_TEXT, number, max_size=3)),
        meta=draw(st.dictionaries(_TEXT, _TEXT, max_size=3)),
        parent=draw(_TEXT),
        writer=Writer(host=draw(_TEXT), pid=draw(st.integers(0, 1 << 31))),
        provenance=Provenance(versions=draw(st.dictionaries(_TEXT, _TEXT, max_size=2)), git_commit=draw(_TEXT)),
        cost=Cost(
            seconds=draw(st.floats(0, 1e6)),
            bytes_sent=draw(st.integers(0, 1 << 60)),
            loop=draw(
                st.just(msgspec.UNSET) | st.builds(Loop, stall_s=st.floats(0, 1e6), saves=st.integers(0, 1 << 60))
            ),
        ),
    )


@given(_manifests())
def test_it_comes_back_and_its_bytes_are_canonical(manifest: Manifest) -> None:
    data = encode(manifest)
    assert decode(data) == manifest
    assert encode(decode(data)) == data
    assert msgspec.json.encode(msgspec.json.decode(data), order="sorted") == data


@given(_manifests(), st.data())
def test_changed_bytes_are_refused_or_mean_the_same(manifest: Manifest, data: st.DataObject) -> None:
    """Flipped, cut off or put in: only ManifestError, and never another manifest."""
    good = encode(manifest)
    place = data.draw(st.integers(0, len(good) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    if kind == "flip":
        bad = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    elif kind == "cut":
        bad = good[:place]
    else:
        bad = good[:place] + data.draw(st.binary(min_size=1, max_size=4)) + good[place:]
    try:
        found = decode(bad)
    except ManifestError:
        return
    assert found == manifest


@given(st.binary(max_size=60))
def test_rubbish_is_refused_in_our_own_words(data: bytes) -> None:
    try:
        decode(data)
    except ManifestError:
        return
    raise AssertionError(data)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_MEMBERS = st.sampled_from(["snapshot", "kind", "entries", "metrics", "meta", "parent", "writer", "provenance", "cost"])
_ENTRY_MEMBERS = st.sampled_from(["path", "size", "mode", "mtime_ns", "key", "part_bytes", "parts", "type", "target"])


@given(st.dictionaries(_MEMBERS, _JSON, max_size=3), st.dictionaries(_ENTRY_MEMBERS, _JSON, max_size=3))
def test_any_json_with_a_right_digest_is_a_manifest_or_refused(
    changed: dict[str, object], entry: dict[str, object]
) -> None:
    """Made by a stranger who may write to the bucket: still no other error, and nothing unsafe."""
    file = {"type": "file", "path": "a", "size": 1, "key": "k", "part_bytes": 1, "parts": [part_digest(b"x")]}
    body = msgspec.json.encode(
        {
            "snapshot": "00000001-000000000001-abcdefgh",
            "commit_id": "",
            "created": "",
            "entries": [file | entry],
            "writer": {"host": "", "pid": 0},
        }
        | changed
    )
    envelope = {"blake3": part_digest(body), "format": FORMAT, "manifest": msgspec.Raw(body), "version": VERSION}
    try:
        manifest = decode(msgspec.json.encode(envelope))
    except ManifestError:
        return
    for found in manifest.files:
        assert ".." not in found.path.split("/")
        assert ".." not in found.key.split("/")


_SEGMENTS = st.lists(st.sampled_from(["..", ".", "", "d", "e", "l", "f"]), min_size=1, max_size=6)


@given(
    st.lists(st.sampled_from(["d", "e"]), max_size=3),
    st.lists(st.tuples(st.sampled_from(["l", "d/l", "d/e/l"]), _SEGMENTS), max_size=3, unique_by=lambda pair: pair[0]),
    _SEGMENTS,
)
def test_a_link_said_to_stay_inside_does(
    folders: list[str], others: list[tuple[str, list[str]]], aim: list[str]
) -> None:
    """As the kernel sees it, in a real folder, with other links around that passed the same test."""
    with tempfile.TemporaryDirectory() as outside:
        root = Path(outside).resolve() / "root"
        (root / "d" / "e").mkdir(parents=True)
        path = "/".join([*folders, "link"])
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        for place, segments in [*others, (path, aim)]:
            target = "/".join(segments)
            if link_stays_inside(place, target):
                (root / place).symlink_to(target)
        assume((root / path).is_symlink())
        try:
            found = (root / path).resolve()
        except (OSError, RuntimeError):  # links in a circle lead nowhere
            return
        assert found == root or root in found.parents


@given(st.lists(st.sampled_from(["d", "e"]), max_size=3), _SEGMENTS)
def test_what_leaves_by_words_alone_is_refused(folders: list[str], aim: list[str]) -> None:
    path, target = "/".join([*folders, "link"]), "/".join(aim)
    landed = os.path.normpath(os.path.join("/root", os.path.dirname(path), target))  # noqa: PTH118, PTH120  text, no paths
    if landed != "/root" and not landed.startswith("/root/"):
        assert not link_stays_inside(path, target)
