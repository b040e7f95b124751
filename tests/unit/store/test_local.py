from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ckptsync.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    NotFoundError,
    StoreError,
    TransientError,
    UnsupportedError,
)
from ckptsync.store import open_store
from ckptsync.store.base import Upload
from ckptsync.store.local import LocalStore, disk

OWN = ".ckptsync-tmp"
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a descriptor is open on")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "bucket"


@pytest.fixture
def store(root: Path) -> LocalStore:
    return LocalStore(root)


def leftovers(root: Path) -> list[str]:
    """Files the store keeps for itself."""
    return sorted(str(path.relative_to(root)) for path in (root / OWN).rglob("*") if path.is_file())


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


# -- keys and the root ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/abs",
        "a/",
        "a//b",
        "..",
        "../a",
        "a/../../b",
        "a/..",
        ".",
        "a/./b",
        "nul\0",
        "half\udc80",
        OWN,
        f"{OWN}/x",
    ],
)
def test_keys_that_are_no_path_below_the_root_are_refused(store: LocalStore, root: Path, key: str) -> None:
    root.mkdir()
    (root.parent / "a").write_bytes(b"outside")
    store.put("source", b"")
    upload = Upload(key=key, id="0" * 32)
    for ask in (
        lambda: store.put(key, b""),
        lambda: store.get(key, memoryview(bytearray(1))),
        lambda: store.stat(key),
        lambda: store.read(key),
        lambda: store.delete([key]),
        lambda: store.copy("source", key),
        lambda: store.copy(key, "target"),
        lambda: store.begin(key),
        lambda: store.finish(upload, []),
    ):
        with pytest.raises(ConfigError, match="cannot be used in a directory"):
            ask()
    assert [found.key for found in store.list("")] == ["source"]
    assert (root.parent / "a").read_bytes() == b"outside"


@pytest.mark.parametrize("key", ["x" * 256, "a/" * 2500 + "b", "x" * 256 + "/b"])
def test_keys_longer_than_the_file_system_allows_are_refused(store: LocalStore, key: str) -> None:
    for ask in (lambda: store.put(key, b""), lambda: store.stat(key), lambda: store.delete([key])):
        with pytest.raises(ConfigError, match="longer than the file system"):
            ask()


def test_a_prefix_that_leads_out_of_the_root_lists_nothing(store: LocalStore, root: Path) -> None:
    store.put("a", b"")
    (root.parent / "outside").write_bytes(b"")
    for prefix in ("../", "..", "/", "a/../", f"{root}/", f"{OWN}/", "x\0/"):
        assert list(store.list(prefix)) == []


def test_reading_makes_no_root(store: LocalStore, root: Path) -> None:
    assert list(store.list("")) == []
    assert list(store.uploads("")) == []
    store.delete(["a"])
    with pytest.raises(NotFoundError):
        store.read("a")
    assert not root.exists()


def test_a_root_that_is_a_file_is_refused(store: LocalStore, root: Path) -> None:
    root.write_bytes(b"a file")
    for ask in (
        lambda: store.put("a", b""),
        lambda: store.put("a/b", b""),
        lambda: store.get("a", memoryview(bytearray(1))),
        lambda: store.stat("a"),
        lambda: list(store.list("")),
        lambda: store.begin("a"),
    ):
        with pytest.raises(ConfigError, match="is a file, not a directory"):
            ask()
    assert root.read_bytes() == b"a file"


def test_a_root_below_a_file_is_refused(root: Path) -> None:
    root.write_bytes(b"a file")
    store = LocalStore(root / "bucket" / "run")
    for ask in (lambda: store.put("a", b""), lambda: list(store.list("")), lambda: list(store.list("manifests/"))):
        with pytest.raises(ConfigError, match=f"{root} is a file, not a directory"):
            ask()


