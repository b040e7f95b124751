"""The newest snapshots on this machine's disk, before the bucket."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from ckptsync import tier as tier_module
from ckptsync.errors import ConfigError, FencedError, IntegrityError, NotDurableError, StoreError
from ckptsync.events import Event
from ckptsync.manager import CheckpointManager
from ckptsync.options import MIB
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.store.local import LocalStore
from ckptsync.store.memory import MemoryStore
from ckptsync.testing.faults import Killed
from ckptsync.transfer.memory_source import MemoryFile, joined
from ckptsync.verbs.carry import carry
from ckptsync.verbs.quarantine import quarantine
from ckptsync.verbs.remove import remove
from ckptsync.verbs.save import save

Make = Callable[..., CheckpointManager]


@pytest.fixture
def local(tmp_path: Path) -> Path:
    """A disk of this machine."""
    return tmp_path / "disk"


@pytest.fixture
def opened(make: Make, local: Path) -> Make:
    """Managers with a local tier there."""

    def call(**options: Any) -> CheckpointManager:
        return make(**({"local": local} | options))

    return call


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let the bucket fail until called."""
    with monkeypatch.context() as patch:

        def fail(*_: Any, **__: Any) -> Any:
            raise StoreError("the bucket is gone")

        patch.setattr(tier_module, "carry", fail)
        yield patch.undo  # type: ignore[misc]


def steps(folder: Path) -> list[int]:
    """What is committed below a folder, the newest first."""
    found = sorted(path.name for path in folder.rglob("manifests/*.json"))
    ids = [layout.snapshot_of_manifest_key(f"manifests/{name}") for name in found]
    return [one.step for one in ids if one is not None]


def lost(manager: CheckpointManager) -> None:
    """End a manager as SIGKILL would, once its threads stand still."""
    manager._saver.join(30)
    manager._saver.take_failure()
    manager.close()


def restored(manager: CheckpointManager) -> tuple[int, int]:
    """Where a manager goes on, and what it restored."""
    state = {"n": -1}
    return manager.restore(n=state), state["n"]


def test_a_save_is_on_the_disk_and_in_the_bucket_as_one_and_the_same(opened: Make, local: Path, tmp_path: Path) -> None:
    with opened() as manager:
        for step in (1, 2, 3):
            manager.save(step, n={"n": step}, metrics={"loss": 0.5, "odd": float("nan")}, meta={"who": "me"})
        manager.wait()
        there = manager.latest()
        here = manager._tier.run.catalog.latest()  # type: ignore[union-attr]
        assert there is not None
        assert here is not None
    assert (steps(tmp_path / "run"), steps(local)) == ([3, 2, 1], [3])
    assert (there.commit_id, there.metrics, there.meta, there.provenance) == (
        here.commit_id,
        {"loss": 0.5, "odd": None},
        {"who": "me"},
        here.provenance,
    )
    assert [(one.path, one.size, one.parts, one.mtime_ns) for one in there.files] == [
        (one.path, one.size, one.parts, one.mtime_ns) for one in here.files
    ]


def test_a_restart_reads_the_disk(opened: Make, tmp_path: Path) -> None:
    with opened() as manager:
        manager.save(7, n={"n": 7})
    for path in (tmp_path / "run/data").rglob("*.pt"):
        path.unlink()
    with opened() as manager:
        assert restored(manager) == (8, 7)


def test_a_damaged_copy_is_passed_over(opened: Make, local: Path, told: list[Event]) -> None:
    with opened() as manager:
        manager.save(7, n={"n": 7})
    (file,) = local.rglob("data/*/n.pt")
    file.chmod(0o644)
    file.write_bytes(b"\0" * file.stat().st_size)
    with opened() as manager:
        assert restored(manager) == (8, 7)
    assert "the copy of step 7 on this machine is bad" in " ".join(event.message for event in told)


def test_on_an_empty_disk_the_bucket_is_read(opened: Make, local: Path) -> None:
    with opened() as manager:
        manager.save(7, n={"n": 7})
    shutil.rmtree(local)
    with opened() as manager:
        assert restored(manager) == (8, 7)
        manager.save(8, n={"n": 8})
    assert steps(local) == [8]


@pytest.mark.req(23)
def test_what_was_not_sent_is_restored_and_sent_at_the_next_start(
    opened: Make, local: Path, tmp_path: Path, unplugged: Callable[[], None]
) -> None:
    killed = opened()
    for step in (1, 2, 3):
        killed.save(step, n={"n": step})
        with pytest.raises(StoreError):
            killed.wait()
    lost(killed)
    assert (steps(tmp_path / "run"), steps(local)) == ([], [3, 2, 1])  # nothing that is not durable is deleted
    unplugged()
    with opened() as manager:
        assert restored(manager) == (4, 3)
        manager.wait()
        assert steps(tmp_path / "run") == [3]  # those before it were overtaken
        assert steps(local) == [3]
        assert restored(manager) == (4, 3)


