"""Directories that may be deleted while they are saved."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ckptsync.config import Config
from ckptsync.errors import ConfigError, SourceChangedError
from ckptsync.run import open_run
from ckptsync.transfer.held import HeldTree, hold, release_all
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save

CONTENT = {"a": b"first", "deep/er/b": b"second" * 1000, "empty": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory with files, a link and an empty folder."""
    place = tmp_path / "checkpoint-7"
    for path, content in CONTENT.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    (place / "nothing").mkdir()
    (place / "link").symlink_to("deep/er/b")
    return place


def held(folder: Path) -> HeldTree:
    """It, held."""
    tree = hold(folder, now_ns=10**18)
    assert tree is not None
    return tree


def read(tree: HeldTree) -> dict[str, bytes]:
    """Every file's content, as an upload reads it."""
    found: dict[str, bytes] = {}
    for file in tree.files:
        content = bytearray(file.size)
        file.read_into(memoryview(content), 0)
        found[file.path] = bytes(content)
    return found


def test_what_is_held_outlives_its_first_name(folder: Path) -> None:
    tree = held(folder)
    shutil.rmtree(folder)
    assert read(tree) == CONTENT
    tree.check_unchanged()
    tree.release()
    tree.release()
    assert not list(folder.parent.iterdir())


def test_a_file_that_is_replaced_is_held_as_it_was(folder: Path) -> None:
    tree = held(folder)
    (folder / "new").write_bytes(b"other")
    (folder / "new").replace(folder / "a")
    (folder / "added").write_bytes(b"later")
    assert read(tree) == CONTENT
    tree.check_unchanged()


@pytest.mark.parametrize("path", ["a", "deep/er/b"])
def test_a_file_that_is_written_to_is_seen(folder: Path, path: str) -> None:
    tree = held(folder)
    with (folder / path).open("ab") as file:
        file.write(b"more")
    with pytest.raises(SourceChangedError, match="changed while it was being saved"):
        read(tree)
    with pytest.raises(SourceChangedError, match="changed while it was being saved"):
        tree.check_unchanged()


def test_a_second_name_that_is_gone_is_seen(folder: Path) -> None:
    tree = held(folder)
    tree.release()
    with pytest.raises(SourceChangedError):
        tree.check_unchanged()
    with pytest.raises(SourceChangedError):
        read(tree)


def test_it_is_saved_whole_though_it_was_deleted(folder: Path, tmp_path: Path) -> None:
    tree = held(folder)
    shutil.rmtree(folder)
    with open_run(tmp_path / "run", Config(state_dir=str(tmp_path / "state"))) as run:
        save(run, tree, step=7)
        restore(run, tmp_path / "back")
    back = tmp_path / "back"
    assert {path: (back / path).read_bytes() for path in CONTENT} == CONTENT
    assert (back / "link").readlink() == Path("deep/er/b")
    assert (back / "nothing").is_dir()


@pytest.mark.parametrize("number", [errno.EPERM, errno.EXDEV, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_second_names_nothing_is_held(folder: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    calls: list[Any] = []

    def refuse(*names: Any) -> None:
        calls.append(names)
        if len(calls) > 1:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    assert hold(folder, now_ns=10**18) is None
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint-7"]


def test_what_is_not_there_cannot_be_held(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to save"):
        hold(tmp_path / "checkpoint-8", now_ns=10**18)


def test_what_a_killed_process_held_is_let_go(folder: Path) -> None:
    held(folder)
    held(folder)  # a second time is no different
    assert len(list(folder.parent.iterdir())) == 2
    release_all(folder.parent)
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint-7"]
