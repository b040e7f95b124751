from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptsync.errors import (
    CkptsyncError,
    ConfigError,
    ConflictError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    StoreError,
    TransientError,
    UnsupportedError,
)
from ckptsync.store import disk, open_store, tree
from ckptsync.store.base import Upload
from ckptsync.store.local import LocalStore

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


SEGMENTS = st.text(st.sampled_from("ab-.0/é🙂\uffee"), min_size=1, max_size=5)
TREES = st.sets(SEGMENTS.filter(lambda key: not tree.refusal(key)), max_size=12)


def scan_of(keys: set[str]) -> Callable[[str], Iterator[tuple[tree.Entry, str]]]:
    """Scan folders that exist only by name."""

    def scan(folder: str) -> Iterator[tuple[tree.Entry, str]]:
        below = {key[len(folder) :] for key in keys if key.startswith(folder)}
        files = {name for name in below if name and "/" not in name}
        folders = {name.partition("/")[0] for name in below if "/" in name}
        yield from ((tree.Entry(name, is_folder=False), name) for name in files)
        yield from ((tree.Entry(name, is_folder=True), name) for name in folders - files)

    return scan


@given(TREES, st.text(st.sampled_from("ab-./é"), max_size=4), st.text(st.sampled_from("ab-./é🙂"), max_size=4))
def test_walk_is_a_sorted_filter_of_all_keys(keys: set[str], prefix: str, after: str) -> None:
    # a name is a file or a folder, never both
    keys = {key for key in keys if not any(other.startswith(f"{key}/") for other in keys)}
    expected = sorted((key for key in keys if key.startswith(prefix) and key > after), key=str.encode)
    assert [key for key, _ in tree.walk(scan_of(keys), prefix, after)] == expected


def test_walk_goes_deeper_than_python_may_recurse() -> None:
    key = "a/" * 5000 + "b"
    assert [found for found, _ in tree.walk(scan_of({key}), "")] == [key]


# -- copies --------------------------------------------------------------------------------------------------------------


def test_a_copy_shares_the_bytes_and_is_young(store: LocalStore, root: Path) -> None:
    old = store.put("a", b"content")
    os.utime(root / "a", ns=(0, 10**18))
    copied = store.copy("a", "b/c")
    assert (root / "a").stat().st_ino == (root / "b" / "c").stat().st_ino
    assert copied.modified_s >= old.modified_s
    assert abs(copied.modified_s - time.time()) < 3600
    store.put("a", b"changed")
    assert store.read("b/c") == b"content"
    assert leftovers(root) == []


@pytest.mark.parametrize("in_kernel", [True, False])
def test_a_copy_where_there_are_no_hard_links(
    store: LocalStore, root: Path, monkeypatch: pytest.MonkeyPatch, *, in_kernel: bool
) -> None:
    content = os.urandom(3_000_000)
    store.put("a", content)
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    if not in_kernel:
        monkeypatch.setattr(os, "copy_file_range", failing(errno.EXDEV))
    assert store.copy("a", "b").size == len(content)
    assert (root / "a").stat().st_ino != (root / "b").stat().st_ino
    assert store.read("b") == content
    upload = store.begin("c")
    store.finish(upload, [store.copy_part(upload, 1, "a", 5, 2_000_000)])
    assert store.read("c") == content[5:2_000_005]
    assert [name for name in leftovers(root) if "finished" not in name] == []


