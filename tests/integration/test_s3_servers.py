"""S3Store against real servers: what they enforce, and what they do otherwise than Amazon."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import pytest
from awscrt import checksums

from ckptsync.errors import (
    ConflictError,
    CredentialsError,
    IntegrityError,
    NotFoundError,
    TransientError,
    UnsupportedError,
)
from ckptsync.options import S3, Http
from ckptsync.store.base import PartTag, Upload
from ckptsync.store.s3 import S3Store
from ckptsync.store.s3 import answers as s3_answers
from ckptsync.store.s3 import store as s3
from ckptsync.testing.servers import Server, ServerError, ceph_rgw, create_bucket, localstack, ministack, running

MIB = 1 << 20
BUCKET = "own"
STARTS: dict[str, Callable[[], AbstractContextManager[Server]]] = {
    "ministack": ministack,
    "localstack": localstack,
    "ceph": ceph_rgw,
}
SERVERS = [
    "ministack",
    pytest.param("localstack", marks=pytest.mark.slow),
    pytest.param("ceph", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with STARTS[request.param]() as server:
        create_bucket(server, BUCKET)
        yield server


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.node.callspec.params["server"]
    return kind


@pytest.fixture(autouse=True)
def environ(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)


Open = Callable[..., S3Store]


@pytest.fixture
def open_s3(request: pytest.FixtureRequest) -> Iterator[Open]:
    opened: list[S3Store] = []

    def make(bucket: str = BUCKET, **options: object) -> S3Store:
        settings = S3(**options)  # type: ignore[arg-type]
        opened.append(S3Store(bucket, f"run/{request.node.name}", settings, Http(), connections=8))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture
def store(open_s3: Open) -> S3Store:
    return open_s3()


def pattern(size: int, seed: int) -> bytes:
    return hashlib.shake_128(bytes([seed])).digest(size)


def send(store: S3Store, upload: Upload, *parts: bytes) -> list[PartTag]:
    return [store.put_part(upload, number, memoryview(data)) for number, data in enumerate(parts, 1)]


def fetch(store: S3Store, key: str, size: int) -> bytes:
    memory = bytearray(size)
    with memoryview(memory) as view:
        assert store.get(key, view) == size
    return bytes(memory)


@pytest.mark.req(7)
def test_parts_sent_by_one_store_are_finished_by_another(store: S3Store, open_s3: Open) -> None:
    data = [pattern(5 * MIB, 1), pattern(5 * MIB + 7, 2), pattern(3, 3)]
    upload = store.begin("big file+1/ä.bin")
    sent = send(store, upload, *data)
    other = open_s3()
    assert [(found.key, found.id) for found in other.uploads("big file+")] == [(upload.key, upload.id)]
    held = other.parts(upload)
    assert [(part.number, part.size, part.tag) for part in held.values()] == [
        (part.number, part.size, part.tag) for part in sent
    ]
    stat = other.finish(upload, held.values())
    whole = b"".join(data)
    assert stat.size == len(whole)
    assert stat.tag == f'"{s3_answers.multipart_etag(sent)}"'
    assert stat.tag == next(other.list("big")).tag
    assert hashlib.sha256(fetch(other, upload.key, stat.size)).digest() == hashlib.sha256(whole).digest()
    assert not list(other.uploads(""))


def test_finish_again_after_a_lost_answer(store: S3Store) -> None:
    upload = store.begin("k")
    parts = send(store, upload, b"only part")
    first = store.finish(upload, parts)
    assert store.finish(upload, parts) == first


def test_an_aborted_upload_is_gone(store: S3Store) -> None:
    upload = store.begin("k")
    parts = send(store, upload, b"part")
    store.abort(upload)
    store.abort(upload)
    for late in (
        lambda: store.put_part(upload, 2, b"late"),
        lambda: store.parts(upload),
        lambda: store.finish(upload, parts),
    ):
        with pytest.raises(NotFoundError):
            late()


@pytest.mark.req(29)
def test_a_part_replaced_by_another_writer_is_noticed(store: S3Store) -> None:
    upload = store.begin("k")
    parts = send(store, upload, b"mine")
    store.put_part(upload, 1, b"a zombie's")
    with pytest.raises(IntegrityError):
        store.finish(upload, parts)


def test_one_of_many_racers_creates_the_object(store: S3Store) -> None:
    outcomes: list[str] = []
    start = threading.Barrier(8, timeout=30)

    def race(number: int) -> None:
        start.wait()
        try:
            store.put("claim", b"%d" % number, if_absent=True)
        except (ConflictError, TransientError) as error:
            outcomes.append(type(error).__name__)
        else:
            outcomes.append(f"won {number}")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if outcome.startswith("won")]
    assert store.read("claim") == winner.removeprefix("won ").encode()


def test_odd_keys_are_listed_and_deleted_as_they_were_put(store: S3Store, kind: str) -> None:
    keys = sorted(["k/a b", "k/a+b", "k/é€😀", "k/a%2Fb", "k/\x01c", "k/x//y", "k/a&b<c>\"'", "k/tab\tq"])
    for key in keys:
        store.put(key, key.encode())
    assert [stat.key for stat in store.list("k/")] == keys
    if kind != "localstack":  # it compares the marker with encoded keys
        assert [stat.key for stat in store.list("k/", after="k/x//y")] == keys[-1:]
    store.delete(keys)
    assert not list(store.list(""))


@pytest.mark.req(33)
def test_a_pinned_read_sees_one_version(store: S3Store) -> None:
    tag = store.put("k", b"first").tag
    memory = memoryview(bytearray(3))
    assert store.get("k", memory, offset=3, tag=tag) == 2
    assert store.get("k", memory, offset=5, tag=tag) == 0
    store.put("k", b"second")
    with pytest.raises(ConflictError):
        store.get("k", memory, tag=tag)


def test_ranges_copied_on_the_server_make_an_object(store: S3Store) -> None:
    source = pattern(6 * MIB, 4)
    tag = store.put("source", source).tag
    store.put("small", b"small")
    upload = store.begin("k")
    parts = [
        store.copy_part(upload, 1, "source", MIB, 5 * MIB, tag=tag),
        store.copy_part(upload, 2, "small", 0, 5),
    ]
    stat = store.finish(upload, parts)
    assert fetch(store, "k", stat.size) == source[MIB:] + b"small"
    assert store.copy("source", "twin", tag=tag).size == len(source)
    assert fetch(store, "twin", len(source)) == source


def test_a_missing_bucket_is_not_found(open_s3: Open) -> None:
    store = open_s3("absent")
    for verb in (lambda: list(store.list("")), lambda: store.put("k", b""), lambda: store.begin("k")):
        with pytest.raises(NotFoundError, match="bucket 'absent'"):
            verb()


@pytest.mark.req(10)
def test_a_forked_child_uses_connections_of_its_own(server: Server) -> None:
    program = """
