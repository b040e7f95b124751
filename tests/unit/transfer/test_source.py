"""The tree to be saved: what cannot be saved is refused, what changes meanwhile is noticed."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from support.descriptors import open_below

from ckptsync.errors import ConfigError, DiskError, SourceChangedError
from ckptsync.options import MIB
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.manifest import DirectoryEntry, LinkEntry
from ckptsync.transfer import source as sources
from ckptsync.transfer.source import SourceFile, scan

ID = "00000001-000000000007-abcdefgh"
NOW_NS = 1_700_000_000_000_000_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree: a.bin, d/b.bin, d/e/ (empty)."""
    root = tmp_path / "root"
    (root / "d" / "e").mkdir(parents=True)
    (root / "a.bin").write_bytes(b"aaaa")
    (root / "d" / "b.bin").write_bytes(b"bbbbbbbb")
    return root


def test_everything_is_found_sorted_with_its_facts(root: Path) -> None:
    (root / "d" / "b.bin").chmod(0o640)
    (root / "d" / "e").chmod(0o700)
    (root / "link").symlink_to("d/b.bin")
    (root / ".hidden").touch()
    tree = scan(root, now_ns=NOW_NS)
    assert (tree.kind, tree.size, tree.scanned_ns) == ("directory", 12, NOW_NS)
    assert [file.path for file in tree.files] == [".hidden", "a.bin", "d/b.bin"]
    assert tree.files[2].mode == 0o640
    assert tree.links == (LinkEntry(path="link", target="d/b.bin"),)
    assert [folder.path for folder in tree.directories] == ["d", "d/e"]
    assert tree.directories[1] == DirectoryEntry(path="d/e", mode=0o700)


def test_a_single_file_and_links_to_the_root(root: Path) -> None:
    tree = scan(root / "a.bin", now_ns=NOW_NS)
    assert (tree.kind, [file.path for file in tree.files], tree.size) == ("file", ["a.bin"], 4)
    (root.parent / "latest").symlink_to("root")
    assert [file.path for file in scan(root.parent / "latest", now_ns=NOW_NS).files] == ["a.bin", "d/b.bin"]
    (root.parent / "latest.bin").symlink_to("root/a.bin")
    assert [file.path for file in scan(root.parent / "latest.bin", now_ns=NOW_NS).files] == ["latest.bin"]


def test_sorting_is_by_whole_path_not_by_folder(root: Path) -> None:
    (root / "d.txt").touch()
    (root / "d-").touch()
    paths = [file.path for file in scan(root, now_ns=NOW_NS).files]
    assert paths == sorted(paths)


@pytest.mark.parametrize("name", ["absent", "a.bin/below", "dangling"])
def test_where_nothing_is_there_is_nothing_to_save(root: Path, name: str) -> None:
    (root / "dangling").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="nothing to save"):
        scan(root / name, now_ns=NOW_NS)


def test_a_name_that_no_file_system_takes_is_not_there(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing to save at .*: File name too long"):
        scan(root / ("x" * 300), now_ns=NOW_NS)


def test_what_restores_prepare_is_left_out_and_what_they_kept_is_not(root: Path) -> None:
    """A mount point or the current directory has their folders inside."""
    partial = f".restore.{ID}.ckptsync-partial"
    for folder in (partial, f"d/.ckpt.{ID}.ckptsync-partial", ".restore.x.ckptsync-partial", "a.before-restore-1"):
        (root / folder).mkdir()
        (root / folder / "file").touch()
    (root / "d" / partial).touch()
    paths = {file.path for file in scan(root, now_ns=NOW_NS).files} - {"a.bin", "d/b.bin"}
    assert paths == {".restore.x.ckptsync-partial/file", "a.before-restore-1/file", f"d/{partial}"}
    assert partial not in {folder.path for folder in scan(root, now_ns=NOW_NS).directories}


def test_a_root_that_cannot_be_looked_at_is_a_disk_error(root: Path) -> None:
    (root / "circle").symlink_to("circle")
    with pytest.raises(DiskError, match="circle: Too many levels of symbolic links"):
        scan(root / "circle", now_ns=NOW_NS)


def test_a_fifo_and_a_socket_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "d" / "pipe")
    with pytest.raises(ConfigError, match=r"d/pipe is neither a file, a directory nor a link"):
        scan(root, now_ns=NOW_NS)
    with pytest.raises(ConfigError, match="neither a file nor a directory"):
        scan(root / "d" / "pipe", now_ns=NOW_NS)
    (root / "d" / "pipe").unlink()
    monkeypatch.chdir(root)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        with pytest.raises(ConfigError, match="socket is neither"):
            scan(root, now_ns=NOW_NS)


