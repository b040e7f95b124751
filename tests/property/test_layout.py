"""Whatever the numbers: the newest sorts first, and what went into a key comes out of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ckptsync.errors import ManifestError
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import MAX_EPOCH, MAX_STEP, SnapshotId

_NONCES = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=8, max_size=8)
_IDS = st.builds(SnapshotId, st.integers(1, MAX_EPOCH), st.integers(0, MAX_STEP), _NONCES)


@given(st.lists(_IDS, unique_by=lambda one: (one.epoch, one.step)))
def test_manifest_and_journal_keys_sort_newest_first(ids: list[SnapshotId]) -> None:
    newest_first = sorted(ids, reverse=True)
    assert sorted(ids, key=layout.manifest_key) == newest_first
    assert sorted(ids, key=layout.journal_key) == newest_first


@given(st.lists(st.integers(1, MAX_EPOCH), unique=True), st.lists(st.integers(1, layout.MAX_VERSION), unique=True))
def test_writer_and_alias_keys_sort_newest_first(epochs: list[int], versions: list[int]) -> None:
    assert sorted(epochs, key=layout.writer_key) == sorted(epochs, reverse=True)
    assert sorted(versions, key=lambda one: layout.alias_key("a", one)) == sorted(versions, reverse=True)


@given(_IDS, _IDS)
def test_what_went_into_a_key_comes_out(one: SnapshotId, other: SnapshotId) -> None:
    assert layout.parse_snapshot_id(str(one)) == one
    assert layout.snapshot_of_manifest_key(layout.manifest_key(one)) == one
    assert layout.journal_of_key(layout.adoption_key(one, other)) == (one, other)
    assert layout.epoch_of_writer_key(layout.writer_key(one.epoch)) == one.epoch
    assert layout.snapshot_of_lease_key(layout.new_lease_key(one)) == one
    assert layout.snapshot_of_quarantine_key(layout.quarantine_key(one)) == one


@given(st.text())
def test_a_text_is_an_id_only_as_it_is_written(text: str) -> None:
    found = layout.parse_snapshot_id(text)
    assert found is None or str(found) == text


@given(st.text(st.sampled_from("0123456789٣²-abz/.json\n"), max_size=40))
def test_no_key_of_strangers_makes_the_readers_fail(name: str) -> None:
    for room, read in (
        (layout.MANIFESTS, layout.snapshot_of_manifest_key),
        (layout.WRITERS, layout.epoch_of_writer_key),
        (layout.JOURNALS, layout.journal_of_key),
        (layout.ALIASES, layout.version_of_alias_key),
        (layout.LEASES, layout.snapshot_of_lease_key),
        (layout.QUARANTINE, layout.snapshot_of_quarantine_key),
    ):
        read(room + name)


@given(st.text(st.sampled_from("./a\0\udc80ä"), max_size=12))
def test_a_path_that_passes_is_below_any_root(path: str) -> None:
    try:
        layout.check_path(path)
    except ManifestError:
        return
    segments = path.split("/")
    assert path.encode()
    assert all(segment not in {"", ".", ".."} and "\0" not in segment for segment in segments)
