"""Sixteen real processes, each a rank, on real servers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ckptsync.run import open_run
from ckptsync.snapshot import layout
from ckptsync.verbs.restore import restore
from ckptsync.verbs.verify import verify

WORLD = 4 if os.environ.get("CKPTSYNC_TEST_SHORT") else 16


def start(url: str, source: Path, rank: int, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from ckptsync.cli.main import main; main()", "save", str(source), url]
    command += ["--rank", str(rank), "--world", str(WORLD)]
    command += ["--state-dir", str(source.parent / f"state-{rank}"), "--launch", "job-1", "--json", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def shard(folder: Path, rank: int) -> Path:
    source = folder / f"node-{rank}"
    source.mkdir()
    (source / f"shard-{rank:02d}.bin").write_bytes(bytes([rank]) * ((6 << 20) + rank))
    (source / "config.json").write_bytes(b"{}")
    return source


@pytest.mark.slow
@pytest.mark.req(25)
def test_sixteen_processes_commit_once_and_all_know_it(url: str, tmp_path: Path) -> None:
    processes = [start(url, shard(tmp_path, rank), rank, "--step", "3", "--part-size", "5MiB") for rank in range(WORLD)]
    results = []
    for process in processes:
        out, problem = process.communicate()
        assert process.returncode == 0, problem
        results.append(json.loads(out))
    assert len({result["snapshot"] for result in results}) == 1
    with open_run(url) as run:
        assert [listed.id.step for listed in run.catalog.listed()] == [3]
        assert not verify(run).bad
        restore(run, tmp_path / "back")
        stored = [found.key.rpartition("/")[2] for found in run.store.list(layout.DATA)]
    assert stored == ["config.json", *(f"shard-{rank:02d}.bin" for rank in range(WORLD))]
    for rank in range(WORLD):
        assert (tmp_path / "back" / f"shard-{rank:02d}.bin").stat().st_size == (6 << 20) + rank


@pytest.mark.slow
@pytest.mark.req(25, 10)
def test_without_one_of_them_the_others_name_it_and_nothing_is_committed(url: str, tmp_path: Path) -> None:
    sources = [shard(tmp_path, rank) for rank in range(WORLD)]
    here = [start(url, sources[rank], rank, "--step", "3", "--rank-timeout", "1s") for rank in range(1, WORLD)]
    ended = [(process.communicate()[1], process.returncode) for process in here]
    assert {code for _, code in ended} == {7}
    assert all("rank 0 (host unknown" in problem for problem, _ in ended)
    with open_run(url) as run:
        assert run.catalog.latest() is None
