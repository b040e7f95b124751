"""Files that are packed: saved and told of, beside snapshots that have them already."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.packed import PARTS, SIZE, manifest_of, model, write_weights

from ckptsync.events import Kind
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.store.base import StoreWrapper
from ckptsync.store.local import LocalStore
from ckptsync.verbs.listing import compare, rows
from ckptsync.verbs.ranks import Rank, save_rank
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import Saved, save
from ckptsync.verbs.verify import verify


@pytest.fixture
def source(source: Path) -> Path:
    """The large file holds weights, each part others."""
    write_weights(source / "model.bin")
    return source


def test_what_shrinks_is_packed_and_the_rest_is_as_it_was(
    packing: Callable[..., Run], source: Path, comes_back: Callable[[Run], None], store: Any
) -> None:
    run = packing()
    saved = save(run, source, step=7)
    manifest = manifest_of(run, saved)
    packed = [entry for entry in manifest.files if entry.packing]
    assert [entry.path for entry in packed] == ["model.bin"]
    assert packed[0].packing is not None
    assert packed[0].packing.shuffle == 4
    assert store.stat(packed[0].key).size == packed[0].stored_size < 0.86 * SIZE
    for entry in manifest.files:
        if not entry.packing:
            assert store.read(entry.key) == (source / entry.path).read_bytes()
    assert saved.bytes == manifest.size == SIZE + 1002
    assert saved.bytes_sent == saved.bytes_stored == manifest.stored_size == packed[0].stored_size + 1002
    comes_back(run)


def test_told_sizes_are_those_of_the_file_so_that_progress_ends_at_the_end(
    packing: Callable[..., Run], source: Path, target: Path, events: list[Any]
) -> None:
    run = packing()
    save(run, source, step=7)
    assert sum(event.bytes for event in events if event.kind is Kind.SENT) == SIZE + 1002
    events.clear()
    restored = restore(run, target)
    assert sum(event.bytes for event in events if event.kind is Kind.RECEIVED) == SIZE + 1002
    assert restored.bytes_sent < restored.bytes == SIZE + 1002


def test_a_manifest_is_of_version_2_only_where_something_is_packed(
    packing: Callable[..., Run], run_with: Callable[..., Run], source: Path, store: Any
) -> None:
    """Who knows version 1 alone must stop there, and reads all that needs no more."""

    def written(saved: Saved) -> dict[str, Any]:
        snapshot = layout.parse_snapshot_id(saved.snapshot)
        assert snapshot is not None
        return msgspec.json.decode(store.read(layout.manifest_key(snapshot)))

    saved = written(save(packing(), source, step=7))
    assert saved["version"] == 2
    off = written(save(run_with(), source, step=8))
    assert off["version"] == 1
    members = {"type", "path", "size", "mode", "mtime_ns", "key", "tag", "part_bytes", "parts"}
    assert all(entry.keys() == members for entry in off["manifest"]["entries"] if entry["type"] == "file")
    (source / "model.bin").write_bytes(os.urandom(SIZE))
    assert written(save(packing(), source, step=9))["version"] == 1


# -- beside an earlier snapshot ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copy_part", [True, False])
def test_what_did_not_change_is_copied(
    packing: Callable[..., Run],
    limited: Callable[..., StoreWrapper],
    store: Any,
    source: Path,
    change_part: Callable[[int], None],
    comes_back: Callable[[Run], None],
    *,
    copy_part: bool,
) -> None:
    run = packing(on=limited(copy_part=copy_part))
    save(run, source, step=7)
    store.heal()
    saved = save(run, source, step=8)
    assert saved.bytes_sent == 0
    assert (store.count()["copy"], store.count()["put_part"]) == (3, 0)
    change_part(2)
    store.heal()
    saved = save(run, source, step=9)
    assert (store.count()["copy_part"], store.count()["put_part"]) == ((PARTS - 1, 1) if copy_part else (0, PARTS))
    assert saved.bytes_sent + saved.bytes_reused == saved.bytes_stored
    comes_back(run)


def test_unchanged_files_in_a_directory_are_one_file(
    packing: Callable[..., Run], source: Path, tmp_path: Path, comes_back: Callable[[Run], None]
) -> None:
    run = packing(on=LocalStore(tmp_path / "bucket"))
    first, second = (model(run, save(run, source, step=step)) for step in (7, 8))
    assert (tmp_path / "bucket" / first.key).samefile(tmp_path / "bucket" / second.key)
    assert first.encoding == second.encoding
    comes_back(run)


def test_without_the_option_nothing_packed_is_copied(
    packing: Callable[..., Run], run_with: Callable[..., Run], store: Any, source: Path
) -> None:
    save(packing(), source, step=7)
    run = run_with()
    entry = model(run, save(run, source, step=8))
    assert store.read(entry.key) == (source / "model.bin").read_bytes()


@pytest.mark.parametrize("changed", [False, True])
def test_what_was_stored_as_it_is_may_stand_for_what_would_be_packed(
    packing: Callable[..., Run],
    run_with: Callable[..., Run],
    source: Path,
    change_part: Callable[[int], None],
    comes_back: Callable[[Run], None],
    *,
    changed: bool,
) -> None:
    save(run_with(), source, step=7)
    if changed:
        change_part(2)
    run = packing()
    saved = save(run, source, step=8)
    assert bool(model(run, saved).packing) is changed
    assert bool(saved.bytes_sent) is changed
    comes_back(run)


def test_a_packed_file_that_shrinks_no_more_is_stored_as_it_is(packing: Callable[..., Run], source: Path) -> None:
    run = packing()
    save(run, source, step=7)
    (source / "model.bin").write_bytes(os.urandom(SIZE))
    assert not model(run, save(run, source, step=8)).packing
    (source / "model.bin").write_bytes(b"")
    assert not model(run, save(run, source, step=9)).packing
    assert verify(run).bad == ()


def test_what_is_told_of_a_packed_snapshot(
    packing: Callable[..., Run], run_with: Callable[..., Run], source: Path
) -> None:
    saved = save(packing(), source, step=7)
    run = run_with()
    save(run, source, step=8)
    newest, oldest = rows(run)
    assert (oldest.bytes, oldest.bytes_stored) == (saved.bytes, saved.bytes_stored)
    assert newest.bytes == newest.bytes_stored == oldest.bytes
    found = compare(run, "7", "8")
    assert (found.changed, found.bytes_changed) == ((), 0)


def test_ranks_store_their_files_as_they_are(
    packing: Callable[..., Run], source: Path, events: list[Any], comes_back: Callable[[Run], None]
) -> None:
    """Tries of a rank may write the same key side by side, and other versions of zstd make other bytes."""
    run = packing()
    save(run, source, step=6)  # packed; may not be copied either
    saved = save_rank(run, source, Rank(rank=0, world=1, launch="a"), step=7)
    assert manifest_of(run, saved).stored_size == saved.bytes
    assert any("ranks do not compress" in event.message for event in events if event.kind is Kind.NOTICE)
    comes_back(run)
