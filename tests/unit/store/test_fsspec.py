from __future__ import annotations

import datetime as dt
import errno
import gc
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from ckptsync.errors import (
    ConfigError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    StoreError,
    TransientError,
)
from ckptsync.store import open_store
from ckptsync.store.base import Upload
from ckptsync.store.fsspec import FsspecStore
from ckptsync.store.fsspec.facts import without_secrets

OWN = ".ckptsync-uploads"


@pytest.fixture
def store() -> FsspecStore:
    return FsspecStore(f"memory://{uuid.uuid4().hex}")


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[AbstractFileSystem]], None]:
    """Let fsspec know a file system, for one test."""
    known = sys.modules["fsspec.registry"]._registry
    return lambda kind: monkeypatch.setitem(known, kind.protocol, kind)


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


# -- opening -------------------------------------------------------------------------------------------------------------


def test_missing_fsspec_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ConfigError, match=r"pip install 'ckptsync\[fsspec\]'"):
        open_store("sftp://user:password@host/run")


def test_unknown_scheme() -> None:
    with pytest.raises(ConfigError, match="unknown scheme 'foo' in foo://bucket/run"):
        open_store("foo://bucket/run")


def test_missing_package_is_named() -> None:
    class Blocker:
        def find_spec(self, name: str, *_: Any) -> None:
            if name.partition(".")[0] == "adlfs":
                raise ImportError(name)

    blocker = Blocker()
    sys.meta_path.insert(0, blocker)
    try:
        with pytest.raises(ConfigError, match="needs another package: Install adlfs"):
            open_store("abfs://container@account.dfs.core.windows.net/run?sig=secret")
    finally:
        sys.meta_path.remove(blocker)


def test_opening_asks_nothing_of_the_service(register: Callable[..., None]) -> None:
    class Unreachable(AbstractFileSystem):
        """Connects when it is made, like SFTP."""

        protocol = "unreachable"

        def __init__(self, **_: Any) -> None:
            raise ConnectionRefusedError("nobody listens")

    register(Unreachable)
    store = FsspecStore("unreachable://host/run")
    for ask in (
        lambda: store.stat("a"),
        lambda: store.put("a", b""),
        lambda: list(store.list("")),
        lambda: store.begin("a"),
    ):
        with pytest.raises(TransientError, match="nobody listens"):
            ask()


def test_messages_show_no_secrets() -> None:
    assert without_secrets("sftp://user:password@host:22/a/run") == "sftp://host:22/a/run"
    assert without_secrets("abfs://container@account/run?sv=1&sig=secret") == "abfs://container@account/run"
    with pytest.raises(ConfigError) as caught:
        open_store("foo://user:password@host/run?sig=secret")
    assert "password" not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_it_needs_a_single_writer(store: FsspecStore) -> None:
    assert not store.traits.conditional_put
    store.put("a", b"first", if_absent=True)
    with pytest.raises(ConflictError):
        store.put("a", b"second", if_absent=True)
    assert store.read("a") == b"first"


@pytest.mark.parametrize("key", ["", "../a", "/a", "a//b", OWN, f"{OWN}/a"])
def test_keys_that_are_no_path_are_refused(store: FsspecStore, key: str) -> None:
    store.put("source", b"")
    for ask in (
        lambda: store.put(key, b""),
        lambda: store.get(key, memoryview(bytearray(1))),
        lambda: store.stat(key),
        lambda: store.delete([key]),
        lambda: store.copy("source", key),
        lambda: store.begin(key),
    ):
        with pytest.raises(ConfigError):
            ask()


# -- never half an object ------------------------------------------------------------------------------------------------


class FullDisk(LocalFileSystem):
    """Takes a few bytes, then no more."""

    protocol = "fulldisk"

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        Path(path).write_bytes(value[:3])
        raise OSError(errno.ENOSPC, "disk full")


