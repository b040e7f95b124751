"""What lies in memory, saved as if it were files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ckptsync.errors import ConfigError, SourceChangedError
from ckptsync.transfer.memory_source import JoinedTree, MemoryFile, joined
from ckptsync.transfer.source import scan
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save

NOW_NS = 1_700_000_000_000_000_000


def file(path: str, *pieces: bytes) -> MemoryFile:
    return MemoryFile.of(path, map(memoryview, pieces), made_ns=NOW_NS)


@given(some.lists(some.binary(max_size=9), max_size=6), some.data())
def test_any_range_is_read_over_any_pieces(pieces: list[bytes], data: some.DataObject) -> None:
    whole, made = b"".join(pieces), file("f", *pieces)
    assert made.size == len(whole)
    begin = data.draw(some.integers(0, len(whole)))
    size = data.draw(some.integers(0, len(whole) - begin))
    into = bytearray(size)
    made.read_into(memoryview(into), begin)
    assert bytes(into) == whole[begin : begin + size]


def test_a_tree_of_memory_and_disk_is_saved_and_restored(run: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    (disk / "sub").mkdir(parents=True)
    (disk / "sub/token.json").write_text("{}")
    (disk / "link").symlink_to("sub/token.json")
    tree = joined([file("model.pt", b"ab", b"", b"c")], [scan(disk, now_ns=NOW_NS).below("disk")], now_ns=NOW_NS)
    saved = save(run, tree, step=3)
    assert (saved.files, saved.bytes) == (2, 5)
    restore(run, tmp_path / "out")
    assert (tmp_path / "out/model.pt").read_bytes() == b"abc"
    assert (tmp_path / "out/disk/link").read_text() == "{}"
    assert not list(tmp_path.rglob("*.journal*"))


def test_what_changes_on_the_disk_is_found_out(run: Any, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "a").write_text("1")
    tree = joined([file("model.pt", b"abc")], [scan(disk, now_ns=NOW_NS).below("disk")], now_ns=NOW_NS)
    (disk / "b").write_text("2")
    with pytest.raises(SourceChangedError):
        save(run, tree, step=3)


def test_two_of_one_path_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"both become model\.pt"):
        joined([file("model.pt", b"1"), file("model.pt", b"2")], [], now_ns=NOW_NS)


def test_of_memory_alone_nothing_can_change() -> None:
    tree: JoinedTree = joined([file("model.pt", b"1")], [], now_ns=NOW_NS)
    tree.check_unchanged()
    assert not tree.files[0].is_on_disk
