"""Whether what is on the disk is what a manifest says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ckptsync.snapshot.digest import part_digest, part_hasher
from ckptsync.snapshot.manifest import DirectoryEntry, Entry, FileEntry, LinkEntry, Manifest, Writer
from ckptsync.verbs.compare import holds_only, matches, same_content

DATA = b"aaaabbbbcc"


def describe(path: str, data: bytes, part_bytes: int = 4) -> FileEntry:
    parts = tuple(part_digest(data[at : at + part_bytes]) for at in range(0, len(data), part_bytes))
    return FileEntry(path=path, size=len(data), key=path, part_bytes=part_bytes if data else 0, parts=parts)


ENTRIES: tuple[Entry, ...] = (
    DirectoryEntry(path="d"),
    describe("d/model", DATA),
    DirectoryEntry(path="e"),
    describe("empty", b""),
    LinkEntry(path="link", target="d/model"),
)
MANIFEST = Manifest(
    snapshot="00000001-000000000001-abcdefgh",
    commit_id="",
    created="",
    entries=ENTRIES,
    writer=Writer(host="", pid=0),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the manifest says."""
    folder = tmp_path / "folder"
    (folder / "d").mkdir(parents=True)
    (folder / "e").mkdir()
    (folder / "d" / "model").write_bytes(DATA)
    (folder / "empty").touch()
    (folder / "link").symlink_to("d/model")
    return folder


def test_the_same_is_the_same_whatever_its_times(folder: Path) -> None:
    os.utime(folder / "d" / "model", (0, 0))
    assert matches(folder, ENTRIES)
    assert holds_only(folder, MANIFEST)


@pytest.mark.parametrize("name", ["d/model", "d"])
def test_other_modes_are_no_match_but_nothing_that_is_nowhere_else(folder: Path, name: str) -> None:
    (folder / name).chmod(0o700)
    assert not matches(folder, ENTRIES)
    assert holds_only(folder, MANIFEST)


def _link_instead_of_file(folder: Path) -> None:
    (folder / "d" / "model").rename(folder / "d" / "other")
    (folder / "d" / "other").rename(folder.parent / "other")
    (folder / "d" / "model").symlink_to(folder.parent / "other")


def _file_instead_of_link(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").write_bytes(DATA)


def _other_target(folder: Path) -> None:
    (folder / "link").unlink()
    (folder / "link").symlink_to("empty")


def _folder_instead_of_file(folder: Path) -> None:
    (folder / "empty").unlink()
    (folder / "empty").mkdir()
    (folder / "empty" / "x").touch()


def _file_instead_of_folder(folder: Path) -> None:
    (folder / "e").rmdir()
    (folder / "e").touch()


CHANGES = [
    _link_instead_of_file,
    _file_instead_of_link,
    _other_target,
    _folder_instead_of_file,
    _file_instead_of_folder,
    lambda folder: (folder / "d" / "model").write_bytes(DATA[:-1] + b"x"),
    lambda folder: (folder / "d" / "model").write_bytes(b"x" + DATA[1:]),
    lambda folder: (folder / "d" / "model").write_bytes(DATA + b"x"),
    lambda folder: (folder / "d" / "model").write_bytes(DATA[:-1]),
    lambda folder: (folder / "empty").write_bytes(b"x"),
    lambda folder: (folder / "d" / "extra").touch(),
    lambda folder: os.mkfifo(folder / "pipe"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_anything_else_is_something_else(folder: Path, change: Callable[[Path], object]) -> None:
    change(folder)
    assert not matches(folder, ENTRIES)
    assert not holds_only(folder, MANIFEST)


@pytest.mark.parametrize("name", ["empty", "link", "d/model"])
def test_less_is_no_match_but_holds_nothing_else(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert not matches(folder, ENTRIES)
    assert holds_only(folder, MANIFEST)


def test_what_stands_beside_counts_unless_it_is_spared(folder: Path) -> None:
    (folder / "lost+found").mkdir()
    (folder / "somebody's").write_text("notes")
    assert not matches(folder, ENTRIES)
    assert matches(folder, ENTRIES, beside=True)
    (folder / "d" / "more" / "below").mkdir(parents=True)
    assert not matches(folder, ENTRIES, beside=True)


def test_a_folder_without_files_counts(folder: Path) -> None:
    (folder / "d" / "more" / "below").mkdir(parents=True)
    assert not matches(folder, ENTRIES)
    assert holds_only(folder, MANIFEST)


def test_folders_that_entries_lie_in_need_no_entry(folder: Path) -> None:
    (folder / "e").rmdir()
    assert matches(folder, [entry for entry in ENTRIES if not isinstance(entry, DirectoryEntry)])


def test_a_folder_that_is_missing_is_no_match(folder: Path) -> None:
    (folder / "e").rmdir()
    assert not matches(folder, ENTRIES)
    assert holds_only(folder, MANIFEST)


@pytest.mark.parametrize("place", ["d", "d/model", "empty", "link", "e"])
def test_one_entry_is_compared_at_its_place(folder: Path, place: str) -> None:
    assert holds_only(folder / place, MANIFEST, place)
    assert not holds_only(folder / place, MANIFEST, "elsewhere") or place == "e"
    assert not holds_only(folder / "d" / "model", MANIFEST, "empty")


def test_what_is_not_there_or_cannot_be_read_is_no_match(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not matches(folder / "absent", ENTRIES)
    assert not holds_only(folder / "absent", MANIFEST, "absent")

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", denied)
    assert not matches(folder, ENTRIES)
    assert not holds_only(folder, MANIFEST)


def test_content_is_read_no_further_than_the_first_difference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[bytes] = []

    class Noted:
        def __init__(self) -> None:
            self.inner = part_hasher()

        def update(self, data: memoryview) -> None:
            hashed.append(bytes(data))
            self.inner.update(data)

        def hexdigest(self) -> str:
            return self.inner.hexdigest()

    monkeypatch.setattr("ckptsync.verbs.compare.part_hasher", Noted)
    (folder / "d" / "model").write_bytes(b"aaaaXbbbcc")
    assert not same_content(folder / "d" / "model", describe("d/model", DATA))
    assert hashed == [b"aaaa", b"Xbbb"]


def test_content_of_every_length(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for size in range(11):
        file.write_bytes(DATA[:size])
        for other in range(11):
            assert same_content(file, describe("file", DATA[:other])) is (size == other)
