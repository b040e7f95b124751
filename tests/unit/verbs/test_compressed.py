"""Files that are packed: saved, continued, copied, verified and restored like any other."""

from __future__ import annotations

import os
import random
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ckptsync.config import MIB
from ckptsync.errors import ConfigError, IntegrityError
from ckptsync.events import Kind
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.manifest import FileEntry, Manifest
from ckptsync.store.base import PartTag, StoreWrapper, Upload
from ckptsync.store.local import LocalStore
from ckptsync.transfer.journal import journal_path
from ckptsync.verbs.listing import compare, rows
from ckptsync.verbs.ranks import Rank, save_rank
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import Saved, save
from ckptsync.verbs.verify import verify

PARTS = 6
SIZE = 5 * MIB + 7


@pytest.fixture(scope="module")
def floats() -> bytes:
    """1 MiB of weights."""
    dice = random.Random(1)
    return array("f", [dice.gauss(0, 0.02) for _ in range(256 << 10)]).tobytes()


@pytest.fixture
def source(source: Path, floats: bytes) -> Path:
    """The large file holds weights, each part others."""
    turned = (floats[4 * number :] + floats[: 4 * number] for number in range(PARTS))
    (source / "model.bin").write_bytes(b"".join(turned)[:SIZE])
    return source


@pytest.fixture
def packing(run_with: Callable[..., Run]) -> Callable[..., Run]:
    """A run whose saves pack."""
    return lambda **given: run_with(**({"compress": "zstd"} | given))


def manifest_of(run: Run, saved: Saved) -> Manifest:
    snapshot = layout.parse_snapshot_id(saved.snapshot)
    assert snapshot is not None
    return run.catalog.get(snapshot)


def model(run: Run, saved: Saved) -> FileEntry:
    return {entry.path: entry for entry in manifest_of(run, saved).files}["model.bin"]


def journal(run: Run, source: Path) -> Path:
    return journal_path(run.config.state_path(), run.url, source)


@pytest.fixture
def comes_back(source: Path, target: Path, content: Any) -> Callable[[Run], None]:
    """Make sure that the newest snapshot is good, and what is on the disk."""

    def check(run: Run) -> None:
        assert verify(run).bad == ()
        restore(run, target)
        assert content(target) == content(source)

    return check


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


# -- again ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
@pytest.mark.parametrize("after", [0, 1, 3, 5, 6])
def test_a_killed_upload_is_continued_part_by_part(
    packing: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    after: int,
    comes_back: Callable[[Run], None],
    *,
    lost: bool,
) -> None:
    run = packing(workers=1)
    store.fail(*(("finish", killed) if after == PARTS else ("put_part", killed)), after=0 if after == PARTS else after)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    if lost:
        journal(run, source).unlink()
    saved = save(run, source, step=7)
    assert store.count()["put_part"] == PARTS - after
    assert store.count()["begin"] == 0
    assert model(run, saved).packing
    assert model(run, saved).key.startswith("data/00000001-")
    comes_back(run)


@pytest.mark.parametrize("verb", ["finish", "put"])
def test_a_journal_spares_packing_what_is_there(
    packing: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
) -> None:
    run = packing(workers=1)

    def kill(called: str, key: str) -> None:
        if called == verb and (verb == "finish" or key.startswith("manifests/")):
            raise killed

    store.before = kill
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    monkeypatch.setattr("ckptsync.transfer.packing.pack", None)
    save(run, source, step=7)
    assert "put_part" not in store.count()


@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
def test_a_file_that_is_empty_when_its_upload_is_continued(
    packing: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    comes_back: Callable[[Run], None],
    *,
    lost: bool,
) -> None:
    run = packing(workers=1)
    store.fail("put_part", killed, after=3)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    if lost:
        journal(run, source).unlink()
    (source / "model.bin").write_bytes(b"")
    save(run, source, step=7)
    comes_back(run)


@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
@pytest.mark.parametrize("verb", ["finish", "put"])
def test_a_file_that_was_finished_is_not_sent_again(
    packing: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    comes_back: Callable[[Run], None],
    verb: str,
    *,
    lost: bool,
) -> None:
    run = packing(workers=1)

    def kill(called: str, key: str) -> None:
        if called == verb and (verb == "finish" or key.startswith("manifests/")):
            raise killed

    if verb == "finish":
        store.after = kill  # the answer is lost
    else:
        store.before = kill
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    if lost:
        journal(run, source).unlink()
    saved = save(run, source, step=7)
    assert "put_part" not in store.count()
    assert model(run, saved).key.startswith("data/00000001-")
    comes_back(run)