def test_who_saves_without_restoring_sends_it_first(
    opened: Make, tmp_path: Path, unplugged: Callable[[], None]
) -> None:
    killed = opened()
    killed.save(3, n={"n": 3})
    lost(killed)
    unplugged()
    with opened() as manager:
        manager.save(4, n={"n": 4})
    assert steps(tmp_path / "run") == [4, 3]


def test_a_kill_between_the_commit_and_the_note_changes_nothing(
    opened: Make, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened() as manager:
        manager.save(1, n={"n": 1})
    killed = opened()
    with monkeypatch.context() as patch:
        patch.setattr(tier_module.LocalTier, "_write_note", lambda *_: (_ for _ in ()).throw(Killed))
        assert killed._tier is not None
        killed._tier.has_begun = True
        killed.save(2, n={"n": 2})
        lost(killed)
    assert (steps(tmp_path / "run"), steps(local)) == ([2, 1], [2, 1])
    with opened() as manager:
        assert restored(manager) == (3, 2)
        manager.wait()
    assert steps(tmp_path / "run") == [2, 1]  # it is not sent twice


def test_a_kill_after_the_commit_of_one_and_before_that_of_the_next(
    opened: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = opened()
    with monkeypatch.context() as patch:
        patch.setattr(tier_module, "collect", lambda *_, **__: None)
        killed.save(1, n={"n": 1})
        killed.wait()
        note = killed._tier._place.read_bytes()  # type: ignore[union-attr]
        killed.save(2, n={"n": 2})
        killed.wait()
        killed._tier._place.write_bytes(note)  # type: ignore[union-attr]
        patch.setattr(tier_module, "carry", lambda *_, **__: (_ for _ in ()).throw(Killed))
        killed.save(3, n={"n": 3})
        lost(killed)
    with opened() as manager:
        assert restored(manager) == (4, 3)
    assert steps(tmp_path / "run") == [3, 2, 1]


def test_what_another_machine_overtook_is_neither_used_nor_sent(
    opened: Make, make: Make, local: Path, tmp_path: Path, unplugged: Callable[[], None]
) -> None:
    killed = opened()
    killed.save(5, n={"n": 5})
    lost(killed)
    unplugged()
    with make(local=tmp_path / "another disk") as other:
        assert restored(other) == (0, -1)
        other.save(2, n={"n": 2})
    with opened() as manager:
        assert restored(manager) == (3, 2)
        manager.save(3, n={"n": 3})
    assert steps(tmp_path / "run") == [3, 2]
    assert steps(local) == [3]


@pytest.mark.parametrize("how", ["removed", "quarantined"])
def test_what_was_taken_out_of_the_bucket_does_not_come_back(opened: Make, local: Path, how: str) -> None:
    with opened(local_keep=5) as manager:
        for step in (1, 2):
            manager.save(step, n={"n": step})
        manager.wait()
        newest = manager.latest()
        assert newest is not None
        if how == "removed":
            remove(manager._run, newest.snapshot)
        else:
            quarantine(manager._run, newest.id, [("n.pt", 1, "bad")])
    assert steps(local) == [2, 1]
    with opened() as manager:
        assert restored(manager) == (2, 1)


def test_a_half_written_snapshot_is_never_taken(opened: Make, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened() as manager:
        manager.save(1, n={"n": 1})
    plain, killed = LocalStore.put, opened()

    def kill(self: LocalStore, key: str, data: Any, **options: Any) -> Any:
        if str(self.root).startswith(str(local)) and key.startswith("manifests/"):
            raise Killed
        return plain(self, key, data, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "put", kill)
        killed.save(2, n={"n": 2})
        lost(killed)
    with opened() as manager:
        assert restored(manager) == (2, 1)
        manager.save(2, n={"n": 2})
    assert steps(local) == [2]


@pytest.mark.req(23)
def test_a_full_disk_loses_what_is_durable_and_costs_no_snapshot(
    opened: Make, local: Path, tmp_path: Path, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [1 << 40]
    monkeypatch.setattr(tier_module.LocalTier, "_free_bytes", lambda _: free[0])
    with opened(local_keep=3) as manager:
        for step in (1, 2):
            manager.save(step, n={"n": step})
        manager.wait()
        assert steps(local) == [2, 1]
        free[0] = 10
        manager.save(3, n={"n": 3})
        manager.wait()
        assert (steps(tmp_path / "run"), steps(local)) == ([3, 2, 1], [])
        assert "are needed below" in told[-1].message
        assert restored(manager) == (4, 3)
        free[0] = 1 << 40
        manager.save(4, n={"n": 4})
    assert (steps(tmp_path / "run"), steps(local)) == ([4, 3, 2, 1], [4])


@pytest.mark.req(23)
@pytest.mark.usefixtures("unplugged")
def test_on_a_full_disk_what_is_not_durable_stays(opened: Make, local: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = opened()
    manager.save(1, n={"n": 1})
    with pytest.raises(StoreError):
        manager.wait()
    monkeypatch.setattr(tier_module.LocalTier, "_free_bytes", lambda _: 0)
    manager.save(2, n={"n": 2})
    lost(manager)
    assert steps(local) == [1]


@pytest.mark.parametrize("seen_by", ["its version", "its digest alone"])
def test_damage_on_the_disk_is_never_sent(
    opened: Make, local: Path, tmp_path: Path, unplugged: Callable[[], None], seen_by: str
) -> None:
    killed = opened()
    killed.save(1, n={"n": 1}, m={"m": 1})
    lost(killed)
    unplugged()
    (file,) = local.rglob("data/*/m.pt")
    before = file.stat()
    file.chmod(0o644)
    with file.open("r+b") as content:
        content.write(b"\0" * before.st_size)
    if seen_by == "its digest alone":
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    manager = opened()
    assert restored(manager) == (2, 1)  # what was asked for is good
    with pytest.raises(IntegrityError, match=r"m\.pt"):
        manager.wait()
    lost(manager)
    assert steps(tmp_path / "run") == []
    with opened() as manager:
        assert restored(manager) == (0, -1)


def test_damage_is_found_where_the_bucket_cuts_files_elsewhere(run: Run, run_with: Callable[..., Run]) -> None:
    source, size = run_with(on=MemoryStore(), part_bytes=2 * MIB), 5 * MIB
    tree = joined([MemoryFile.of("a", [memoryview(os.urandom(size))], made_ns=0)], (), now_ns=0)
    save(source, tree, step=1)
    manifest = source.catalog.latest()
    assert manifest is not None
    carried = carry(source, manifest, run)
    (copy,) = run.catalog.latest().files  # type: ignore[union-attr]
    assert (copy.part_bytes, len(copy.parts)) == (MIB, 5)
    (entry,) = manifest.files
    content = bytearray(source.store.read(entry.key))
    assert run.store.read(copy.key) == content
    content[0] ^= 1  # in a part that is cut otherwise there
    source.store.put(entry.key, content)
    untagged = msgspec.structs.replace(manifest, entries=(msgspec.structs.replace(entry, tag=""),))
    with pytest.raises(IntegrityError, match="a is not what was committed"):
        carry(source, untagged, run)
    assert [str(one.id) for one in run.catalog.listed()] == [carried.snapshot]


def test_the_next_save_waits_for_the_disk_alone(
    opened: Make, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, plain = threading.Event(), tier_module.carry

    def waiting(*args: Any, **options: Any) -> Any:
        go_on.wait(30)
        return plain(*args, **options)

    monkeypatch.setattr(tier_module, "carry", waiting)
    manager = opened()
    for step in (1, 2, 3):
        manager.save(step, n={"n": step})
    while steps(local) != [3, 2, 1]:
        assert manager._saver.is_busy
    assert steps(tmp_path / "run") == []
    go_on.set()
    manager.close()
    assert steps(tmp_path / "run") == [3, 2, 1]
    assert steps(local) == [3]


def test_the_latest_on_the_disk_takes_the_place_of_the_one_that_waits(
    opened: Make, local: Path, tmp_path: Path, told: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, begun, plain = threading.Event(), threading.Event(), tier_module.carry

    def waiting(*args: Any, **options: Any) -> Any:
        begun.set()
        go_on.wait(30)
        return plain(*args, **options)

    monkeypatch.setattr(tier_module, "carry", waiting)
    manager = opened(busy="latest")
    for step in (1, 2, 3, 4):
        manager.save(step, n={"n": step})
        manager._saver._local.join()  # type: ignore[union-attr]
        assert begun.wait(30)
    assert steps(local) == [4, 3, 2, 1]
    go_on.set()
    manager.close()
    assert (steps(tmp_path / "run"), steps(local)) == ([4, 1], [4])
    assert [event.message.split(" is kept")[0] for event in told] == ["step 2", "step 3"]


def test_runs_share_a_disk(opened: Make, local: Path, tmp_path: Path) -> None:
    with opened() as manager:
        manager.save(1, n={"n": 1})
    with CheckpointManager(tmp_path / "other/run", local=local) as manager:
        assert restored(manager) == (0, -1)
        manager.save(2, n={"n": 2})
    with opened() as manager:
        assert restored(manager) == (2, 1)


def test_who_was_overtaken_on_the_same_disk_saves_no_more(opened: Make) -> None:
    zombie, successor = opened(), opened()
    zombie.save(1, n={"n": 1})
    zombie.wait()
    successor.save(2, n={"n": 2})
    successor.wait()
    zombie.save(3, n={"n": 3})
    with pytest.raises(FencedError):
        zombie.wait()


def test_a_path_with_the_disk_in_it_is_refused(opened: Make, local: Path) -> None:
    with opened() as manager:
        manager.save(1, n={"n": 1})
        manager.wait()
        with pytest.raises(ConfigError, match="lies inside"):
            manager.save(2, folder=local)
    with pytest.raises(ConfigError, match="local_keep"):
        opened(local_keep=0)


def test_a_path_may_change_once_it_is_on_the_disk(
    opened: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, plain = threading.Event(), tier_module.carry

    def waiting(*args: Any, **options: Any) -> Any:
        go_on.wait(30)
        return plain(*args, **options)

    monkeypatch.setattr(tier_module, "carry", waiting)
    log = tmp_path / "log.txt"
    log.write_text("one")
    with opened() as manager:
        manager.save(1, log=log)
        manager._saver._local.join()  # type: ignore[union-attr]
        log.write_text("three")
        go_on.set()
    with opened() as manager:
        manager.restore(log=tmp_path / "out.txt")
    assert (tmp_path / "out.txt").read_text() == "one"


def test_another_process_that_is_alive_has_the_disk(
    opened: Make, local: Path, tmp_path: Path, told: list[Event]
) -> None:
    script = f"""
import sys
from ckptsync import CheckpointManager, Config
config = Config(state_dir={str(tmp_path / "state")!r})
manager = CheckpointManager({str(tmp_path / "run")!r}, local={str(local)!r}, config=config)
manager.save(5, n={{"n": 5}})
manager.wait()
print("saved", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "saved\n"
        with opened() as manager:
            assert restored(manager) == (6, 5)
            assert "another process of this machine is at work" in told[0].message
            manager.save(6, n={"n": 6})
            manager.wait()
            assert (steps(tmp_path / "run"), steps(local)) == ([6, 5], [5])
            other.kill()
            other.wait()
            manager.save(7, n={"n": 7})
        assert (steps(tmp_path / "run"), steps(local)) == ([7, 6, 5], [7])


def test_a_bucket_that_takes_nothing_does_not_make_the_copy_bad(
    opened: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise IntegrityError("the bucket has made another object of it")

    killed = opened()
    with monkeypatch.context() as patch:
        patch.setattr(tier_module, "carry", refuse)
        killed.save(1, n={"n": 1})
        with pytest.raises(IntegrityError, match="another object"):
            killed.wait()
    lost(killed)
    with opened() as manager:
        assert restored(manager) == (2, 1)
    assert steps(tmp_path / "run") == [1]


def test_from_a_full_disk_no_third_copy_waits_in_memory(
    opened: Make, tmp_path: Path, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tier_module.LocalTier, "_free_bytes", lambda _: 0)
    manager, weights, taken = opened(busy="latest"), torch.zeros(1000), list[Any]()
    plain = manager._give_back
    monkeypatch.setattr(manager._saver, "_give_back", lambda one: (taken.append(one), plain(one)))
    for step in range(5):
        manager.save(step, weights=weights)
    assert len(taken) == 3  # of five, one is under way and one waits
    with pytest.raises(NotDurableError):
        manager.wait(0.5)
    assert not manager._saver._upload._waiting
    slow.set()
    manager.close()
    assert steps(tmp_path / "run") == [4, 0]
    assert len(taken) == 5


def test_a_second_manager_of_a_process_does_not_take_the_folder_from_the_first(
    opened: Make, local: Path, told: list[Event]
) -> None:
    with opened() as first:
        first.save(1, n={"n": 1})
        first.wait()
        with opened() as second:
            second.save(2, n={"n": 2})
        assert any("another manager of this process" in event.message for event in told)
        (lock,) = local.rglob("lock")
        other = f"import fcntl; fcntl.lockf(open({str(lock)!r}, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
        ended = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
        assert "BlockingIOError" in ended.stderr
