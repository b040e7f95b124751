"""Files that are held open."""

from __future__ import annotations

import os
import resource
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from support.descriptors import open_below

from ckptsync.errors import ConfigError, DiskError, SourceChangedError
from ckptsync.options import Config
from ckptsync.run import open_run
from ckptsync.transfer.held import HeldTree, chosen, hold
from ckptsync.transfer.memory_source import MemoryFile
from ckptsync.transfer.source import SourceTree, scan
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "sub/b").write_bytes(b"second")
    (tmp_path / "sub/link").symlink_to("b")
    return tmp_path


def looked_at(folder: Path) -> SourceTree:
    return scan(folder, now_ns=1)


def content(tree: HeldTree) -> dict[str, bytes]:
    found = {}
    for file in tree.files:
        room = bytearray(file.size)
        file.read_into(memoryview(room), 0)
        found[file.path] = bytes(room)
    return found


def test_names_may_go_and_come_again(folder: Path) -> None:
    with closing(hold(looked_at(folder))) as tree:
        (folder / "a").unlink()
        (folder / "new").write_bytes(b"other")
        (folder / "new").rename(folder / "sub/b")
        assert content(tree) == {"a": b"first", "sub/b": b"second"}
        tree.check_unchanged()
        assert [link.path for link in tree.links] == ["sub/link"]
    assert open_below(folder) == []


def test_it_is_saved_whole_though_it_was_deleted(tmp_path: Path) -> None:
    (tmp_path / "folder" / "empty").mkdir(parents=True)
    (tmp_path / "folder" / "a").write_bytes(b"first")
    (tmp_path / "folder" / "link").symlink_to("a")
    with closing(hold(looked_at(tmp_path / "folder"))) as tree:
        shutil.rmtree(tmp_path / "folder")
        with open_run(tmp_path / "run", Config(state_dir=str(tmp_path / "state"))) as run:
            save(run, tree, step=7)
            restore(run, tmp_path / "back")
    assert (tmp_path / "back" / "a").read_bytes() == b"first"
    assert (tmp_path / "back" / "link").readlink() == Path("a")
    assert (tmp_path / "back" / "empty").is_dir()


@pytest.mark.parametrize("by", ["more", "other"])
def test_what_is_written_to_is_noticed(folder: Path, by: str) -> None:
    with closing(hold(looked_at(folder))) as tree:
        with (folder / "a").open("ab" if by == "more" else "r+b") as file:
            file.write(b"other")
        os.utime(folder / "a", ns=(5, 5))  # the kernel's clock may not have gone on
        with pytest.raises(SourceChangedError, match="was written to"):
            content(tree)
        with pytest.raises(SourceChangedError, match="was written to"):
            tree.check_unchanged()


def test_a_copy_stays_what_it_was(folder: Path) -> None:
    before = sorted(os.listdir(folder))  # noqa: PTH208  names alone
    with closing(hold(looked_at(folder), copied={"a"})) as tree:
        assert sorted(os.listdir(folder)) == before  # noqa: PTH208  names alone
        (folder / "a").write_bytes(b"something else")
        assert content(tree)["a"] == b"first"
        tree.check_unchanged()


def test_what_changed_since_it_was_found_is_not_taken(folder: Path) -> None:
    tree = looked_at(folder)
    (folder / "new").write_bytes(b"first")
    (folder / "new").rename(folder / "a")
    with pytest.raises(SourceChangedError, match="was written to"):
        hold(tree)
    (folder / "a").unlink()
    with pytest.raises(SourceChangedError, match="disappeared"):
        hold(tree)
    assert open_below(folder) == []


def test_files_in_memory_take_the_place_of_others(folder: Path) -> None:
    made = [MemoryFile.of(path, [memoryview(b"made")], made_ns=1) for path in ("a", "z")]
    with closing(hold(looked_at(folder), added=made)) as tree:
        assert content(tree) == {"a": b"made", "sub/b": b"second", "z": b"made"}
        assert [file.path for file in tree.files] == ["a", "sub/b", "z"]


def test_some_of_them_can_be_chosen(folder: Path) -> None:
    tree = looked_at(folder)
    assert [file.path for file in chosen(tree, {"a"}).files] == ["a"]
    assert not chosen(tree, {"a"}).directories
    assert not chosen(tree, {"a"}).links
    assert [entry.path for entry in chosen(tree, {"sub/b", "sub/link"}).directories] == ["sub"]
    assert [entry.path for entry in chosen(tree, {"sub/b", "sub/link"}).links] == ["sub/link"]


def test_more_files_than_may_be_open_are_refused(folder: Path) -> None:
    tree = looked_at(folder)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, limits[1]))
    try:
        with pytest.raises(ConfigError, match="ulimit"):
            hold(tree)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_file_that_cannot_be_read_is_an_error_of_the_disk(folder: Path) -> None:
    tree = looked_at(folder)
    (folder / "sub/b").unlink()
    (folder / "sub/link").unlink()
    (folder / "sub").rmdir()
    (folder / "sub").write_bytes(b"")
    with pytest.raises(DiskError, match="cannot open or copy"):
        hold(tree)
