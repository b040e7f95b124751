"""There and back, killed at random, changed a little; at full size with `make test-big`."""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Self

import pytest
from support.processes import Killing, Worker, result_of
from support.tree import GIB, change, fingerprint, make_tree

from ckptsync.policy import LatestN
from ckptsync.run import open_run
from ckptsync.snapshot import layout
from ckptsync.verbs.gc import collect

PART, WORKERS = 16 << 20, 8
IN_FLIGHT = PART * WORKERS
SIZE = int(float(os.environ.get("CKPTSYNC_TEST_GIB", "0.125")) * GIB)
KILLS = 10 if SIZE >= GIB else 3


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree") / "source"
    root.mkdir()
    make_tree(root, SIZE)
    return root


def test_comes_back_byte_identical_within_bounded_memory(url: str, tree: Path, tmp_path: Path, worker: Worker) -> None:
    saved = result_of(worker("save", url, tree, 1))
    restored = result_of(worker("restore", url, tmp_path / "back"))
    assert fingerprint(tmp_path / "back") == fingerprint(tree)
    assert saved["bytes_sent"] == saved["bytes"] == restored["bytes"] == restored["bytes_sent"]
    report(f"{url[:12]}: grown {saved['grown'] >> 20} MiB up, {restored['grown'] >> 20} MiB down")
    assert saved["grown"] <= 2 * IN_FLIGHT + (64 << 20)
    assert restored["grown"] <= 2 * IN_FLIGHT + (64 << 20)
    shutil.rmtree(tmp_path / "back")


def report(line: str) -> None:
    """Show a figure beside the test's name (`pytest -s`)."""
    sys.stderr.write(f"\n{line}\n")


def present_bytes(url: str, step: int, *, vouched: bool = False) -> int:
    """Payload of uncommitted attempts at a step that the bucket holds; with `vouched`, of which it can prove the content."""
    with open_run(url) as run:
        if any(listed.id.step == step for listed in run.catalog.listed()):
            return 0
        total = 0
        for listed in list(run.store.list(layout.DATA)):
            snapshot = layout.parse_snapshot_id(listed.key.split("/")[1])
            # of an object made of parts GCS keeps a CRC32C only, which proves nothing
            if snapshot and snapshot.step == step and not (vouched and url.startswith("gs://") and listed.size > PART):
                total += listed.size
        for upload in list(run.store.uploads(layout.DATA)):
            total += sum(part.size for part in run.store.parts(upload).values())
        return total


def keep_newest(url: str) -> None:
    """Delete all but the newest snapshot, and what kills left."""
    with open_run(url) as run:
        collect(run, LatestN(1), grace_s=0, dry_run=False)


class Watching:
    """A thread that looks all the time and notes what should not be."""

    def __init__(self) -> None:
        self.wrong: list[object] = []
        self.looks = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        while not self.stop.wait(0.02):
            self.look()
            self.looks += 1

    def look(self) -> None:
        raise AssertionError

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        assert self.looks
        assert not self.wrong