@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
@pytest.mark.parametrize(("first", "then"), [("zstd", "none"), ("none", "zstd")])
@pytest.mark.parametrize("verb", ["put_part", "finish", "manifest"])
def test_the_option_may_change_between_a_kill_and_the_next_try(
    run_with: Callable[..., Run],
    store: Any,
    source: Path,
    killed: type[BaseException],
    comes_back: Callable[[Run], None],
    first: str,
    then: str,
    verb: str,
    *,
    lost: bool,
) -> None:
    run = run_with(compress=first, workers=1)
    left = [3]

    def kill(called: str, key: str) -> None:
        if called == verb == "put_part":
            left[0] -= 1
            if left[0] < 0:
                raise killed
        elif called == verb or (verb == "manifest" and called == "put" and key.startswith("manifests/")):
            raise killed

    store.before = kill
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    if lost:
        journal(run, source).unlink()
    run = run_with(compress=then, workers=1)
    saved = save(run, source, step=7)
    if then == "none":
        assert store.read(model(run, saved).key) == (source / "model.bin").read_bytes()
    comes_back(run)


class Strict(StoreWrapper):
    """Takes parts of half a MiB or more, but for the last, as S3 takes 5 MiB."""

    def finish(self, upload: Upload, parts: Any) -> Any:
        parts = list(parts)
        assert all(part.size >= self.traits.min_part_bytes for part in parts[:-1])
        return super().finish(upload, parts)

    def put_part(self, upload: Upload, number: int, data: Any) -> PartTag:
        assert len(data) <= self.traits.max_part_bytes
        return super().put_part(upload, number, data)