def test_copying_gives_up_when_the_disk_is_full(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a", b"content")
    upload = store.begin("b")
    monkeypatch.setattr(os, "copy_file_range", failing(errno.ENOSPC))
    with pytest.raises(StoreError, match="disk full"):
        store.copy_part(upload, 1, "a", 0, 7)


def test_a_copy_onto_itself_changes_nothing(store: LocalStore, root: Path) -> None:
    store.put("a", b"content")
    assert store.copy("a", "a").size == 7
    assert store.read("a") == b"content"
    assert leftovers(root) == []


# -- uploads -------------------------------------------------------------------------------------------------------------

FINISH = """
import os, sys
from pathlib import Path
from ckptsync.store import disk, local
from ckptsync.store.base import Upload

root, name, stage = sys.argv[1:]
store = local.LocalStore(Path(root))
upload = Upload(key="folder/object", id=name)
calls = 0

def die_at(place, attribute, when):
    real = getattr(place, attribute)
    def step(*arguments, **options):
        global calls
        calls += 1
        if calls == when:
            os._exit(9)
        return real(*arguments, **options)
    setattr(place, attribute, step)

attribute, _, when = stage.partition(":")
place = {"disk": disk, "os": os, "shutil": local.shutil, "Path": Path}[attribute.partition(".")[0]]
die_at(place, attribute.partition(".")[2], int(when))
store.finish(upload, store.parts(upload).values())
"""


@pytest.mark.parametrize(
    "stage",
    [
        "disk.copy_range:2",
        "os.fsync:1",
        "Path.write_text:1",
        "disk.publish:1",
        "disk.sync_folder:3",
        "Path.rename:1",
        "shutil.rmtree:1",
    ],
)
def test_finish_may_be_killed_anywhere(store: LocalStore, root: Path, stage: str) -> None:
    upload = store.begin("folder/object")
    sent = [store.put_part(upload, number, bytes([number]) * 1000) for number in (1, 2, 3)]
    killed = subprocess.run([sys.executable, "-c", FINISH, str(root), upload.id, stage], check=False, cwd=Path.cwd())
    assert killed.returncode == 9
    for found in store.list(""):
        assert (found.key, found.size) == ("folder/object", 3000)
    store.finish(upload, sent)
    assert store.read("folder/object") == b"\1" * 1000 + b"\2" * 1000 + b"\3" * 1000
    assert list(store.uploads("")) == []
    assert [found.key for found in store.list("")] == ["folder/object"]


def test_finish_by_two_at_once_makes_one_object(store: LocalStore) -> None:
    for turn in range(10):
        upload = store.begin(f"{turn}")
        sent = [store.put_part(upload, number, bytes([number]) * 5000) for number in (1, 2)]
        with ThreadPoolExecutor(2) as threads:
            sizes = [found.size for found in threads.map(lambda _: store.finish(upload, sent), range(2))]  # noqa: B023
        assert sizes == [10_000, 10_000]


def test_a_late_part_of_a_zombie_is_noticed(store: LocalStore) -> None:
    upload = store.begin("a")
    sent = [store.put_part(upload, 1, b"mine")]
    LocalStore(store.root).put_part(upload, 1, b"late")
    with pytest.raises(IntegrityError):
        store.finish(upload, sent)


@pytest.mark.parametrize("name", ["", "..", "../uploads", "0" * 31, "g" * 32, "0" * 32])
def test_an_upload_id_leads_nowhere_else(store: LocalStore, name: str) -> None:
    store.begin("a")
    upload = Upload(key="a", id=name)
    for ask in (
        lambda: store.parts(upload),
        lambda: store.put_part(upload, 1, b""),
        lambda: store.finish(upload, []),
    ):
        with pytest.raises(NotFoundError):
            ask()
    store.abort(upload)
    assert len(list(store.uploads(""))) == 1


def test_uploads_with_unreadable_keys_are_none(store: LocalStore, root: Path) -> None:
    upload = store.begin("a")
    (root / OWN / "uploads" / "stray").write_bytes(b"")
    (root / OWN / "uploads" / ("0" * 32)).mkdir()
    broken = root / OWN / "uploads" / ("1" * 32)
    broken.mkdir()
    for content in (b"", b"{}", b"\xff", b"[1]"):
        (broken / "key").write_bytes(content)
        assert list(store.uploads("")) == [upload]
        with pytest.raises(NotFoundError):
            store.parts(Upload(key="a", id="1" * 32))


def test_what_killed_processes_left_is_removed_a_day_later(store: LocalStore, root: Path) -> None:
    upload = store.begin("a")
    own, old_s = root / OWN, time.time() - 90_000
    (own / "finished").mkdir()
    for name in ("old", "young", "finished/old", "finished/young"):
        (own / name).write_bytes(b"")
        if name.endswith("old"):
            os.utime(own / name, (old_s, old_s))
    (own / "dropped").mkdir()
    (own / "dropped" / "00001").write_bytes(b"")
    os.utime(own / "dropped", (old_s, old_s))
    for path in (own / "uploads", own / "uploads" / upload.id, own / "finished"):
        os.utime(path, (old_s, old_s))
    LocalStore(root).put("b", b"")
    assert leftovers(root) == sorted([f"{OWN}/young", f"{OWN}/finished/young", f"{OWN}/uploads/{upload.id}/key"])


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_every_error_of_the_system_becomes_ours(code: int) -> None:
    error = disk.translate(OSError(code, os.strerror(code)), op="put", key="a", path=Path("/x"))
    assert isinstance(error, CkptsyncError)
    assert str(error)