def test_names_that_are_no_text_are_refused(root: Path) -> None:
    (root / os.fsdecode(b"bad\xff")).touch()
    with pytest.raises(ConfigError, match="not valid Unicode; rename it"):
        scan(root, now_ns=NOW_NS)
    with pytest.raises(ConfigError, match="not valid Unicode; rename it"):
        scan(root / os.fsdecode(b"bad\xff"), now_ns=NOW_NS)


def test_link_targets_that_are_no_text_are_refused(root: Path) -> None:
    (root / "link").symlink_to(os.fsdecode(b"bad\xff"))
    with pytest.raises(ConfigError, match=r"link target of .* not valid Unicode"):
        scan(root, now_ns=NOW_NS)


def test_absolute_links_inside_are_made_relative(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "d" / "up").symlink_to(root / "a.bin")
    (root / "d" / "e" / "self").symlink_to(root)
    expected = {"d/up": "../a.bin", "d/e/self": "../.."}
    assert {link.path: link.target for link in scan(root, now_ns=NOW_NS).links} == expected
    monkeypatch.chdir(root.parent)
    assert {link.path: link.target for link in scan(Path("root"), now_ns=NOW_NS).links} == expected


@pytest.mark.parametrize("target", ["..", "../../etc/passwd", "/etc/passwd", "x/../../y"])
def test_links_that_leave_the_tree_are_refused_by_name(root: Path, target: str) -> None:
    (root / "out").symlink_to(target)
    with pytest.raises(ConfigError, match=r"link .*/root/out points outside"):
        scan(root, now_ns=NOW_NS)


def test_a_folder_that_cannot_be_read_is_a_disk_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def denied(path: Path) -> object:
        if str(path).endswith("/e"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(DiskError, match=r"cannot read .*/d/e: Permission denied"):
        scan(root, now_ns=NOW_NS)


def test_a_folder_that_disappears_during_the_look_has_changed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scandir = os.scandir

    def vanished(path: Path) -> object:
        if str(path).endswith("/e"):
            raise FileNotFoundError(2, "No such file or directory")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanished)
    with pytest.raises(SourceChangedError, match=r"/d/e disappeared"):
        scan(root, now_ns=NOW_NS)


# -- changes --------------------------------------------------------------------------------------------------------------


def _same_size(root: Path) -> None:
    (root / "a.bin").write_bytes(b"xxxx")


def _same_size_and_time(root: Path) -> None:
    before = (root / "a.bin").stat()
    (root / "a.bin").write_bytes(b"xxxx")
    os.utime(root / "a.bin", ns=(before.st_atime_ns, before.st_mtime_ns))


def _replaced(root: Path) -> None:
    (root / "new").write_bytes(b"aaaa")
    (root / "new").rename(root / "a.bin")


def _linked_elsewhere(root: Path) -> None:
    (root / "link").unlink()
    (root / "link").symlink_to("d/b.bin")


@pytest.mark.parametrize(
    "change",
    [
        _same_size,
        _same_size_and_time,
        _replaced,
        _linked_elsewhere,
        lambda root: os.truncate(root / "a.bin", 3),
        lambda root: (root / "a.bin").unlink(),
        lambda root: (root / "new").touch(),
        lambda root: (root / "d" / "b.bin").rename(root / "d" / "c.bin"),
        lambda root: os.mkfifo(root / "pipe"),
        lambda root: (root / "link").unlink(),
    ],
)
def test_a_change_is_noticed_at_the_second_look(root: Path, change: Callable[[Path], None]) -> None:
    (root / "link").symlink_to("a.bin")
    for file in (root / "a.bin", root / "d" / "b.bin"):
        os.utime(file, ns=(NOW_NS, NOW_NS))
    tree = scan(root, now_ns=NOW_NS)
    tree.check_unchanged()
    _let_the_kernels_clock_tick(root)
    change(root)
    with pytest.raises(SourceChangedError, match="changed while it was being saved"):
        tree.check_unchanged()


def _let_the_kernels_clock_tick(root: Path) -> None:
    """Make sure that a change from now on bears another time than everything before."""
    probe = root.parent / "probe"
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        probe.chmod(0o600)


def test_a_source_that_is_gone_has_changed(root: Path) -> None:
    tree = scan(root, now_ns=NOW_NS)
    root.rename(root.parent / "elsewhere")
    with pytest.raises(SourceChangedError, match="nothing to save"):
        tree.check_unchanged()


