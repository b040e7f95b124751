"""Restore: the newest snapshot, whole and verified, or the target as it was."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ckptsync.errors import (
    ConfigError,
    DiskError,
    NoSnapshotError,
)
from ckptsync.events import Event, Kind
from ckptsync.names import promote
from ckptsync.options import MIB
from ckptsync.policy import LatestN
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.manifest import DirectoryEntry, FileEntry, Manifest, Writer
from ckptsync.store.local import LocalStore
from ckptsync.verbs import restore as restore_module
from ckptsync.verbs.gc import collect
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import Saved, save

Content = Callable[[Path], dict[str, object]]

SIZE = 5 * MIB + 7  # of the large file, as the fixture makes it
PARTS = 6
TOTAL = SIZE + 1002


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# -- what comes back ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
def test_what_comes_back_is_what_went_in(
    run_with: Callable[..., Run], saved: Saved, source: Path, target: Path, workers: int, content: Content
) -> None:
    restored = restore(run_with(workers=workers), target)
    assert content(target) == content(source)
    assert names(target.parent) == ["ckpt"]
    assert (restored.snapshot, restored.step, restored.epoch, restored.files) == (saved.snapshot, 7, 1, 4)
    assert (restored.bytes, restored.bytes_sent, restored.bytes_reused) == (TOTAL, TOTAL, 0)
    assert (restored.parts_sent, restored.target, restored.committed) == (PARTS + 2, str(target), True)
    assert (restored.skipped, restored.kept, restored.steps_lost) == ((), (), 0)


def test_the_newest_is_two_small_listings_a_lease_and_one_get_away(
    run: Run, saved: Saved, store: Any, target: Path
) -> None:
    assert saved.committed
    restore(run, target)
    assert store.calls[:2] == [("list", "manifests/"), ("list", "quarantine/")]
    assert [verb for verb, _ in store.calls[2:4]] == ["put", "get"]  # the lease stands before the manifest is read
    assert store.calls[-1] == ("delete", store.calls[2][1])
    assert store.count() == {"list": 2, "put": 1, "get": 1 + PARTS + 2, "delete": 1}


def test_every_step_of_a_restore_is_told(run: Run, saved: Saved, target: Path, events: list[Event]) -> None:
    restore(run, target)
    assert events[0] == Event(kind=Kind.PLANNED, bytes=saved.bytes, count=4)
    assert sum(event.bytes for event in events if event.kind == Kind.RECEIVED) == saved.bytes
    assert len([event for event in events if event.kind == Kind.FILE_DONE]) == 4


def test_by_id_by_step_by_alias_and_by_metric(run: Run, source: Path, target: Path) -> None:
    first = save(run, source, step=7, metrics={"loss": 1.0})
    (source / "config.json").write_bytes(b"{1}")
    save(run, source, step=8, metrics={"loss": 2.0})
    snapshot = layout.parse_snapshot_id(first.snapshot)
    assert snapshot is not None
    promote(run.catalog, snapshot, "prod")
    for name in (first.snapshot, "7", "prod", "best:loss:min"):
        assert restore(run, target, snapshot=name).step == 7
        assert (target / "config.json").read_bytes() == b"{}"
        assert restore(run, target).step == 8
        assert (target / "config.json").read_bytes() == b"{1}"


@pytest.mark.parametrize("name", ["latest", "9", "prod", "00000009-000000000007-abcdefgh"])
def test_where_there_is_none_the_target_stays_as_it_was(run: Run, target: Path, name: str) -> None:
    target.mkdir(parents=True)
    (target / "notes").write_text("mine")
    with pytest.raises(NoSnapshotError):
        restore(run, target, snapshot=name)
    assert names(target.parent) == ["ckpt"]
    assert names(target) == ["notes"]


def test_a_single_file_goes_where_it_is_said(run: Run, source: Path, target: Path, tmp_path: Path) -> None:
    save(run, source / "model.bin", step=7)
    restored = restore(run, target)
    assert target.read_bytes() == (source / "model.bin").read_bytes()
    assert (restored.files, restored.bytes, restored.parts_sent) == (1, SIZE, PARTS)
    assert target.stat().st_mtime_ns == (source / "model.bin").stat().st_mtime_ns
    assert names(target.parent) == ["ckpt"]
    (tmp_path / "folder").mkdir()
    restore(run, tmp_path / "folder")
    assert (tmp_path / "folder" / "model.bin").read_bytes() == (source / "model.bin").read_bytes()
    assert names(tmp_path / "folder") == ["model.bin"]


def test_an_empty_folder_comes_back(run: Run, tmp_path: Path, target: Path) -> None:
    (tmp_path / "void").mkdir()
    save(run, tmp_path / "void", step=7)
    restore(run, target)
    assert names(target) == []


def test_a_subset(run: Run, saved: Saved, source: Path, target: Path, content: Content) -> None:
    assert saved.committed
    restored = restore(run, target, include=["*.json", "sub/o*"])
    assert sorted(content(target)) == ["config.json", "sub", "sub/optim.bin"]
    assert (target / "sub" / "optim.bin").read_bytes() == (source / "sub" / "optim.bin").read_bytes()
    assert (restored.files, restored.bytes, restored.parts_sent) == (2, 1002, 2)


def test_a_subset_beside_many_folders_is_found_fast() -> None:
    folders = [f"other/{number:04d}" for number in range(2000)]
    files = [f"wanted/deep/{number:05d}" for number in range(20_000)]
    manifest = Manifest(
        snapshot="00000001-000000000001-abcdefgh",
        commit_id="",
        created="",
        writer=Writer(host="", pid=1),
        entries=(
            *(DirectoryEntry(path=path) for path in ("other", *folders, "wanted", "wanted/deep")),
            *(FileEntry(path=path, size=0, key=path, part_bytes=0, parts=()) for path in files),
        ),
    )
    begun_s = time.thread_time()
    chosen = restore_module._selected(manifest, ["wanted/*"])
    assert time.thread_time() - begun_s < 1
    assert [entry.path for entry in chosen] == ["wanted", "wanted/deep", *files]


def test_a_pattern_that_fits_nothing_is_refused(run: Run, saved: Saved, target: Path) -> None:
    with pytest.raises(ConfigError, match=f"no file of snapshot {saved.snapshot} fits"):
        restore(run, target, include=["*.safetensors"])
    assert not target.parent.exists() or names(target.parent) == []


# -- what stood there -----------------------------------------------------------------------------------------------------


def test_the_same_again_fetches_nothing(run: Run, saved: Saved, store: Any, target: Path) -> None:
    restore(run, target)
    store.heal()
    inode = target.stat().st_ino
    restored = restore(run, target)
    assert store.count() == {"list": 2, "put": 1, "get": 1, "delete": 1}
    assert (restored.bytes_sent, restored.bytes_reused) == (0, saved.bytes)
    assert target.stat().st_ino == inode
    assert names(target.parent) == ["ckpt"]


def test_a_single_file_again_fetches_nothing(run: Run, source: Path, store: Any, target: Path) -> None:
    save(run, source / "model.bin", step=7)
    restore(run, target)
    store.heal()
    restored = restore(run, target)
    assert store.count() == {"list": 2, "put": 1, "get": 1, "delete": 1}
    assert (restored.bytes_sent, restored.bytes_reused) == (0, SIZE)


def test_what_is_in_a_snapshot_is_deleted(run: Run, saved: Saved, source: Path, target: Path) -> None:
    restore(run, target)
    (source / "model.bin").write_bytes(b"newer")
    save(run, source, step=8)
    restored = restore(run, target)
    assert (restored.step, restored.kept) == (8, ())
    assert names(target.parent) == ["ckpt"]
    assert saved.step == 7


def test_part_of_a_snapshot_is_in_it_too(run: Run, saved: Saved, target: Path) -> None:
    assert saved.committed
    restore(run, target, include=["*.json"])
    restored = restore(run, target)
    assert restored.kept == ()
    assert names(target.parent) == ["ckpt"]


@pytest.mark.parametrize(
    "change",
    [
        lambda target: (target / "model.bin").write_bytes(b"trained on"),
        lambda target: (target / "sub" / "notes.txt").write_text("mine"),
        lambda target: (target / "extra").symlink_to("model.bin"),
        lambda target: ((target / "latest").unlink(), (target / "latest").symlink_to("config.json")),
        lambda target: os.mkfifo(target / "pipe"),
    ],
)
def test_what_is_in_no_snapshot_is_kept_beside(
    run: Run, saved: Saved, source: Path, target: Path, change: Callable[[Path], None], content: Content
) -> None:
    assert saved.committed
    restore(run, target)
    change(target)
    before = names(target)
    restored = restore(run, target)
    kept = target.with_name("ckpt.before-restore-1")
    assert restored.kept == (str(kept),)
    assert names(kept) == before
    assert content(target) == content(source)


def test_a_single_file_that_is_in_no_snapshot_is_kept_beside(run: Run, source: Path, target: Path) -> None:
    save(run, source / "config.json", step=7)
    target.parent.mkdir()
    target.write_text("mine")
    restored = restore(run, target)
    assert restored.kept == (str(target.with_name("ckpt.before-restore-1")),)
    assert target.with_name("ckpt.before-restore-1").read_text() == "mine"
    assert target.read_bytes() == b"{}"
    (source / "config.json").write_bytes(b"{2}")
    save(run, source / "config.json", step=8)
    assert restore(run, target).kept == ()
    assert names(target.parent) == ["ckpt", "ckpt.before-restore-1"]


def test_a_file_where_a_folder_is_to_be_is_refused_and_the_other_way_round(
    run: Run, saved: Saved, source: Path, target: Path
) -> None:
    assert saved.committed
    target.parent.mkdir()
    target.write_text("mine")
    with pytest.raises(ConfigError, match="ckpt is a file, and the snapshot is a directory"):
        restore(run, target)
    assert target.read_text() == "mine"
    save(run, source / "config.json", step=8)
    (target.parent / "folder" / "config.json").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"config\.json is a directory, and the snapshot is a file"):
        restore(run, target.parent / "folder")
    assert names(target.parent) == ["ckpt", "folder"]


def test_a_link_to_a_folder_stays_a_link(
    run: Run, saved: Saved, source: Path, target: Path, tmp_path: Path, content: Content
) -> None:
    assert saved.committed
    disk = tmp_path / "disk" / "big"
    disk.mkdir(parents=True)
    (disk / "notes").write_text("mine")
    target.parent.mkdir()
    target.symlink_to(disk)
    restored = restore(run, target)
    assert target.is_symlink()
    assert content(target) == content(disk) == content(source)
    assert restored.kept == (str(disk.with_name("big.before-restore-1")),)
    assert names(target.parent) == ["ckpt"]


def test_a_target_that_cannot_be_replaced_has_its_entries_replaced(
    run: Run, saved: Saved, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, content: Content
) -> None:
    assert saved.committed
    target.mkdir(parents=True)
    (target / "config.json").write_text("mine")
    (target / "sub").mkdir()
    is_mount = Path.is_mount
    monkeypatch.setattr(Path, "is_mount", lambda path: path == target or is_mount(path))
    restored = restore(run, target)
    assert restored.kept == (str(target / "config.json.before-restore-1"),)
    expected = content(source) | {"config.json.before-restore-1": content(target)["config.json.before-restore-1"]}
    assert content(target) == expected
    assert names(target.parent) == ["ckpt"]
    (target / "config.json.before-restore-1").unlink()
    assert restore(run, target).bytes_sent == 0


@pytest.mark.req(33)
def test_a_reader_sees_only_the_old_or_the_new(run: Run, source: Path, target: Path) -> None:
    shutil.rmtree(source / "sub")
    for step, text in ((1, b"one"), (2, b"two")):
        (source / "config.json").write_bytes(text)
        save(run, source, step=step)
    restore(run, target)
    seen: set[bytes] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            try:
                seen.add((target / "config.json").read_bytes())
            except FileNotFoundError:
                # between our two steps: path looked up in the old tree, which was deleted meanwhile
                seen.add(b"one" if target.exists() else b"nothing")

    reader = threading.Thread(target=look)
    reader.start()
    try:
        for number in range(12):
            restore(run, target, snapshot=str(1 + number % 2))
    finally:
        stop.set()
        reader.join()
    assert seen <= {b"one", b"two"}


# -- the disk -------------------------------------------------------------------------------------------------------------


def test_too_little_space_is_said_before_anything_is_fetched(
    run: Run, saved: Saved, store: Any, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(target.parent.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=saved.bytes - 1))
    with pytest.raises(DiskError, match=f"{saved.bytes} are needed"):
        restore(run, target)
    assert store.count()["get"] == 1


def test_space_already_filled_by_a_killed_restore_counts(
    run_with: Callable[..., Run],
    saved: Saved,
    store: Any,
    target: Path,
    killed: type[BaseException],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_with(workers=1)
    store.fail("get", killed, after=6)
    with pytest.raises(killed):
        restore(run, target)
    store.heal()
    usage = shutil.disk_usage(target.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=saved.bytes - 3 * MIB))
    restore(run, target)


def test_a_disk_that_fails_leaves_the_target_as_it_was(
    run: Run, saved: Saved, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert saved.committed

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    target.mkdir(parents=True)
    (target / "notes").write_text("mine")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(DiskError, match="No space left"):
        restore(run, target)
    assert names(target) == ["notes"]


@pytest.mark.usefixtures("plain_rights")
@pytest.mark.parametrize("here", [False, True])
def test_read_only_folders_come_back_and_are_restored_over(
    run: Run, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, content: Content, *, here: bool
) -> None:
    (source / "sub").chmod(0o555)
    if not here:
        source.chmod(0o555)
    else:
        target.mkdir(parents=True)
        monkeypatch.chdir(target)
    first = save(run, source, step=7).snapshot
    (source / "config.json").write_bytes(b"{1}")
    save(run, source, step=8)
    for snapshot in ("latest", first, "latest"):
        restored = restore(run, Path() if here else target, snapshot=snapshot)
        assert restored.kept == ()
        assert (target / "sub").stat().st_mode & 0o777 == 0o555
        assert here or target.stat().st_mode & 0o777 == 0o555
    assert content(target) == content(source)
    assert names(target.parent) == ["ckpt"]
    assert names(target) == names(source)


@pytest.mark.usefixtures("plain_rights")
def test_what_a_killed_restore_left_read_only_is_cleared_away(
    run: Run, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "sub").chmod(0o555)
    save(run, source, step=7)

    def kill(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(restore_module, "put_in_place", kill)
        with pytest.raises(KeyboardInterrupt):
            restore(run, target)
    restored = restore(run, target, include=["model.bin"])
    assert (restored.bytes_sent, names(target)) == (0, ["model.bin"])


def test_a_link_that_leads_nowhere_is_not_followed(run: Run, saved: Saved, target: Path) -> None:
    assert saved.committed
    target.parent.mkdir()
    target.symlink_to("nowhere")
    with pytest.raises(ConfigError, match="a link that leads nowhere"):
        restore(run, target)
    assert names(target.parent) == ["ckpt"]


def test_a_restore_in_the_current_directory_leaves_the_shell_where_it_is(
    run: Run, saved: Saved, source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, content: Content
) -> None:
    assert saved.committed
    target.mkdir(parents=True)
    monkeypatch.chdir(target)
    restore(run, Path())
    assert content(Path()) == content(target) == content(source)


# -- a run on the same disk -----------------------------------------------------------------------------------------------


@pytest.fixture
def local(run_with: Callable[..., Run], tmp_path: Path, source: Path) -> Run:
    """A run in the directory `top/run`, with one snapshot."""
    run = run_with(on=LocalStore(tmp_path / "top" / "run"))
    save(run, source, step=7)
    return run


@pytest.mark.parametrize("where", ["top/run", "top", "top/run/data", "top/run/data/new"])
def test_a_restore_never_replaces_the_run_it_comes_from(local: Run, tmp_path: Path, where: str) -> None:
    with pytest.raises(ConfigError, match="lie in each other"):
        restore(local, tmp_path / where)
    assert local.catalog.latest() is not None


def test_beside_the_run_it_may_be(local: Run, tmp_path: Path, source: Path, content: Content) -> None:
    restore(local, tmp_path / "top" / "ckpt")
    assert content(tmp_path / "top" / "ckpt") == content(source)


def test_in_the_current_directory_the_run_may_lie_among_others(
    local: Run, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, content: Content
) -> None:
    """Only what the snapshot holds is replaced there."""
    monkeypatch.chdir(tmp_path / "top")
    restore(local, Path())
    found = content(tmp_path / "top")
    assert {name: found[name] for name in content(source)} == content(source)
    assert local.catalog.latest() is not None


def test_unless_the_snapshot_holds_something_of_that_name(
    local: Run, tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "run").touch()
    save(local, source, step=8)
    monkeypatch.chdir(tmp_path / "top")
    with pytest.raises(ConfigError, match="lie in each other"):
        restore(local, Path())


def test_a_run_inside_what_is_saved_is_refused(local: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot hold a copy of itself"):
        save(local, tmp_path / "top", step=8)


def test_a_copy_of_a_snapshot_that_retention_deleted_is_not_kept_again_and_again(
    run: Run, source: Path, target: Path, change_part: Callable[[int], None]
) -> None:
    for step in range(3):
        change_part(1)
        save(run, source, step=step)
        collect(run, LatestN(1), grace_s=0, dry_run=False)
        assert restore(run, target).kept == ()
    (target / "config.json").write_bytes(b"changed here")
    change_part(1)
    save(run, source, step=9)
    collect(run, LatestN(1), grace_s=0, dry_run=False)
    assert len(restore(run, target).kept) == 1


def test_a_memory_of_restores_that_is_damaged_makes_it_keep_what_it_does_not_know(
    run: Run, source: Path, target: Path, change_part: Callable[[int], None]
) -> None:
    kept: tuple[str, ...] = ()
    for step in range(2):
        change_part(1)
        save(run, source, step=step)
        collect(run, LatestN(1), grace_s=0, dry_run=False)
        kept = restore(run, target).kept
        for memory in (run.config.state_path() / "restores").iterdir():
            memory.write_bytes(b"{}")
    assert len(kept) == 1