@pytest.fixture
def strict(store: Any, limited: Callable[..., StoreWrapper]) -> Strict:
    wrapper = Strict(store)
    wrapper.traits = limited(min_part_bytes=MIB // 2).traits
    return wrapper


def test_parts_that_shrink_too_far_are_filled_up(
    packing: Callable[..., Run], strict: Strict, source: Path, comes_back: Callable[[Run], None]
) -> None:
    (source / "model.bin").write_bytes(bytes(3 * MIB))
    run = packing(on=strict)
    packed = model(run, save(run, source, step=7)).packing
    assert packed is not None
    assert [packed.span(number)[1] for number in (1, 2)] == [MIB // 2] * 2
    assert packed.span(3)[1] < 1000  # the last one may be short
    comes_back(run)
    with (source / "model.bin").open("ab") as file:
        file.write(bytes(2 * MIB) + b"x")
    save(run, source, step=8)  # what was last may be short no more
    comes_back(run)


def test_parts_that_shrink_too_far_are_filled_up_when_a_killed_upload_is_continued(
    packing: Callable[..., Run],
    strict: Strict,
    store: Any,
    source: Path,
    killed: type[BaseException],
    comes_back: Callable[[Run], None],
) -> None:
    (source / "model.bin").write_bytes(bytes(3 * MIB))
    run = packing(on=strict, workers=1)
    store.fail("finish", killed)
    with pytest.raises(killed):
        save(run, source, step=7)
    store.heal()
    with (source / "model.bin").open("ab") as file:
        file.write(bytes(MIB) + b"x")
    save(run, source, step=7)
    comes_back(run)


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


# -- back ----------------------------------------------------------------------------------------------------------------


def flip(run: Run, key: str, offset: int) -> None:
    content = bytearray(run.store.read(key))
    content[offset] ^= 1
    run.store.put(key, bytes(content))


@pytest.mark.parametrize("place", [0, 8, 1000, -1])
@pytest.mark.parametrize("number", [1, 3, PARTS])
def test_a_flipped_bit_is_found_before_anything_is_used(
    packing: Callable[..., Run], source: Path, target: Path, number: int, place: int
) -> None:
    run = packing()
    entry = model(run, save(run, source, step=7))
    offset, size = entry.stored_span(number)
    flip(run, entry.key, offset + place % size)
    (bad,) = verify(run, quarantine=False).bad
    assert (bad.path, bad.part) == ("model.bin", number)
    with pytest.raises(IntegrityError, match=f"part {number} of {PARTS} of model.bin"):
        restore(run, target)
    assert not target.exists()


@pytest.mark.parametrize("length", [0, 100, -1])
def test_an_object_of_another_length_is_bad(
    packing: Callable[..., Run], source: Path, target: Path, length: int
) -> None:
    run = packing()
    entry = model(run, save(run, source, step=7))
    run.store.put(entry.key, run.store.read(entry.key)[:length])
    assert {bad.part for bad in verify(run, quarantine=False).bad} >= {0}
    with pytest.raises(IntegrityError, match=f"bytes in the bucket instead of {entry.stored_size}"):
        restore(run, target)


def test_a_bit_flipped_on_the_wire_is_fetched_once_more(
    packing: Callable[..., Run], source: Path, store: Any, comes_back: Callable[[Run], None], events: list[Any]
) -> None:
    run = packing(workers=1)
    entry = model(run, save(run, source, step=7))
    get, calls = store.get, [0]

    def flip_once(key: str, into: memoryview, **given: Any) -> int:
        count: int = get(key, into, **given)
        if key == entry.key:
            calls[0] += 1
            into[7] ^= calls[0] == 2
        return count

    store.get = flip_once
    comes_back(run)
    assert [event.kind for event in events].count(Kind.REFETCHED) == 1


def test_a_replaced_object_is_told(packing: Callable[..., Run], source: Path, target: Path, store: Any) -> None:
    run = packing(workers=1)
    entry = model(run, save(run, source, step=7))

    def replace(verb: str, key: str) -> None:
        if verb == "get" and key == entry.key:
            store.inner.put(key, os.urandom(entry.stored_size))

    store.before = replace
    with pytest.raises(IntegrityError, match="replaced in the bucket while it was read"):
        restore(run, target)


@pytest.mark.parametrize("after", [0, 2, 5])
def test_a_killed_restore_fetches_only_what_is_missing(
    packing: Callable[..., Run],
    source: Path,
    target: Path,
    store: Any,
    killed: type[BaseException],
    content: Any,
    after: int,
) -> None:
    run = packing(workers=1)
    entry = model(run, save(run, source, step=7))
    left = [after]

    def kill(verb: str, key: str) -> None:
        if verb == "get" and key == entry.key:
            left[0] -= 1
            if left[0] < 0:
                raise killed

    store.before = kill
    with pytest.raises(killed):
        restore(run, target)
    store.heal()
    restore(run, target)
    assert [key for verb, key in store.calls if verb == "get"].count(entry.key) == PARTS - after
    assert content(target) == content(source)


@pytest.mark.parametrize("part_mib", [2, 3])
def test_parts_larger_than_our_buffers_are_unpacked_in_pieces(
    packing: Callable[..., Run],
    run_with: Callable[..., Run],
    source: Path,
    store: Any,
    comes_back: Callable[[Run], None],
    part_mib: int,
) -> None:
    saved = save(packing(part_bytes=part_mib * MIB), source, step=7)
    run = run_with(part_bytes=MIB)
    entry = model(run, saved)
    assert entry.packing
    assert entry.part_bytes == part_mib * MIB
    comes_back(run)
    flip(run, entry.key, 100)
    assert [bad.part for bad in verify(run).bad] == [1]
    assert max(entry.stored_span(1)) > MIB
    assert [key for verb, key in store.calls if verb == "get"].count(entry.key) > len(entry.parts)


# -- without the library -------------------------------------------------------------------------------------------------


def test_without_zstandard_a_sentence_names_the_extra(
    packing: Callable[..., Run],
    run_with: Callable[..., Run],
    source: Path,
    target: Path,
    store: Any,
    change_part: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_with()
    save(run, source, step=6)
    change_part(1)
    save(packing(), source, step=7)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    store.heal()
    with pytest.raises(ConfigError, match=r"pip install 'ckptsync\[zstd\]'"):
        save(packing(), source, step=8)
    assert store.calls == []
    for use in (verify, lambda run: restore(run, target), lambda run: restore(run, target, include=["model*"])):
        with pytest.raises(ConfigError, match=r"pip install 'ckptsync\[zstd\]'"):
            use(run)
        assert not list(target.parent.glob("*"))
    assert not run.catalog.quarantined()
    assert restore(run, target, include=["config*"]).files == 1  # nothing packed in it
    assert restore(run, target, snapshot="6").files == 4
    assert save(run, source, step=9).bytes_sent == SIZE  # the rest is copied
