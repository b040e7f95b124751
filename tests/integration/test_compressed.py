"""Packed files on real servers: killed, continued, copied on, verified, restored; by one process or a rank."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from support.packed import write_weights
from support.processes import Worker, result_of

from ckptsync.cli.main import cli
from ckptsync.options import MIB, Config, Transfer
from ckptsync.run import Run, open_run
from ckptsync.snapshot import layout
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify

PART, WORKERS, PARTS = 8 * MIB, 2, 7
SIZE = (PARTS - 1) * PART + 3 * MIB + 5
NOISE, SMALL = 2 * MIB, PART + 5 * MIB


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Weights, which are packed, beside noise, which is not."""
    folder = tmp_path / "source"
    folder.mkdir()
    write_weights(folder / "model.bin", SIZE)
    (folder / "noise.bin").write_bytes(os.urandom(NOISE))
    return folder


@pytest.fixture(autouse=True)
def _options(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process of its own is told by its environment."""
    monkeypatch.setenv("CKPTSYNC_TRANSFER_COMPRESS", "zstd")
    monkeypatch.setenv("CKPTSYNC_TRANSFER_PART_BYTES", str(PART))
    monkeypatch.setenv("CKPTSYNC_TRANSFER_WORKERS", str(WORKERS))


@pytest.fixture
def run(url: str, tmp_path: Path) -> Iterator[Run]:
    options = Transfer(part_bytes=PART, workers=WORKERS, compress="zstd")
    with open_run(url, Config(transfer=options, state_dir=str(tmp_path / "state"))) as run:
        yield run


def newest(run: Run) -> dict[str, FileEntry]:
    """Files of the newest snapshot by path."""
    manifest = run.catalog.latest()
    assert manifest is not None
    return {entry.path: entry for entry in manifest.files}


def comes_back(run: Run, source: Path, target: Path) -> None:
    """Make sure that the newest snapshot is good, and what is on the disk."""
    assert verify(run).bad == ()
    restore(run, target)
    for name in ("model.bin", "noise.bin"):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    assert {path.name for path in target.iterdir()} == {"model.bin", "noise.bin"}


def kill_amid(run: Run, worker: Worker, source: Path, monkeypatch: pytest.MonkeyPatch, *, parts: int) -> None:
    """Save step 1 slowly, and end that with SIGKILL when the bucket has so many parts, but no snapshot."""
    monkeypatch.setenv("CKPTSYNC_TRANSFER_MAX_BYTES_PER_S", str(12 * MIB))
    process = worker("save", run.url, source, 1)
    before_s = time.monotonic() + 60
    while sum(len(run.store.parts(upload)) for upload in run.store.uploads(layout.DATA)) < parts:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < before_s
        time.sleep(0.02)
    process.kill()
    process.wait()
    monkeypatch.delenv("CKPTSYNC_TRANSFER_MAX_BYTES_PER_S")
    assert run.catalog.latest() is None


@pytest.mark.parametrize("lost", [False, True], ids=["with the journal", "without the journal"])
def test_killed_continued_copied_on_verified_and_restored(
    run: Run, source: Path, tmp_path: Path, worker: Worker, monkeypatch: pytest.MonkeyPatch, *, lost: bool
) -> None:
    kill_amid(run, worker, source, monkeypatch, parts=4)
    if lost:
        shutil.rmtree(tmp_path / "state")
    saved = result_of(worker("save", run.url, source, 1))
    # a directory vouches for nothing and GCS for whole objects only: there the journal alone proves what is there, and what was
    # sent last may not be in it yet
    kept = 4 if run.url.startswith("s3://") else 0 if lost else 4 - WORKERS
    assert saved["parts_sent"] <= PARTS + 1 - kept
    entry = newest(run)["model.bin"]
    assert entry.packing is not None
    assert entry.packing.shuffle == 4
    assert not newest(run)["noise.bin"].packing
    assert run.store.stat(entry.key).size == entry.stored_size < 0.87 * SIZE
    assert saved["bytes"] == SIZE + NOISE
    assert saved["bytes_stored"] == entry.stored_size + NOISE
    comes_back(run, source, tmp_path / "first")

    with (source / "model.bin").open("r+b") as file:
        file.seek(2 * PART)
        file.write(b"changed")
    again = save(run, source, step=2)
    assert again.parts_sent == (1 if run.store.traits.copy_part else PARTS)
    assert again.bytes_sent + again.bytes_reused == again.bytes_stored
    assert save(run, source, step=3).bytes_sent == 0
    comes_back(run, source, tmp_path / "back")


@pytest.mark.slow
def test_memory_is_bounded_by_parts(url: str, source: Path, tmp_path: Path, worker: Worker) -> None:
    with (source / "model.bin").open("ab") as file:
        for _ in range(3):
            file.write((source / "model.bin").read_bytes()[:SIZE])
    saved = result_of(worker("save", url, source, 1))
    restored = result_of(worker("restore", url, tmp_path / "back"))
    assert (tmp_path / "back" / "model.bin").read_bytes() == (source / "model.bin").read_bytes()
    grown = saved["grown"], restored["grown"]
    sys.stderr.write(f"\n{url[:12]}: grown {grown[0] >> 20} MiB up, {grown[1] >> 20} MiB down\n")
    assert saved["bytes"] > 4 * SIZE
    assert max(grown) <= 4 * WORKERS * PART + (64 << 20)


def test_parts_of_zeros_are_as_long_as_the_service_wants_them(run: Run, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "model.bin").write_bytes(bytes(2 * PART) + os.urandom(MIB) + b"end")
    (source / "noise.bin").write_bytes(b"")
    saved = save(run, source, step=1)
    least = 2 * run.store.traits.min_part_bytes + MIB
    assert least <= saved.bytes_stored < least + MIB // 2
    assert newest(run)["model.bin"].packing
    comes_back(run, source, tmp_path / "back")


def test_some_files_are_restored_alone(run: Run, source: Path, tmp_path: Path) -> None:
    os.truncate(source / "model.bin", SMALL)
    save(run, source, step=1)
    entry = newest(run)["model.bin"]
    restored = restore(run, tmp_path / "packed", include=["model*"])
    assert (restored.files, restored.bytes, restored.bytes_sent) == (1, SMALL, entry.stored_size)
    assert [path.name for path in (tmp_path / "packed").iterdir()] == ["model.bin"]
    assert (tmp_path / "packed" / "model.bin").read_bytes() == (source / "model.bin").read_bytes()
    restored = restore(run, tmp_path / "plain", include=["noise*"])
    assert (restored.files, restored.bytes, restored.bytes_sent) == (1, NOISE, NOISE)


def test_a_rank_stores_its_files_as_they_are(run: Run, source: Path, tmp_path: Path) -> None:
    os.truncate(source / "model.bin", SMALL)
    save(run, source, step=1)
    told = CliRunner().invoke(
        cli,
        ["save", str(source), run.url, *"--step 2 --compress zstd --rank 0 --world 1 --launch a".split()],  # noqa: SIM905
    )
    assert told.exit_code == 0, told.output
    assert "ranks do not compress" in told.stderr
    assert not any(entry.packing for entry in newest(run).values())
    assert run.store.read(newest(run)["model.bin"].key) == (source / "model.bin").read_bytes()
    comes_back(run, source, tmp_path / "back")
