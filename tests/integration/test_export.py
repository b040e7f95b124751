"""Exports that are killed."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from ckptsync.options import MIB
from ckptsync.run import open_run
from ckptsync.verbs.save import save

DEADLINE_S = 60


@pytest.mark.parametrize("name", ["it.tar", "it.tar.zst"])
def test_killed_it_leaves_what_stood_there_and_done_again_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "source").mkdir()
    for number in range(3):
        (tmp_path / "source" / f"{number}").write_bytes(os.urandom(5 * MIB))
    with open_run(tmp_path / "run") as run:
        save(run, tmp_path / "source", step=1)
    out = tmp_path / "out" / name
    out.parent.mkdir()
    out.write_text("old")
    program = [sys.executable, "-c", "from ckptsync.cli.main import main; main()", "export", "-q"]
    with subprocess.Popen([*program, "--max-rate", "2MiB", str(tmp_path / "run"), str(out)]) as process:
        deadline_s = time.monotonic() + DEADLINE_S
        while not any(part.stat().st_size for part in out.parent.glob(".*.part")):
            assert time.monotonic() < deadline_s
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -9
    assert out.read_text() == "old"
    subprocess.run([*program, str(tmp_path / "run"), str(out)], check=True)
    if name.endswith(".zst"):
        return
    with tarfile.open(out) as tar:
        for number in range(3):
            found = tar.extractfile(str(number))
            assert found is not None
            assert found.read() == (tmp_path / "source" / f"{number}").read_bytes()
