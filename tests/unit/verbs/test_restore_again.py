"""Restore, killed or from damaged snapshots: it continues, or takes the next older one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from ckptsync.errors import (
    DeniedError,
    IntegrityError,
    ManifestError,
    NotFoundError,
    TransientError,
    VersionError,
)
from ckptsync.events import Event, Kind
from ckptsync.options import MIB
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.manifest import FileEntry, LinkEntry, Manifest, encode
from ckptsync.transfer import target as targets
from ckptsync.verbs import restore as restore_module
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import Saved, save

Content = Callable[[Path], dict[str, object]]

SIZE = 5 * MIB + 7  # of the large file, as the fixture makes it
PARTS = 6
TOTAL = SIZE + 1002


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def damage(store: Any, key: str) -> None:
    data = bytearray(store.inner.read(key))
    data[len(data) // 2] ^= 1
    store.inner.put(key, data)


# -- killed and continued -------------------------------------------------------------------------------------------------


@pytest.mark.req(33)
@pytest.mark.parametrize("after", [1, 2, 4, 7])
def test_a_killed_restore_fetches_exactly_the_rest(
    run_with: Callable[..., Run],
    saved: Saved,
    store: Any,
    source: Path,
    target: Path,
    killed: type[BaseException],
    after: int,
    content: Content,
) -> None:
    run = run_with(workers=1)
    store.fail("get", killed, after=1 + after)  # one for the manifest
    with pytest.raises(killed):
        restore(run, target)
    assert not target.exists()
    store.heal()
    restored = restore(run, target)
    assert restored.parts_sent == PARTS + 2 - after
    assert restored.bytes_sent + restored.bytes_reused == saved.bytes
    assert content(target) == content(source)
    assert names(target.parent) == ["ckpt"]


def test_a_killed_restore_of_a_single_file_fetches_exactly_the_rest(
    run_with: Callable[..., Run], store: Any, source: Path, target: Path, killed: type[BaseException]
) -> None:
    run = run_with(workers=1)
    save(run, source / "model.bin", step=7)
    store.heal()
    store.fail("get", killed, after=1 + 4)
    with pytest.raises(killed):
        restore(run, target)
    assert not target.exists()
    store.heal()
    assert restore(run, target).parts_sent == PARTS - 4
    assert target.read_bytes() == (source / "model.bin").read_bytes()
    assert names(target.parent) == ["ckpt"]


@pytest.mark.req(33)
@pytest.mark.parametrize("step", ["put_in_place", "symlinks", "_retire", "_exchange"])
def test_killed_late_nothing_is_lost_and_nothing_is_fetched_again(
    run: Run,
    saved: Saved,
    store: Any,
    source: Path,
    target: Path,
    killed: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
    content: Content,
    *,
    step: str,
) -> None:
    assert saved.committed
    target.mkdir(parents=True)
    (target / "notes").write_text("mine")

    def kill(*_: object, **__: object) -> None:
        raise killed

    with monkeypatch.context() as patch:
        if step == "put_in_place":
            patch.setattr(restore_module, "put_in_place", kill)
        elif step == "symlinks":
            patch.setattr(Path, "symlink_to", kill)
        else:
            patch.setattr(targets, step, kill)
        with pytest.raises(killed):
            restore(run, target)
    store.heal()
    restored = restore(run, target)
    assert restored.bytes_sent == 0
    assert content(target) == content(source)
    assert names(target.parent) == ["ckpt", "ckpt.before-restore-1"]
    assert names(target.with_name("ckpt.before-restore-1")) == ["notes"]


def test_killed_with_links_made_the_next_one_does_not_follow_them(
    run: Run, source: Path, target: Path, killed: type[BaseException], monkeypatch: pytest.MonkeyPatch, content: Content
) -> None:
    """What is left is cleared of what other patterns brought: through a link that would hit what is wanted."""
    (source / "alias").symlink_to("sub")
    save(run, source, step=7)

    def kill(*_: object, **__: object) -> None:
        raise killed

    with monkeypatch.context() as patch:
        patch.setattr(restore_module, "put_in_place", kill)
        with pytest.raises(killed):
            restore(run, target)
    restored = restore(run, target)
    assert restored.bytes_sent == 0
    assert content(target) == content(source)


def test_what_other_patterns_left_is_cleared_away(
    run_with: Callable[..., Run], saved: Saved, store: Any, target: Path, killed: type[BaseException], content: Content
) -> None:
    assert saved.committed
    run = run_with(workers=1)
    store.fail("get", killed, after=4)
    with pytest.raises(killed):
        restore(run, target)
    store.heal()
    restore(run, target, include=["sub/optim.bin"])
    assert sorted(content(target)) == ["sub", "sub/optim.bin"]


# -- damage ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two(run: Run, source: Path, store: Any, events: list[Event]) -> tuple[Saved, Saved]:
    """Step 7, and step 8 with other content."""
    first = save(run, source, step=7)
    for name in ("model.bin", "sub/optim.bin", "config.json"):
        (source / name).write_bytes(os.urandom((source / name).stat().st_size))
    second = save(run, source, step=8)
    store.heal()
    events.clear()
    return first, second


def _delete(store: Any, prefix: str) -> None:
    store.inner.delete([f"{prefix}model.bin"])


def _damage(store: Any, prefix: str) -> None:
    damage(store, f"{prefix}model.bin")


def _damage_small(store: Any, prefix: str) -> None:
    damage(store, f"{prefix}sub/optim.bin")


def _cut(store: Any, prefix: str) -> None:
    store.inner.put(f"{prefix}config.json", b"")


@pytest.mark.req(17)
@pytest.mark.parametrize("harm", [_delete, _damage, _damage_small, _cut])
def test_a_bad_snapshot_gives_way_to_the_older_one_with_a_verdict(
    run: Run, two: tuple[Saved, Saved], store: Any, target: Path, events: list[Event], harm: Callable[[Any, str], None]
) -> None:
    harm(store, f"data/{two[1].snapshot}/")
    restored = restore(run, target)
    assert (restored.snapshot, restored.step, restored.steps_lost) == (two[0].snapshot, 7, 1)
    (skipped,) = restored.skipped
    assert skipped.snapshot == two[1].snapshot
    assert any(word in skipped.reason for word in ("model.bin", "sub/optim.bin", "config.json"))
    (told,) = [event for event in events if event.kind == Kind.FELL_BACK]
    assert two[1].snapshot in told.message
    assert names(target.parent) == ["ckpt"]


def test_a_damaged_manifest_gives_way_too(run: Run, two: tuple[Saved, Saved], store: Any, target: Path) -> None:
    damage(store, next(run.catalog.listed()).stat.key)
    restored = restore(run, target)
    assert (restored.step, [skip.snapshot for skip in restored.skipped]) == (7, [two[1].snapshot])


def test_one_deleted_since_it_was_listed_is_passed_over(
    run: Run, two: tuple[Saved, Saved], store: Any, target: Path
) -> None:
    """Retention was at work: that is no damage."""
    assert two
    newest = next(run.catalog.listed()).stat.key
    store.before = lambda verb, key: store.inner.delete([newest]) if (verb, key) == ("get", newest) else None
    restored = restore(run, target)
    assert (restored.step, restored.skipped) == (7, ())


def test_when_all_are_bad_the_target_stays_as_it_was(
    run: Run, two: tuple[Saved, Saved], store: Any, target: Path
) -> None:
    for saved in two:
        _damage(store, f"data/{saved.snapshot}/")
    target.mkdir(parents=True)
    (target / "notes").write_text("mine")
    with pytest.raises(IntegrityError, match=r"none of 2 snapshots .* the newest: part \d of 6 of model\.bin"):
        restore(run, target)
    assert names(target) == ["notes"]


def test_when_the_only_one_is_bad_no_other_is_spoken_of(
    run: Run, saved: Saved, store: Any, target: Path, events: list[Event]
) -> None:
    _damage(store, f"data/{saved.snapshot}/")
    with pytest.raises(IntegrityError, match=r"the only snapshot in .* is bad: part \d of 6 of model\.bin"):
        restore(run, target)
    assert Kind.FELL_BACK not in {event.kind for event in events}


def _of_a_later_format(run: Run, store: Any) -> None:
    """Let the newest manifest be one that only a newer ckptsync reads."""
    key = next(run.catalog.listed()).stat.key
    store.inner.put(key, b'{"format":"ckptsync-manifest","sha3":"x","snapshot":{},"version":3}')


def test_a_snapshot_of_a_later_format_is_no_damage(
    run: Run, two: tuple[Saved, Saved], store: Any, target: Path, source: Path
) -> None:
    """Else an old program would quietly go back to an old step."""
    _of_a_later_format(run, store)
    with pytest.raises(VersionError, match=r"version 3; this ckptsync reads .* install a newer ckptsync"):
        restore(run, target)
    assert not target.exists()
    with pytest.raises(VersionError):
        run.catalog.latest()
    assert restore(run, target, snapshot="7").step == 7
    assert save(run, source, step=9).committed
    assert restore(run, target).step == 9
    assert two[0].committed


@pytest.mark.parametrize("size", [1 << 36, 1 << 45])
def test_a_size_that_the_bucket_does_not_bear_out_is_damage(
    run: Run, two: tuple[Saved, Saved], store: Any, target: Path, size: int
) -> None:
    """Neither that much memory nor that much disk is asked for."""
    manifest = run.catalog.latest()
    assert manifest is not None
    huge = [
        structs.replace(entry, size=size, part_bytes=size, parts=entry.parts[:1])
        for entry in manifest.files
        if entry.path == "model.bin"
    ]
    rest = [entry for entry in manifest.entries if entry.path != "model.bin"]
    entries = tuple(sorted([*huge, *rest], key=lambda entry: entry.path))
    store.inner.put(layout.manifest_key(manifest.id), encode(structs.replace(manifest, entries=entries)))
    restored = restore(run, target)
    assert (restored.step, restored.snapshot) == (7, two[0].snapshot)
    assert f"model.bin has {SIZE} bytes in the bucket instead of {size}" in restored.skipped[0].reason


def test_a_good_restore_asks_for_no_more_than_before(run: Run, saved: Saved, store: Any, target: Path) -> None:
    assert saved.committed
    restore(run, target)
    assert "stat" not in store.count()  # the manifest tells which version of each object was committed


@pytest.mark.parametrize("options", [{"fallback": False}, {"snapshot": "8"}])
def test_one_asked_for_by_name_or_without_fallback_has_no_substitute(
    run: Run, two: tuple[Saved, Saved], store: Any, target: Path, options: dict[str, Any]
) -> None:
    _damage(store, f"data/{two[1].snapshot}/")
    with pytest.raises(IntegrityError, match=r"part \d of 6 of model\.bin"):
        restore(run, target, **options)
    assert not target.exists()


@pytest.mark.req(32)
@pytest.mark.parametrize("error", [DeniedError, TransientError, NotFoundError])
def test_a_refusal_is_no_damage(
    run: Run, two: tuple[Saved, Saved], store: Any, target: Path, error: type[Exception]
) -> None:
    assert two
    store.fail("get" if error is DeniedError else "list", error("no"))
    with pytest.raises(error):
        restore(run, target)
    assert not target.exists()


@pytest.mark.req(33)
def test_an_object_replaced_while_it_is_read_makes_the_snapshot_bad(
    run_with: Callable[..., Run], two: tuple[Saved, Saved], store: Any, target: Path
) -> None:
    key = f"data/{two[1].snapshot}/model.bin"

    def replace(verb: str, called: str) -> None:
        if verb == "get" and called == key:
            store.before = lambda *_: None
            damage(store, key)

    store.before = replace
    restored = restore(run_with(workers=1), target)
    assert restored.step == 7
    assert "not what was committed" in restored.skipped[0].reason


@pytest.mark.parametrize(
    "entry",
    [
        {"path": "../escaped"},
        {"path": "/tmp/escaped"},  # noqa: S108  never written
        {"path": "sub/../../escaped"},
        {"key": "../other/secret"},
    ],
)
def test_a_manifest_by_a_stranger_writes_nothing_outside(
    run: Run, saved: Saved, store: Any, target: Path, entry: dict[str, str]
) -> None:
    snapshot = layout.parse_snapshot_id(saved.snapshot)
    assert snapshot is not None
    good = run.catalog.get(snapshot)
    facts: dict[str, Any] = {"path": "a", "key": good.files[0].key} | entry
    evil = FileEntry(size=2, part_bytes=2, parts=good.files[0].parts, **facts)
    _commit_as(run, good, (evil,))
    restored = restore(run, target)
    assert (restored.step, len(restored.skipped)) == (7, 1)
    assert not list(target.parent.parent.rglob("escaped"))
    with pytest.raises(ManifestError):
        restore(run, target, snapshot="9")
    assert store


def _commit_as(run: Run, good: Manifest, entries: tuple[Any, ...]) -> None:
    """Put a manifest for step 9 without asking anybody."""
    snapshot = layout.new_snapshot_id(9, 9)
    facts = {"snapshot": str(snapshot), "commit_id": "x", "created": "", "entries": entries, "writer": good.writer}
    run.store.put(layout.manifest_key(snapshot), encode(Manifest(**facts)))  # type: ignore[arg-type]


def test_a_link_made_by_a_stranger_leads_nowhere_outside(run: Run, saved: Saved, target: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    snapshot = layout.parse_snapshot_id(saved.snapshot)
    assert snapshot is not None
    good = run.catalog.get(snapshot)
    for bad in (
        (LinkEntry(path="out", target="../../precious"),),
        (LinkEntry(path="out", target=str(tmp_path / "precious")),),
    ):
        _commit_as(run, good, bad)
        restored = restore(run, target)
        assert restored.step == 7
    assert names(tmp_path / "precious") == []