import os
from ckptsync.options import S3, Http
from ckptsync.store.s3 import S3Store
store = S3Store("own", "fork", S3(), Http(), connections=2)
store.put("parent", b"p")
child = os.fork()
if not child:
    store.put("child", store.read("parent") + b"c")
    os._exit(0)
for number in range(20):
    store.put(f"during/{number}", b"d")
assert os.waitpid(child, 0)[1] == 0
assert store.read("child") == b"pc"
"""
    environ = {**os.environ, **server.environ}
    subprocess.run([sys.executable, "-W", "error", "-c", program], env=environ, check=True, timeout=60)


@pytest.mark.req(16)
def test_damaged_bytes_are_refused_where_the_server_checks(
    store: S3Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "ceph":
        pytest.skip("Ceph ignores checksum headers")
    upload = store.begin("k")
    monkeypatch.setattr(s3_answers, "crc_of", lambda _: f"{checksums.crc64nvme(b'other'):016x}")
    with pytest.raises(TransientError, match="damaged"):
        store.put("k", b"bytes")
    with pytest.raises(TransientError, match="damaged"):
        store.put_part(upload, 1, b"bytes")
    with pytest.raises(NotFoundError):
        store.stat("k")


def test_a_demanded_checksum_is_confirmed_or_refused(open_s3: Open, kind: str) -> None:
    store = open_s3(checksum="crc64nvme")
    if kind == "ceph":
        with pytest.raises(UnsupportedError, match="does not confirm"):
            store.put("k", b"bytes")
        return
    store.put("k", b"bytes")
    assert store.stat("k").hashes["crc64nvme"] == f"{checksums.crc64nvme(b'bytes'):016x}"
    upload = store.begin("m")
    assert store.finish(upload, send(store, upload, b"bytes")).size == 5


def test_the_whole_checksum_is_compared_as_amazon_does(
    store: S3Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind != "localstack":
        pytest.skip("only LocalStack keeps FULL_OBJECT checksums as Amazon does")
    data = [pattern(5 * MIB, 5), b"tail"]
    monkeypatch.setattr(s3, "is_amazon", lambda _: True)
    upload = store.begin("k")
    parts = send(store, upload, *data)
    swapped = [replace(parts[0], hashes=parts[1].hashes), parts[1]]
    with pytest.raises(IntegrityError, match="not what its parts make"):
        store.finish(upload, swapped)
    stat = store.finish(upload, parts)
    assert stat.hashes["crc64nvme"] == f"{checksums.crc64nvme(b''.join(data)):016x}"


def test_wrong_credentials_are_told_where_the_server_checks(
    open_s3: Open, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind != "ceph":
        pytest.skip("only Ceph checks signatures")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(CredentialsError, match="SignatureDoesNotMatch"):
        open_s3().put("k", b"x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(CredentialsError, match="InvalidAccessKeyId"):
        open_s3().put("k", b"x")


def test_servers_listen_on_loopback_alone(server: Server) -> None:
    port = f"{int(server.url.rpartition(':')[2]):04X}"
    listening = [
        row.split()[1]
        for table in ("tcp", "tcp6")
        for row in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
        if row.split()[3] == "0A" and row.split()[1].endswith(f":{port}")
    ]
    assert listening == [f"0100007F:{port}"]


def test_a_server_that_dies_shows_its_log(tmp_path: Path) -> None:
    dies = [sys.executable, "-c", "print('no such disk'); raise SystemExit(3)"]
    with pytest.raises(ServerError, match=r"status 3: no such disk"), running("x", dies, folder=tmp_path, port=1):
        pass


PARENT = """
import sys
from pathlib import Path
from ckptsync.testing.servers import running
with running("x", sys.argv[2:], folder=Path(sys.argv[1])):
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["stopped", "killed"])
def test_a_server_leaves_no_process_behind(end: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        child = f"import socket, time; s = socket.create_connection({listener.getsockname()!r}); time.sleep(600)"
        leader = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
        argv = [sys.executable, "-c", PARENT, str(tmp_path), sys.executable, "-c", leader]
        with subprocess.Popen(argv, stdin=subprocess.PIPE) as parent:
            line, _ = listener.accept()
            if end == "killed":
                parent.kill()
        with line:
            line.settimeout(30)
            assert line.recv(1) == b""  # the kernel hung up for a child that is gone