@pytest.mark.req(15)
def test_a_put_that_fails_half_way_shows_nothing(tmp_path: Path, register: Callable[..., None]) -> None:
    register(FullDisk)
    (tmp_path / "a").write_bytes(b"old")
    store = FsspecStore(f"fulldisk://{tmp_path}")
    for key in ("a", "b"):
        with pytest.raises(StoreError, match="disk full") as caught:
            store.put(key, b"new content")
        assert not isinstance(caught.value, TransientError)
    assert files_below(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


class Truncating(LocalFileSystem):
    """Loses bytes and says nothing."""

    protocol = "truncating"

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        Path(path).write_bytes(value[:3])


def test_a_put_that_lost_bytes_is_noticed(tmp_path: Path, register: Callable[..., None]) -> None:
    register(Truncating)
    with pytest.raises(StoreError, match="3 bytes arrived instead of 11"):
        FsspecStore(f"truncating://{tmp_path}").put("a", b"new content")


@pytest.mark.parametrize("refusal", [None, FileExistsError])
def test_moves_that_do_not_replace(tmp_path: Path, register: Callable[..., None], refusal: type[Exception]) -> None:
    class Timid(LocalFileSystem):
        """Moves over nothing: HDFS says so by doing nothing, others raise."""

        protocol = "timid"

        def mv(self, path1: str, path2: str, **_: Any) -> None:
            if not Path(path2).exists():
                Path(path1).rename(path2)
            elif refusal:
                raise refusal(path2)

    register(Timid)
    store = FsspecStore(f"timid://{tmp_path}")
    store.put("a", b"old")
    store.put("a", b"new")
    assert store.read("a") == b"new"
    assert files_below(tmp_path) == ["a"]


def test_a_move_does_not_go_into_a_folder_of_that_name(tmp_path: Path) -> None:
    store = FsspecStore(f"local://{tmp_path}")
    store.put("a/b", b"")
    with pytest.raises(StoreError, match="IsADirectoryError"):
        store.put("a", b"")
    assert files_below(tmp_path) == ["a/b"]


@pytest.mark.req(15)
def test_finish_that_fails_half_way_shows_nothing(store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = store.begin("a")
    sent = [store.put_part(upload, number, b"part") for number in (1, 2)]
    real, calls = store._fs.cat_file, list[str]()

    def failing(path: str, **options: Any) -> Any:
        if path.endswith("/00002") and not calls:
            calls.append(path)
            raise ConnectionResetError(path)
        return real(path, **options)

    monkeypatch.setattr(store._fs, "cat_file", failing)
    with pytest.raises(TransientError):
        store.finish(upload, sent)
    assert list(store.list("")) == []
    assert store.finish(upload, sent).size == 8
    assert store.read("a") == b"partpart"


# -- object stores, where a file appears when it is closed ---------------------------------------------------------------


class BucketFile(AbstractBufferedFile):
    """Buffers, and publishes on close, like the files of adlfs, s3fs and gcsfs."""

    def _initiate_upload(self) -> None:
        self.chunks: list[bytes] = []

    def _upload_chunk(self, final: bool = False) -> bool:  # noqa: FBT001, FBT002  fsspec calls it so
        self.chunks.append(self.buffer.getvalue())
        if final:
            self.fs.publish(self.path, b"".join(self.chunks))
        return True

    def discard(self) -> None:
        self.fs.discarded.append(self.path)


class Bucket(AbstractFileSystem):
    """An object store of the kind fsspec knows."""

    protocol = "abfs"
    blobs: ClassVar[dict[str, tuple[bytes, str, dt.datetime]]] = {}
    discarded: ClassVar[list[str]] = []

    def publish(self, path: str, data: bytes) -> None:
        self.blobs[path] = (data, uuid.uuid4().hex, dt.datetime.now(dt.UTC))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        if path in self.blobs:
            data, tag, modified = self.blobs[path]
            return {"name": path, "size": len(data), "type": "file", "etag": f'"{tag}"', "last_modified": modified}
        if any(name.startswith(f"{path}/") for name in self.blobs):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        below = {name[len(path) + 1 :].partition("/")[0] for name in self.blobs if name.startswith(f"{path}/")}
        if not below:
            raise FileNotFoundError(path)
        return [self.info(f"{path}/{name}") for name in sorted(below)]

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        data = self.blobs[self.info(path)["name"]][0]
        if start is not None and start >= len(data):
            raise OSError(errno.EINVAL, "range not satisfiable")
        return data[start:end]

    def pipe_file(self, path: str, value: bytes, **_: Any) -> None:
        self.publish(self._strip_protocol(path), value)

    def rm_file(self, path: str) -> None:
        if self.blobs.pop(self._strip_protocol(path), None) is None:
            raise FileNotFoundError(path)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        self.publish(path2, self.cat_file(path1))

    def _open(self, path: str, mode: str = "rb", **options: Any) -> BucketFile:
        return BucketFile(self, path, mode, **{"block_size": 5 << 20, **options})


@pytest.fixture
def bucket(register: Callable[..., None]) -> Iterator[FsspecStore]:
    register(Bucket)
    yield FsspecStore("abfs://container/run")
    Bucket.blobs.clear()
    Bucket.discarded.clear()


def test_object_store_puts_in_one_request(bucket: FsspecStore) -> None:
    put = bucket.put("a/b", b"content")
    assert set(Bucket.blobs) == {"container/run/a/b"}
    assert put.tag == Bucket.blobs["container/run/a/b"][1]
    assert abs(put.modified_s - time.time()) < 3600
    assert [found.tag for found in bucket.list("")] == [put.tag]
    assert bucket.get("a/b", memoryview(bytearray(5)), offset=7) == 0
    with pytest.raises(NotFoundError):
        bucket.get("missing", memoryview(bytearray(5)), offset=7)
    assert bucket.copy("a/b", "c", tag=put.tag).size == 7
    bucket.delete(["a/b", "c", "missing"])
    assert list(bucket.list("")) == []


def test_object_store_upload(bucket: FsspecStore) -> None:
    upload = bucket.begin("a")
    sent = [bucket.put_part(upload, number, bytes([number]) * (6 << 20)) for number in (1, 2)]
    assert bucket.finish(upload, sent).size == 12 << 20
    assert bucket.read("a") == b"\1" * (6 << 20) + b"\2" * (6 << 20)
    assert bucket.finish(upload, sent).size == 12 << 20
    assert [name for name in Bucket.blobs if "/finished/" not in name] == ["container/run/a"]


def test_a_part_replaced_while_it_is_streamed_discards_the_object(
    bucket: FsspecStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = bucket.begin("a")
    sent = [bucket.put_part(upload, 1, b"mine")]
    real = BucketFile.write

    def write_late(file: BucketFile, data: bytes) -> int:
        FsspecStore("abfs://container/run").put_part(upload, 1, b"late")
        return int(real(file, data))

    monkeypatch.setattr(BucketFile, "write", write_late)
    with pytest.raises(IntegrityError, match="part 1"):
        bucket.finish(upload, sent)
    gc.collect()  # a file's finaliser closes it, and closing publishes
    assert Bucket.discarded == ["container/run/a"]
    assert "container/run/a" not in Bucket.blobs


# -- uploads -------------------------------------------------------------------------------------------------------------


def test_a_part_that_comes_after_abort_leaves_nothing(tmp_path: Path) -> None:
    store = FsspecStore(f"local://{tmp_path}")
    upload = store.begin("a")
    store.put_part(upload, 1, b"part")
    store.abort(upload)
    with pytest.raises(NotFoundError):
        store.put_part(upload, 2, b"late")
    assert files_below(tmp_path) == []


def test_finish_cut_off_behind_its_receipt_is_settled(store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = store.begin("a")
    sent = [store.put_part(upload, 1, b"part")]
    with monkeypatch.context() as patch:
        patch.setattr(store, "abort", lambda _: None)
        made = store.finish(upload, sent)
    assert [found.id for found in store.uploads("")] == [upload.id]
    assert store.finish(upload, sent) == made
    assert list(store.uploads("")) == []


@pytest.mark.parametrize("name", ["", "..", "../x", "0" * 32])
def test_unknown_upload_ids(store: FsspecStore, name: str) -> None:
    upload = Upload(key="a", id=name)
    for ask in (lambda: store.parts(upload), lambda: store.put_part(upload, 1, b""), lambda: store.finish(upload, [])):
        with pytest.raises(NotFoundError):
            ask()
    store.abort(upload)


def test_what_killed_processes_left_is_removed_a_day_later(tmp_path: Path) -> None:
    for folder in ("drafts", "finished"):
        (tmp_path / OWN / folder).mkdir(parents=True)
        for name in ("old", "young"):
            (tmp_path / OWN / folder / name).write_bytes(b"")
        os.utime(tmp_path / OWN / folder / "old", (0, time.time() - 90_000))
    upload = FsspecStore(f"local://{tmp_path}").begin("a")
    assert files_below(tmp_path) == sorted([f"{OWN}/drafts/young", f"{OWN}/finished/young", f"{OWN}/{upload.id}/key"])


# -- threads and processes -----------------------------------------------------------------------------------------------


def test_each_thread_has_a_file_system_of_its_own(store: FsspecStore) -> None:
    """Most are not made for several: one FTP or SFTP connection answers one question at a time."""
    seen = [store._fs, store._fs]
    thread = threading.Thread(target=lambda: seen.append(store._fs))
    thread.start()
    thread.join()
    assert seen[0] is seen[1]
    assert seen[2] is not seen[0]


def test_a_child_process_has_a_file_system_of_its_own(store: FsspecStore, monkeypatch: pytest.MonkeyPatch) -> None:
    first = store._fs
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert store._fs is not first


def test_listings_are_not_cached(tmp_path: Path) -> None:
    one, other = (FsspecStore(f"local://{tmp_path}") for _ in range(2))
    assert one._fs is not other._fs
    assert not one._fs.dircache.use_listings_cache