def test_the_message_names_one_and_counts_the_rest(root: Path) -> None:
    tree = scan(root, now_ns=NOW_NS)
    (root / "x").touch()
    (root / "y").touch()
    with pytest.raises(SourceChangedError, match=r"\(x and 1 more\)"):
        tree.check_unchanged()


def test_parts_are_read_where_they_are(root: Path) -> None:
    (root / "a.bin").write_bytes(bytes(range(100)))
    file = scan(root / "a.bin", now_ns=NOW_NS).files[0]
    into = memoryview(bytearray(30))
    file.read_into(into, 40)
    assert bytes(into) == bytes(range(40, 70))
    file.read_into(memoryview(bytearray()), 0)


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB - 7])
def test_what_is_hashed_while_it_is_read_is_what_was_read(root: Path, size: int) -> None:
    content = os.urandom(size + 5)
    (root / "a.bin").write_bytes(content)
    file, view = scan(root, now_ns=NOW_NS).files[0], memoryview(bytearray(size))
    assert file.read_hashed(view, 5) == part_digest(content[5:])
    assert view == content[5:]
    assert file.digest() == part_digest(content)


@pytest.mark.parametrize("read", ["read_into", "read_hashed"])
def test_a_change_while_it_is_read_is_noticed(root: Path, read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a.bin").write_bytes(bytes(2 * MIB))
    file = scan(root, now_ns=NOW_NS).files[0]
    fill = SourceFile._fill

    def changed(self: SourceFile, descriptor: int, view: memoryview, offset: int) -> None:
        fill(self, descriptor, view, offset)
        os.utime(file.location, (1, 1))

    monkeypatch.setattr(SourceFile, "_fill", changed)
    with pytest.raises(SourceChangedError, match="changed while it was being saved"):
        getattr(file, read)(memoryview(bytearray(2 * MIB)), 0)


@pytest.mark.parametrize("change", [_same_size_and_time, _replaced, lambda root: (root / "a.bin").chmod(0o600)])
def test_a_change_between_two_parts_is_noticed_by_the_second(root: Path, change: Callable[[Path], None]) -> None:
    file = scan(root / "a.bin", now_ns=NOW_NS).files[0]
    into = memoryview(bytearray(2))
    file.read_into(into, 0)
    _let_the_kernels_clock_tick(root)
    change(root)
    with pytest.raises(SourceChangedError, match=r"a\.bin changed"):
        file.read_into(into, 2)


def test_a_file_that_became_shorter_or_vanished_is_noticed(root: Path) -> None:
    file = scan(root / "a.bin", now_ns=NOW_NS).files[0]
    os.truncate(root / "a.bin", 3)
    with pytest.raises(SourceChangedError, match="became shorter"):
        file.read_into(memoryview(bytearray(4)), 0)
    (root / "a.bin").unlink()
    with pytest.raises(SourceChangedError, match="disappeared"):
        file.read_into(memoryview(bytearray(4)), 0)


def test_a_failing_disk_is_a_disk_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = scan(root / "a.bin", now_ns=NOW_NS).files[0]

    def failing(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(DiskError, match=r"a\.bin: Input/output error"):
        file.read_into(memoryview(bytearray(4)), 0)


def test_a_file_that_may_not_be_read_is_a_disk_error(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = scan(root / "a.bin", now_ns=NOW_NS).files[0]

    def denied(*_: object, **__: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(DiskError, match=r"a\.bin: Permission denied"):
        file.read_into(memoryview(bytearray(4)), 0)


def test_no_descriptor_is_left_open(root: Path) -> None:
    file = scan(root / "a.bin", now_ns=NOW_NS).files[0]
    file.read_into(memoryview(bytearray(4)), 0)
    os.truncate(root / "a.bin", 3)
    with pytest.raises(SourceChangedError):
        file.read_into(memoryview(bytearray(4)), 0)
    assert open_below(root) == []


def test_what_was_written_just_before_the_look_could_hide_a_change(root: Path) -> None:
    written_ns = (root / "a.bin").stat().st_ctime_ns
    file = scan(root / "a.bin", now_ns=written_ns).files[0]
    assert file.could_hide_a_change(written_ns)
    assert file.could_hide_a_change(written_ns + sources._TICK_NS - 1)
    assert not file.could_hide_a_change(written_ns + sources._TICK_NS)
    os.utime(root / "a.bin", ns=(written_ns + 10**10, written_ns + 10**10))
    later = scan(root / "a.bin", now_ns=written_ns).files[0]
    assert later.could_hide_a_change(written_ns + 10**10)