class Watcher(Watching):
    """Reads the newest snapshot of a run."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url, self.allowed = url, {1}

    def run(self) -> None:
        with open_run(self.url) as self.opened:
            super().run()

    def look(self) -> None:
        allowed = set(self.allowed)
        found = self.opened.catalog.latest()
        if found is None or found.id.step not in allowed | self.allowed:
            self.wrong.append(found)


@pytest.mark.req(1, 7)
def test_killed_uploads_continue_and_readers_see_old_or_new(
    url: str, tree: Path, tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTSYNC_TRANSFER_COPY_UNCHANGED", "false")
    step = 1
    killing = Killing(1, result_of(worker("save", url, tree, step))["seconds"])
    with Watcher(url) as watcher:
        while killing.killed < KILLS:
            step += 1
            watcher.allowed |= {step}
            while killing.kills(worker("save", url, tree, step)):
                pass
            watcher.allowed &= {step}
            keep_newest(url)
        there = 0
        while not there:
            step += 1
            watcher.allowed |= {step}
            if killing.kills(worker("save", url, tree, step)):
                there = present_bytes(url, step)
        final = result_of(worker("save", url, tree, step))
    report(
        f"{url[:12]}: {killing.killed} kills, {there >> 20} MiB there, sent {final['bytes_sent'] >> 20} MiB of {SIZE >> 20}"
    )
    assert final["bytes_sent"] <= final["bytes"] - there + IN_FLIGHT
    result_of(worker("restore", url, tmp_path / "back"))
    assert fingerprint(tmp_path / "back") == fingerprint(tree)
    shutil.rmtree(tmp_path / "back")


class Looker(Watching):
    """Looks at a directory that is being replaced."""

    def __init__(self, target: Path, allowed: list[tuple[set[str], int]]) -> None:
        super().__init__()
        self.target, self.allowed = target, allowed

    def look(self) -> None:
        folder = os.open(self.target, os.O_RDONLY)  # one look at one folder, whatever its name leads to later
        try:
            with os.scandir(folder) as entries:
                names = {entry.name for entry in entries}
            seen = names, os.stat("model.bin", dir_fd=folder).st_size
        except FileNotFoundError:
            return  # the old folder was being deleted under our feet, after the swap
        finally:
            os.close(folder)
        if seen not in self.allowed and len(seen[0]) >= len(self.allowed[0][0]):
            self.wrong.append(seen)


@pytest.mark.req(33)
def test_killed_restores_continue_and_the_target_is_old_or_new(
    url: str, tree: Path, tmp_path: Path, worker: Worker
) -> None:
    old, target = tmp_path / "old", tmp_path / "target"
    old.mkdir()
    (old / "model.bin").write_bytes(b"old")
    result_of(worker("save", url, old, 1))
    result_of(worker("restore", url, target))
    result_of(worker("save", url, tree, 2))
    killing = Killing(2, result_of(worker("restore", url, tmp_path / "timed"))["seconds"])
    shutil.rmtree(tmp_path / "timed")
    before, after = fingerprint(target), fingerprint(tree)
    allowed = [({"model.bin"}, 3), ({name for name in after if "/" not in name}, (tree / "model.bin").stat().st_size)]
    rounds = 0
    with Looker(target, allowed):
        while killing.killed < KILLS:
            rounds += 1
            there = 0
            while killing.kills(worker("restore", url, target)):
                assert fingerprint(target) in (before, after)
                there = sum(path.stat().st_blocks * 512 for path in tmp_path.glob(".target.*/**/*") if path.is_file())
            final = result_of(worker("restore", url, target))
            assert fingerprint(target) == after
            assert final["bytes_sent"] <= max(0, final["bytes"] - there) + IN_FLIGHT
            assert not list(tmp_path.glob(".target*"))
            result_of(worker("restore", url, target, "1"))
    report(f"{url[:12]}: {killing.killed} kills of restores in {rounds} rounds")
    shutil.rmtree(target)


def test_one_percent_changed_sends_little(url: str, tree: Path, tmp_path: Path, worker: Worker) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tree, copy, symlinks=True)
    first = result_of(worker("save", url, copy, 1))
    touched = change(copy, 0.01)
    again = result_of(worker("save", url, copy, 2))
    assert again["bytes_sent"] + again["bytes_reused"] == first["bytes"]
    report(f"{url[:12]}: {again['bytes_sent'] >> 20} MiB of {first['bytes'] >> 20} sent")
    if not url.startswith("gs://"):  # GCS copies whole objects only
        assert again["bytes_sent"] <= 0.02 * first["bytes"] + touched * PART
    result_of(worker("restore", url, tmp_path / "back"))
    assert fingerprint(tmp_path / "back") == fingerprint(copy)
    shutil.rmtree(copy)
    shutil.rmtree(tmp_path / "back")


@pytest.mark.req(7)
def test_without_its_journal_a_killed_upload_continues_from_what_the_bucket_holds(
    url: str, tree: Path, tmp_path: Path, worker: Worker
) -> None:
    killing, step, there = Killing(3, 1.0), 0, 0
    while not there:
        step += 1
        if killing.kills(worker("save", url, tree, step)):
            there = present_bytes(url, step, vouched=True)
    shutil.rmtree(tmp_path / "state")
    final = result_of(worker("save", url, tree, step))
    report(f"{url[:12]}: {there >> 20} MiB there without a journal, sent {final['bytes_sent'] >> 20} MiB")
    if "://" in url:  # a directory vouches for nothing, so everything is written again
        assert final["bytes_sent"] <= final["bytes"] - there
    result_of(worker("restore", url, tmp_path / "back"))
    assert fingerprint(tmp_path / "back") == fingerprint(tree)
    shutil.rmtree(tmp_path / "back")
