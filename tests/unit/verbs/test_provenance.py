"""What a checkpoint was made with."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ckptsync.verbs import provenance as module
from ckptsync.verbs.provenance import provenance


def git(folder: Path, *words: str) -> None:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *words]
    subprocess.run(command, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_and_whether_files_differ(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    assert provenance(tmp_path).git_commit == ""
    (tmp_path / "train.py").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first", "--no-gpg-sign")
    git(tmp_path, "tag", "v1")
    clean = provenance(tmp_path, "f").git_commit
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (tmp_path / "output").write_text("not tracked")
    assert provenance(tmp_path).git_commit == clean
    (tmp_path / "train.py").write_text("b")
    (tmp_path / ".git" / "index.lock").touch()
    before = (tmp_path / ".git" / "index").read_bytes()
    assert provenance(tmp_path).git_commit == f"{clean}-dirty"
    assert (tmp_path / ".git" / "index").read_bytes() == before


def test_outside_any_repository_there_is_no_commit(tmp_path: Path) -> None:
    found = provenance(tmp_path, "fingerprint")
    assert (found.git_commit, found.config_fingerprint) == ("", "fingerprint")
    assert found.versions["python"] == platform.python_version()
    assert set(found.versions) <= {"python", "cuda", *module._PACKAGES}


@pytest.mark.parametrize("error", [FileNotFoundError(2, "git"), subprocess.TimeoutExpired("git", 2)])
def test_no_git_or_a_slow_one_costs_only_the_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def failing(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(subprocess, "run", failing)
    assert provenance(tmp_path).git_commit == ""


@pytest.mark.parametrize(
    ("version", "cuda"), [("2.4.0+cu124", "12.4"), ("2.4.0+cpu", ""), ("2.4.0", ""), ("2.4+cu", ""), ("", "")]
)
def test_cuda_is_read_from_the_version_where_torch_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch, version: str, cuda: str
) -> None:
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert module._cuda(version) == cuda


def test_a_loaded_torch_knows_better(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(version=SimpleNamespace(cuda="12.6")))  # type: ignore[arg-type]
    assert module._cuda("2.4.0+cu124") == "12.6"