def test_the_root_is_fixed_when_the_store_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = LocalStore(Path("run 1"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    store.put("a", b"content")
    assert (tmp_path / "run 1" / "a").read_bytes() == b"content"
    with open_store(store.url) as same:
        assert same.read("a") == b"content"


def test_one_name_cannot_be_a_file_and_a_folder(store: LocalStore) -> None:
    store.put("a", b"")
    store.put("b/c", b"")
    for key in ("a/below", "b"):
        for if_absent in (False, True):
            with pytest.raises(StoreError, match="both a file and a folder") as caught:
                store.put(key, b"", if_absent=if_absent)
            assert not isinstance(caught.value, ConflictError | NotFoundError | TransientError)
    assert [found.key for found in store.list("")] == ["a", "b/c"]


# -- durability ----------------------------------------------------------------------------------------------------------


def spy(monkeypatch: pytest.MonkeyPatch, root: Path) -> list[str]:
    """Record syncs and names given, in order."""
    steps: list[str] = []
    real_sync, real_link, real_replace = os.fsync, os.link, Path.replace

    def name(path: Path | str) -> str:
        relative = os.path.relpath(path, root.parent)
        return "draft" if OWN in relative and not relative.endswith(OWN) else relative

    def sync(fd: int) -> None:
        steps.append(f"sync {name(Path(f'/proc/self/fd/{fd}').readlink())}")
        real_sync(fd)

    def link(source: Path, target: Path, **options: Any) -> None:
        steps.append(f"link {name(target)}")
        real_link(source, target, **options)

    def replace(source: Path, target: Path) -> Path:
        steps.append(f"replace {name(target)}")
        return real_replace(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "link", link)
    monkeypatch.setattr(Path, "replace", replace)
    return steps


@on_linux
@pytest.mark.parametrize(("if_absent", "step"), [(False, "replace"), (True, "link")])
def test_content_is_synced_before_its_name_and_the_name_after(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, *, if_absent: bool, step: str
) -> None:
    store.put("old", b"")
    steps = spy(monkeypatch, root)
    store.put("a/b/c", b"content", if_absent=if_absent)
    assert steps == ["sync draft", "sync bucket", "sync bucket/a", f"{step} bucket/a/b/c", "sync bucket/a/b"]
    steps.clear()
    store.delete(["a/b/c"])
    assert steps == ["sync bucket"]


@on_linux
def test_every_new_folder_up_to_the_root_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = spy(monkeypatch, tmp_path / "x" / "bucket")
    LocalStore(tmp_path / "x" / "bucket").put("a", b"")
    assert steps[:3] == ["sync ..", "sync .", "sync bucket"]


@on_linux
def test_parts_are_synced_before_their_names_and_the_object_too(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = store.begin("a")
    steps = spy(monkeypatch, root)
    sent = [store.put_part(upload, 1, b"1"), store.put_part(upload, 2, b"2")]
    assert steps == ["sync draft", "replace draft"] * 2
    steps.clear()
    store.finish(upload, sent)
    assert steps[0] == "sync draft"
    assert steps[-2:] == ["replace bucket/a", "sync bucket"]


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (errno.ENOSPC, StoreError, "disk full at .*: 7 bytes needed"),
        (errno.EDQUOT, StoreError, "disk full"),
        (errno.EACCES, DeniedError, "cannot be used: Permission denied"),
        (errno.EPERM, DeniedError, "cannot be used"),
        (errno.EROFS, DeniedError, "Read-only"),
        (errno.EIO, TransientError, "failed: Input/output"),
        (errno.ESTALE, TransientError, "failed"),
        (errno.EINTR, TransientError, "failed"),
        (errno.EMFILE, StoreError, "failed: Too many open files"),
    ],
)
def test_a_put_that_fails_changes_nothing(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, code: int, kind: type[StoreError], words: str
) -> None:
    store.put("a", b"old")
    for name in ("write", "fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, failing(code))
            with pytest.raises(kind, match=words) as caught:
                store.put("a", b"content")
        assert isinstance(caught.value, TransientError) == (kind is TransientError)
        assert isinstance(caught.value.__cause__, OSError)
        assert (caught.value.op, caught.value.key) == ("put", "a")
        assert str(root / "a") in str(caught.value)
        assert store.read("a") == b"old"
        assert leftovers(root) == []


def test_a_get_that_breaks_tells_what_came(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a", b"0123456789")
    real, calls = os.preadv, list[int]()

    def breaking(fd: int, buffers: list[memoryview], offset: int) -> int:
        calls.append(offset)
        if len(calls) == 3:
            raise OSError(errno.EIO, "broken")
        return real(fd, [buffers[0][:3]], offset)

    monkeypatch.setattr(os, "preadv", breaking)
    buffer = bytearray(10)
    with pytest.raises(TransientError) as caught:
        store.get("a", memoryview(buffer))
    assert caught.value.received == 6
    assert buffer[:6] == b"012345"
    assert calls == [0, 3, 6]


# -- names given only once -----------------------------------------------------------------------------------------------


def test_if_absent_where_there_are_no_hard_links(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    store.put("a", b"first", if_absent=True)
    with pytest.raises(ConflictError):
        store.put("a", b"second", if_absent=True)
    assert store.read("a") == b"first"
    assert leftovers(root) == []


@pytest.mark.parametrize("kind", ["no such call", "no such flag"])
def test_if_absent_where_there_is_no_way_at_all(store: LocalStore, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    class Library:
        def __init__(self, *_: Any, **__: Any) -> None:
            if kind == "no such flag":
                self.renameat2 = lambda *_: -1

    monkeypatch.setattr(os, "link", failing(errno.EOPNOTSUPP))
    monkeypatch.setattr("ctypes.CDLL", Library)
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EINVAL)
    with pytest.raises(UnsupportedError, match="single_writer"):
        store.put("a", b"first", if_absent=True)
    assert list(store.list("")) == []


def test_if_absent_survives_a_lost_answer_of_nfs(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.link

    def link_twice(source: Path, target: Path) -> None:
        real(source, target)
        real(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    store.put("a", b"first", if_absent=True)
    with pytest.raises(ConflictError):
        store.put("a", b"second", if_absent=True)
    assert store.read("a") == b"first"


def test_a_replaced_object_has_another_tag_however_fast(store: LocalStore) -> None:
    tags = [store.put("a", f"{number:04d}".encode()).tag for number in range(100)]
    assert len(set(tags)) == len(tags)


# -- folders -------------------------------------------------------------------------------------------------------------


def test_delete_prunes_emptied_folders_but_not_the_root(store: LocalStore, root: Path) -> None:
    store.put("a/b/c/d", b"")
    store.put("a/x", b"")
    store.delete(["a/b/c/d"])
    assert sorted(path.name for path in (root / "a").iterdir()) == ["x"]
    store.delete(["a/x"])
    assert sorted(path.name for path in root.iterdir()) == [OWN]
    store.put("a", b"a folder's name is free once it is empty")


def test_puts_and_pruning_deletes_do_not_disturb_each_other(store: LocalStore) -> None:
    def churn(worker: int) -> None:
        for _ in range(20):
            store.put(f"a/b/{worker}", b"")
            store.delete([f"a/b/{worker}"])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(churn, range(6)))
    assert list(store.list("")) == []


def test_a_folder_pruned_for_ever_is_worth_another_try(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("old", b"")
    monkeypatch.setattr(disk, "publish", failing(errno.ENOENT))
    with pytest.raises(TransientError, match="removed again and again"):
        store.put("a/b", b"")


def test_symbolic_links_are_no_objects_and_lead_to_none(store: LocalStore, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.put("a", b"")
    (root / "folder").symlink_to(outside)
    (root / "file").symlink_to(outside / "secret")
    assert [found.key for found in store.list("")] == ["a"]
    assert list(store.list("folder/")) == []
    for ask in (store.stat, store.read, lambda key: store.get(key, memoryview(bytearray(6)))):
        with pytest.raises(NotFoundError):
            ask("file")
        with pytest.raises(ConfigError, match="symbolic link"):
            ask("folder/secret")
    with pytest.raises(ConfigError, match="symbolic link"):
        store.put("folder/new", b"")
    store.put("file", b"replaces the link, not what it points to")
    store.delete(["file"])
    assert (outside / "secret").read_bytes() == b"secret"
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_the_root_may_be_a_symbolic_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    store = LocalStore(tmp_path / "link")
    store.put("a/b", b"content")
    assert [found.key for found in store.list("")] == ["a/b"]
    assert (tmp_path / "real" / "a" / "b").read_bytes() == b"content"


def test_what_is_no_file_is_not_listed(store: LocalStore, root: Path) -> None:
    store.put("a", b"")
    os.mkfifo(root / "fifo")
    with suppress(OSError):  # APFS knows no such names
        (root / os.fsdecode(b"latin-\xe9")).write_bytes(b"")
    (root / "empty folder").mkdir()
    assert [found.key for found in store.list("")] == ["a"]
    with pytest.raises(NotFoundError):
        store.get("fifo", memoryview(bytearray(1)))


def test_list_scans_only_folders_that_matter(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for key in ("data/1/a", "data/2/a", "data/3/a", "manifests/1", "writers/1"):
        store.put(key, b"")
    scanned: list[str] = []
    real = disk.entries

    def entries(folder: Path) -> list[os.DirEntry[str]]:
        scanned.append(str(folder.relative_to(store.root)))
        return real(folder)

    monkeypatch.setattr(disk, "entries", entries)

    def scans(prefix: str, **options: Any) -> list[str]:
        scanned.clear()
        list(store.list(prefix, **options))
        return scanned

    assert scans("manifests/") == ["manifests"]
    assert scans("data/2") == ["data", "data/2"]
    assert scans("data/", after="data/2/a") == ["data", "data/2", "data/3"]
    assert scans("data/", after="data/2/~", limit=1) == ["data", "data/2", "data/3"]
    assert scans("", limit=1) == [".", "data", "data/1"]
    assert scans("", after="n") == [".", "writers"]
