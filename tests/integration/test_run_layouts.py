"""What plain loops write, in the ways in which people write it, is all there on the next empty disk; and half of it never is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.instances import CKPTSYNC
from support.waiting import LONG_S

from ckptsync.run import open_run

pytestmark = [pytest.mark.req(12)]
BEGIN = """import os, shutil, time
folder, template = os.environ['CKPTSYNC_DIR'], os.environ['TEMPLATE']
def write(name):
    path = os.path.join(folder, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    shutil.copy(template, path + '.tmp')
    os.replace(path + '.tmp', path)
"""
LAYOUTS = {
    "last and best": (
        "for _ in range(2): write('last.pt'); time.sleep(0.6); write('best.pt'); time.sleep(0.6)",
        {"last.pt", "best.pt"},
    ),
    "a folder for each step, slowly": (
        "for n in (100, 200):\n write(f'step-{n}/model.pt'); time.sleep(1.2); write(f'step-{n}/optimizer.pt'); time.sleep(0.6)",
        {"step-200/model.pt", "step-200/optimizer.pt"},
    ),
    "two files of a step": (
        "for n in (1, 2):\n write(f'model_{n}.pt'); time.sleep(1.2); write(f'optimizer_{n}.pt'); time.sleep(0.6)",
        {"model_2.pt", "optimizer_2.pt"},
    ),
    "a link": (
        "write('step-100.pt'); os.symlink('step-100.pt', folder + '/latest.pt')",
        {"step-100.pt", "latest.pt"},
    ),
    "a pointer": (
        "write('step-100.pt'); open(folder + '/latest', 'w').write('step-100.pt')",
        {"step-100.pt", "latest"},
    ),
    "two networks": (
        "for n in (1, 2):\n write(f'G/step-{n}.pt'); write(f'D/step-{n}.pt'); time.sleep(0.6)",
        {"G/step-2.pt", "D/step-2.pt"},
    ),
    "one folder at its end": (
        "write('step-7/model.pt'); write('step-7/optimizer.pt')",
        {"step-7/model.pt", "step-7/optimizer.pt"},
    ),
}


def run(url: str, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    argv = [CKPTSYNC, "run", url, "--dir", str(folder), "--notices", "none", "--", *command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=LONG_S, check=False)


def held(url: str) -> list[set[str]]:
    """Paths in each snapshot, the newest first."""
    with open_run(url) as opened:
        return [{entry.path for entry in opened.catalog.load(listed).files} for listed in opened.catalog.listed()]


@pytest.fixture(autouse=True)
def _template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "template.pt"
    torch.save({"weights": torch.ones(4)}, path)
    monkeypatch.setenv("TEMPLATE", str(path))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_next_machine_finds_all_of_it(layout: str, tmp_path: Path) -> None:
    code, files = LAYOUTS[layout]
    url = str(tmp_path / "bucket")
    done = run(url, tmp_path / "here", sys.executable, "-c", BEGIN + code)
    assert done.returncode == 0, done.stderr
    again = tmp_path / "there"
    done = run(url, again, "true")
    assert done.returncode == 0, done.stderr
    assert {str(path.relative_to(again)) for path in again.rglob("*") if not path.is_dir()} >= files


def test_half_a_folder_is_never_committed(tmp_path: Path) -> None:
    code, _ = LAYOUTS["a folder for each step, slowly"]
    url = str(tmp_path / "bucket")
    done = run(url, tmp_path / "here", sys.executable, "-c", BEGIN + code)
    assert done.returncode == 0, done.stderr
    for paths in held(url):
        for number in {path.partition("/")[0] for path in paths if "/" in path}:
            assert {f"{number}/model.pt", f"{number}/optimizer.pt"} <= paths


def test_a_training_that_failed_leaves_no_half_folder_and_a_word(tmp_path: Path) -> None:
    url = str(tmp_path / "bucket")
    code = BEGIN + "write('step-7/model.pt'); time.sleep(1); os._exit(3)"
    done = run(url, tmp_path / "here", sys.executable, "-c", code)
    assert done.returncode == 3
    assert "not committed: step-7 is the first of its kind" in done.stderr
    assert not Path(url).exists() or held(url) == []
