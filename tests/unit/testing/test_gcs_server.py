"""The loopback Cloud Storage, driven by Google's own client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import google_crc32c
import pytest
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage import transfer_manager

from ckptsync.testing.clock import FakeClock
from ckptsync.testing.gcs.payload import Payload, combine_crc32c, crc32c, encode_crc32c
from ckptsync.testing.gcs.server import Fault, GcsServer, Kind, Request, Response

MIB = 1 << 20
BLOCK = 256 << 10


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def server(clock: FakeClock) -> Iterator[GcsServer]:
    with GcsServer(buckets=["b", "other"], clock=clock) as started:
        yield started


@pytest.fixture
def bucket(server: GcsServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[storage.Bucket]:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    client = storage.Client(project="p", credentials=AnonymousCredentials())
    yield client.bucket("b")
    client.close()


def content(size_bytes: int, seed: int = 0) -> bytes:
    return bytes((position * 31 + seed) % 251 for position in range(1024)) * (size_bytes // 1024 + 1)


def kinds(server: GcsServer) -> list[Kind]:
    """What was asked for, less the look at the bucket that the client takes from a thread of its own."""
    return [kind for _, kind, _ in server.requests if kind is not Kind.BUCKET]


def test_a_small_object_goes_there_and_back(bucket: storage.Bucket) -> None:
    blob = bucket.blob("run/a b/ü?#%.bin")
    blob.metadata = {"step": "7"}
    blob.upload_from_string(b"hello", content_type="text/plain", retry=None)
    assert blob.download_as_bytes(retry=None) == b"hello"
    found = bucket.get_blob("run/a b/ü?#%.bin", retry=None)
    assert (found.size, found.metadata, found.content_type) == (5, {"step": "7"}, "text/plain")
    assert found.crc32c == blob.crc32c
    assert found.md5_hash == "XUFAKrxLKna5cZ2REBfFkg=="
    assert found.metageneration == 1


def test_generation_zero_means_not_there_yet(bucket: storage.Bucket, clock: FakeClock) -> None:
    bucket.blob("o").upload_from_string(b"1", if_generation_match=0, retry=None)
    clock.advance(1)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("o").upload_from_string(b"2", if_generation_match=0, retry=None)
    assert bucket.blob("o").download_as_bytes() == b"1"


def test_sixteen_racers_have_one_winner(bucket: storage.Bucket) -> None:
    answers: list[str] = []

    def race(number: int) -> None:
        try:
            bucket.blob("o").upload_from_string(f"{number}", if_generation_match=0, retry=None)
            answers.append("won")
        except (exceptions.PreconditionFailed, exceptions.TooManyRequests):
            answers.append("lost")

    threads = [threading.Thread(target=race, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == ["lost"] * 15 + ["won"]


def test_generations_grow_and_pin_reads_and_deletes(bucket: storage.Bucket, clock: FakeClock) -> None:
    generations = []
    for _ in range(3):
        blob = bucket.blob("o")
        blob.upload_from_string(b"x", retry=None)
        generations.append(blob.generation)
        clock.advance(1)
    assert generations == sorted(set(generations))
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("o").download_as_bytes(if_generation_match=generations[0], retry=None)
    with pytest.raises(exceptions.NotFound):
        bucket.blob("o", generation=generations[0]).download_as_bytes(retry=None)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("o").delete(if_generation_match=generations[0], retry=None)
    bucket.blob("o").delete(if_generation_match=generations[2], retry=None)
    with pytest.raises(exceptions.NotFound):
        bucket.blob("o").delete(retry=None)


def test_metadata_updates_count_metagenerations(bucket: storage.Bucket, clock: FakeClock) -> None:
    blob = bucket.blob("o")
    blob.upload_from_string(b"x", retry=None)
    clock.advance(1)
    blob.metadata = {"k": "v"}
    blob.patch(if_metageneration_match=1, retry=None)
    assert (blob.metageneration, bucket.get_blob("o").metadata) == (2, {"k": "v"})
    clock.advance(1)
    blob.metadata = {"k": None}
    with pytest.raises(exceptions.PreconditionFailed):
        blob.patch(if_metageneration_match=1, retry=None)


def test_one_name_changes_once_a_second(bucket: storage.Bucket, clock: FakeClock) -> None:
    bucket.blob("o").upload_from_string(b"1", retry=None)
    bucket.blob("p").upload_from_string(b"1", retry=None)
    with pytest.raises(exceptions.TooManyRequests, match="rate limit for object mutation"):
        bucket.blob("o").upload_from_string(b"2", if_generation_match=0, retry=None)  # the rate comes first
    clock.advance(0.9)
    with pytest.raises(exceptions.TooManyRequests):
        bucket.blob("o").delete(retry=None)
    clock.advance(0.1)
    bucket.blob("o").upload_from_string(b"3", retry=None)


def test_a_resumable_upload_in_small_chunks(bucket: storage.Bucket, server: GcsServer) -> None:
    whole = content(5 * BLOCK + 17)[: 5 * BLOCK + 17]
    blob = bucket.blob("o", chunk_size=2 * BLOCK)
    blob.upload_from_file(BytesIO(whole), checksum="crc32c", if_generation_match=0, retry=None)
    assert blob.size == len(whole)
    assert bucket.blob("o").download_as_bytes() == whole
    assert kinds(server)[:4] == [Kind.SESSION_START] + [Kind.SESSION_CHUNK] * 3


def test_the_client_recovers_a_chunk_whose_answer_was_lost(bucket: storage.Bucket, server: GcsServer) -> None:
    whole = content(4 * BLOCK)[: 4 * BLOCK]
    lost: list[Kind] = []

    def lose_one(request: Request, _response: Response) -> Fault | None:
        if request.kind is Kind.SESSION_CHUNK and not lost:
            lost.append(request.kind)
            return Fault(drop=True)
        return None

    server.after = lose_one
    blob = bucket.blob("o", chunk_size=2 * BLOCK)
    blob.upload_from_file(BytesIO(whole), checksum="crc32c")
    assert lost
    assert bucket.blob("o").download_as_bytes() == whole


@pytest.mark.parametrize(("start", "end"), [(0, 0), (5, 9), (MIB - 1, 2 * MIB), (100, None)])
def test_ranges(bucket: storage.Bucket, start: int, end: int | None) -> None:
    whole = content(MIB)[:MIB]
    bucket.blob("o").upload_from_string(whole, retry=None)
    expected = whole[start : None if end is None else end + 1]
    assert bucket.blob("o").download_as_bytes(start=start, end=end, checksum=None, retry=None) == expected


def test_a_range_behind_the_end_is_refused(bucket: storage.Bucket) -> None:
    bucket.blob("o").upload_from_string(b"123", retry=None)
    with pytest.raises(exceptions.RequestRangeNotSatisfiable):
        bucket.blob("o").download_as_bytes(start=3, retry=None)


def test_listings_come_in_pages_of_a_thousand(bucket: storage.Bucket, server: GcsServer) -> None:
    names = [f"d{number % 3}/{number:05d}" for number in range(1203)]

    def fill(some: list[str]) -> None:
        for name in some:
            bucket.blob(name).upload_from_string(b"", retry=None)

    threads = [threading.Thread(target=fill, args=(names[first::4],)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [blob.name for blob in bucket.list_blobs()] == sorted(names)
    assert kinds(server).count(Kind.LIST) == 2
    assert len(list(bucket.list_blobs(prefix="d1/"))) == 401
    assert [blob.name for blob in bucket.list_blobs(start_offset="d2/01000", end_offset="d2/01010")] == [
        "d2/01001",
        "d2/01004",
        "d2/01007",
    ]
    folded = bucket.list_blobs(delimiter="/", page_size=2)
    assert (list(folded), folded.prefixes) == ([], {"d0/", "d1/", "d2/"})
    assert len(list(bucket.list_blobs(max_results=7))) == 7


def test_compose_joins_objects(bucket: storage.Bucket, clock: FakeClock) -> None:
    pieces = [content(1000 + number, number)[: 1000 + number] for number in range(3)]
    for number, piece in enumerate(pieces):
        bucket.blob(f"p{number}").upload_from_string(piece, retry=None)
    sources = [bucket.get_blob(f"p{number}") for number in range(3)]
    made = bucket.blob("o")
    made.compose(sources, if_generation_match=0, if_source_generation_match=[s.generation for s in sources], retry=None)
    assert bucket.blob("o").download_as_bytes() == b"".join(pieces)
    assert (made.component_count, made.md5_hash) == (3, None)
    clock.advance(1)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("o2").compose(sources, if_source_generation_match=[1, 1, 1], retry=None)
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("o").compose(sources, if_generation_match=0, retry=None)
    with pytest.raises(exceptions.BadRequest, match=r"\(33\) exceeds the maximum \(32\)"):
        bucket.blob("o2").compose([sources[0]] * 33, retry=None)
    with pytest.raises(exceptions.NotFound):
        bucket.blob("o2").compose([sources[0], bucket.blob("none")], retry=None)


def test_rewrite_takes_several_calls_when_told_to(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = content(5 * MIB)[: 5 * MIB]
    with GcsServer(buckets=["b", "other"], clock=clock, rewrite_bytes_per_call=2 * MIB) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        client = storage.Client(project="p", credentials=AnonymousCredentials())
        source = client.bucket("b").blob("o")
        source.upload_from_string(whole, retry=None)
        copy = client.bucket("other").blob("copy")
        token, written, total = copy.rewrite(source, if_generation_match=0, retry=None)
        assert (written, total) == (2 * MIB, 5 * MIB)
        assert not copy.exists()
        while token is not None:
            token, written, _ = copy.rewrite(source, token=token, if_generation_match=0, retry=None)
        assert (written, copy.download_as_bytes()) == (5 * MIB, whole)
        assert kinds(server).count(Kind.REWRITE) == 3
        with pytest.raises(exceptions.BadRequest, match="token is invalid"):
            copy.rewrite(source, token="never given", retry=None)
        with pytest.raises(exceptions.PreconditionFailed):
            copy.rewrite(source, if_source_generation_match=1, retry=None)
        client.close()


def test_a_rewrite_token_lives_a_week(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    with GcsServer(buckets=["b"], clock=clock, rewrite_bytes_per_call=MIB) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        client = storage.Client(project="p", credentials=AnonymousCredentials())
        source = client.bucket("b").blob("o")
        source.upload_from_string(bytes(2 * MIB), retry=None)
        token, *_ = client.bucket("b").blob("copy").rewrite(source, retry=None)
        clock.advance(7 * 86_400)
        with pytest.raises(exceptions.GoogleAPICallError) as raised:
            client.bucket("b").blob("copy").rewrite(source, token=token, retry=None)
        assert raised.value.code == 410
        client.close()


def test_the_transfer_manager_uploads_in_parts(bucket: storage.Bucket, server: GcsServer, tmp_path: Path) -> None:
    whole = content(11 * MIB)[: 11 * MIB]
    (tmp_path / "f").write_bytes(whole)
    transfer_manager.upload_chunks_concurrently(
        str(tmp_path / "f"),
        bucket.blob("o"),
        chunk_size=5 * MIB,
        worker_type=transfer_manager.THREAD,
        max_workers=2,
        checksum="crc32c",
    )
    found = bucket.get_blob("o")
    assert (found.size, found.md5_hash, found.component_count) == (len(whole), None, None)
    assert found.crc32c == encode_crc32c(google_crc32c.value(whole))
    assert bucket.blob("o").download_as_bytes(checksum="crc32c") == whole
    assert kinds(server)[:5] == [Kind.PARTS_START, *[Kind.PARTS_PUT] * 3, Kind.PARTS_COMPLETE]


def test_unknown_buckets_and_permissions(bucket: storage.Bucket) -> None:
    with pytest.raises(exceptions.NotFound, match="bucket does not exist"):
        bucket.client.bucket("nowhere").blob("o").upload_from_string(b"", retry=None)
    with pytest.raises(exceptions.NotFound):
        list(bucket.client.bucket("nowhere").list_blobs(retry=None))
    with GcsServer(buckets=["b"], deny={"storage.objects.delete"}) as strict:
        client = storage.Client(
            project="p", credentials=AnonymousCredentials(), client_options={"api_endpoint": strict.url}
        )
        assert client.bucket("b").test_iam_permissions(["storage.objects.get", "storage.objects.delete"]) == [
            "storage.objects.get"
        ]
        client.bucket("b").blob("o").upload_from_string(b"1", retry=None)
        with pytest.raises(exceptions.Forbidden, match=r"storage\.objects\.delete"):
            client.bucket("b").blob("o").delete(retry=None)
        client.close()
    assert bucket.exists()
    assert not bucket.client.bucket("nowhere").exists()


def test_faults_before_and_after_the_effect(bucket: storage.Bucket, server: GcsServer) -> None:
    server.before = lambda _request: Fault(status=503, headers={"Retry-After": "3"})
    with pytest.raises(exceptions.ServiceUnavailable) as raised:
        bucket.blob("o").upload_from_string(b"1", retry=None)
    assert raised.value.response.headers["Retry-After"] == "3"
    server.before = lambda _request: Fault(drop=True)
    with pytest.raises(OSError, match="Connection aborted"):
        bucket.blob("o").upload_from_string(b"1", retry=None)
    server.before = None
    assert not bucket.blob("o").exists()
    server.after = lambda request, _response: Fault(drop=True) if request.kind is Kind.INSERT else None
    with pytest.raises(OSError, match="Connection aborted"):
        bucket.blob("o").upload_from_string(b"12345", retry=None)
    assert bucket.blob("o").exists()
    server.after = lambda request, _response: Fault(cut_bytes=2) if request.kind is Kind.MEDIA else None
    with pytest.raises(OSError, match=r"IncompleteRead|Connection broken"):
        bucket.blob("o").download_as_bytes(retry=None)


def test_bodies_can_live_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = content(3 * MIB)[: 3 * MIB]
    with GcsServer(buckets=["b"], root=tmp_path) as server:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
        client = storage.Client(project="p", credentials=AnonymousCredentials())
        client.bucket("b").blob("o").upload_from_string(whole, retry=None)
        assert client.bucket("b").blob("o").download_as_bytes() == whole
        client.close()
    assert list(tmp_path.iterdir()) == []


def test_requests_are_listed_under_the_name_they_are_about(bucket: storage.Bucket, server: GcsServer) -> None:
    blob = bucket.blob("d/o", chunk_size=BLOCK)
    blob.upload_from_string(b"x", retry=None)
    bucket.blob("d/p", chunk_size=BLOCK).upload_from_file(BytesIO(b"x"), retry=None)
    assert blob.exists()
    assert [request for request in server.requests if request[1] is not Kind.BUCKET] == [
        ("POST", Kind.INSERT, "d/o"),
        ("POST", Kind.SESSION_START, "d/p"),
        ("PUT", Kind.SESSION_CHUNK, "d/p"),
        ("GET", Kind.GET, "d/o"),
    ]


def test_what_it_holds_survives_a_stop_and_a_start(bucket: storage.Bucket, server: GcsServer) -> None:
    bucket.blob("o").upload_from_string(b"1", retry=None)
    address = server.url
    server.stop()
    server.start()
    assert server.url == address
    assert bucket.blob("o").download_as_bytes() == b"1"


def test_it_runs_as_a_process() -> None:
    command = [sys.executable, "-m", "ckptsync.testing.gcs", "--port", "0", "--bucket", "b"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("ready ").strip()
        client = storage.Client(project="p", credentials=AnonymousCredentials(), client_options={"api_endpoint": url})
        client.bucket("b").blob("o").upload_from_string(b"1", retry=None)
        client.close()
        process.send_signal(signal.SIGTERM)
        try:
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (0, 9), (1000, 1), (3, 300_000), (262_144, 262_145)])
def test_checksums_of_pieces_combine(sizes: tuple[int, int]) -> None:
    first, second = os.urandom(sizes[0]), os.urandom(sizes[1])
    combined = combine_crc32c(google_crc32c.value(first), google_crc32c.value(second), len(second))
    assert (
        combined == google_crc32c.value(first + second) == crc32c(Payload.join([Payload.of(first), Payload.of(second)]))
    )


def test_payloads_slice_across_segments() -> None:
    payload = Payload.join(Payload.of(piece) for piece in (b"abc", b"", b"defg", b"h"))
    for start in range(-1, 10):
        for end in range(-1, 10):
            assert bytes(payload.slice(start, end)) == b"abcdefgh"[max(start, 0) : max(end, 0)]
