"""What plain loops write, in the ways in which people write it, is all there on the next empty disk; and half of it never is."""

from __future__ import annotations

import shutil
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


PARTS = "for n in range(3):\n write('model.pt'); time.sleep(1.2); write('optim.pt'); time.sleep(0.6)\n"


def test_parts_that_are_written_over_are_committed_at_the_end_alone(tmp_path: Path) -> None:
    url = str(tmp_path / "bucket")
    done = run(url, tmp_path / "here", sys.executable, "-c", BEGIN + PARTS)
    assert done.returncode == 0, done.stderr
    assert held(url) == [{"model.pt", "optim.pt"}]


def test_parts_of_a_training_that_failed_are_not_committed(tmp_path: Path) -> None:
    url = str(tmp_path / "bucket")
    done = run(url, tmp_path / "here", sys.executable, "-c", BEGIN + PARTS + "os._exit(3)")
    assert done.returncode == 3
    assert "model.pt, optim.pt may be parts of one checkpoint" in done.stderr
    assert not Path(url).exists() or held(url) == []


@pytest.mark.parametrize("names", ["('step-{}/model.pt', 'step-{}/optim.pt')", "('model_{}.pt', 'optim_{}.pt')"])
def test_a_training_that_dies_behind_a_pipe_has_not_ended_well(tmp_path: Path, names: str) -> None:
    url, here = str(tmp_path / "bucket"), tmp_path / "here"
    (tmp_path / "train.py").write_text(
        f"{BEGIN}for n in (1, 2, 3):\n for name in {names}:\n  write(name.format(n))\n  if n == 3: os._exit(3)\n time.sleep(1)\n"
    )
    done = run(url, here, "sh", "-c", f"{sys.executable} {tmp_path / 'train.py'} | cat")
    assert done.returncode == 75, done.stderr
    assert "3/" in done.stderr or "_3" in done.stderr
    half = names.split("'")[1].format(3)
    assert not any(half in paths for paths in held(url))
    listed = run(url, here, "sh", "-c", f"find {here} -type f")
    assert listed.returncode == 0
    assert half not in listed.stdout
    assert len(listed.stdout.split()) == 4


@pytest.mark.parametrize(
    ("writes", "committed", "code"),
    [
        ("write('G.pt'); write('D.pt'); write('G.pt')", [], 75),
        ("write('1/a.pt'); write('1/b.pt'); write('2/a.pt')", [{"1/a.pt", "1/b.pt"}], 75),
        ("write('1/a.pt'); write('1/b.pt'); write('2/a.pt'); write('2/b.pt')", [{"2/a.pt", "2/b.pt"}], 0),
        ("write('last.pt')", [{"last.pt"}], 0),
    ],
)
def test_what_a_training_that_was_asked_to_end_leaves_half_is_not_durable(
    writes: str, committed: list[set[str]], code: int, tmp_path: Path
) -> None:
    url = str(tmp_path / "bucket")
    trains = f"{BEGIN}import signal, sys\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n{writes}\n"
    argv = [CKPTSYNC, "run", url, "--dir", str(tmp_path / "here"), "--notices", "none", "--", sys.executable, "-c"]
    with subprocess.Popen(
        [*argv, f"{trains}print('written', flush=True); time.sleep(600)"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "written\n"
        process.terminate()
        said = process.stderr.read()
        assert process.wait(LONG_S) == code, said
    assert ("not durable" in said) == (code == 75)
    assert (held(url)[:1] if Path(url).exists() else []) == committed


def test_what_the_bucket_has_lost_is_committed_again(tmp_path: Path) -> None:
    url, here = str(tmp_path / "bucket"), tmp_path / "here"
    assert run(url, here, sys.executable, "-c", BEGIN + "write('step-4.pt')").returncode == 0
    shutil.rmtree(url)
    assert run(url, here, "true").returncode == 0
    assert held(url) == [{"step-4.pt"}]


def test_a_file_that_a_killed_training_left_half_is_out_of_the_way(tmp_path: Path) -> None:
    url, here = str(tmp_path / "bucket"), tmp_path / "here"
    assert run(url, here, sys.executable, "-c", BEGIN + "write('step-10.pt')").returncode == 0
    (here / "step-30.pt").write_bytes((here / "step-10.pt").read_bytes()[:-100])
    done = run(url, here, "ls", str(here))
    assert done.stdout.split() == ["step-10.pt"]
    assert f"half written or behind, is in {tmp_path / 'here.unfinished-1'} now" in done.stderr


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
