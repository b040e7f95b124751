"""The sink does what clients rely on: conditions, parts, ranges, listings; and a snapshot survives the way there and back."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from xml.etree import ElementTree as ET

import google_crc32c
import pytest

import ckptsync
from bench.sink.server import HOST, Sink
from ckptsync.config import resolve

MIB = 1 << 20
BLOB_BYTES = 40 * MIB + 12_345


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Service:
    port: int
    blob: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        connection = HTTPConnection(HOST, self.port, timeout=30)
        try:
            connection.request(method, target, body, {name.replace("_", "-"): value for name, value in headers.items()})
            answer = connection.getresponse()
            return Answer(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    blob = tmp_path_factory.mktemp("sink") / "blob"
    blob.write_bytes(os.urandom(BLOB_BYTES))
    sink = Sink(blob)
    yield Service(sink.listen(), blob)
    sink.close()


def texts(body: bytes, name: str) -> list[str]:
    return [node.text or "" for node in ET.fromstring(body).iterfind(f".//{{*}}{name}")]  # noqa: S314  our own


def test_only_the_first_conditional_put_succeeds(service: Service) -> None:
    first = service.ask("PUT", "/bench/owner", b"one", If_None_Match="*")
    second = service.ask("PUT", "/bench/owner", b"two", If_None_Match="*")
    assert (first.status, second.status) == (200, 412)
    assert service.ask("GET", "/bench/owner").body == b"one"


def test_only_the_first_put_of_no_generation_succeeds(service: Service) -> None:
    target = "/upload/storage/v1/b/bench/o?uploadType=media&name=owner-gcs&ifGenerationMatch=0"
    assert [service.ask("POST", target, b"one").status, service.ask("POST", target, b"two").status] == [200, 412]
    assert service.ask("GET", "/storage/v1/b/bench/o/owner-gcs?alt=media").body == b"one"
    assert service.ask("PUT", "/bench/owner-gcs", b"three", x_goog_if_generation_match="0").status == 412


def test_small_objects_come_back_as_they_were_sent(service: Service) -> None:
    content = os.urandom(1000)
    service.ask("PUT", "/bench/small", content)
    assert service.ask("GET", "/bench/small").body == content


def test_frames_of_the_sdk_are_no_content(service: Service) -> None:
    framed = b"5\r\nhello\r\n6\r\n world\r\n0\r\nx-amz-checksum-crc32:AAAAAA==\r\n\r\n"
    told = {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x-amz-decoded-content-length": "11"}
    service.ask("PUT", "/bench/framed", framed, **told)
    assert service.ask("GET", "/bench/framed").body == b"hello world"


def test_of_a_large_object_the_blob_comes_back(service: Service) -> None:
    content = service.blob.read_bytes()
    service.ask("PUT", "/bench/large", content)
    assert service.ask("GET", "/bench/large").body == content


def test_the_bucket_for_formats_of_their_own_keeps_them(service: Service) -> None:
    content = os.urandom(3 * MIB)
    service.ask("PUT", "/kept/large", content)
    assert service.ask("GET", "/kept/large").body == content


def test_parts_make_an_object_and_only_those_that_were_named(service: Service) -> None:
    content = service.blob.read_bytes()[: 11 * MIB]
    upload_id = texts(service.ask("POST", "/bench/parts?uploads").body, "UploadId")[0]
    for number in (2, 1, 3):
        part = content[(number - 1) * 5 * MIB : number * 5 * MIB]
        assert service.ask("PUT", f"/bench/parts?uploadId={upload_id}&partNumber={number}", part).status == 200
    assert texts(service.ask("GET", f"/bench/parts?uploadId={upload_id}").body, "Size") == [
        str(5 * MIB),
        str(5 * MIB),
        str(MIB),
    ]
    assert service.ask("GET", "/bench/parts").status == 404
    named = "".join(f"<Part><PartNumber>{number}</PartNumber></Part>" for number in (1, 2, 3))
    wrong = f"<CompleteMultipartUpload>{named}<Part><PartNumber>4</PartNumber></Part></CompleteMultipartUpload>"
    assert service.ask("POST", f"/bench/parts?uploadId={upload_id}", wrong.encode()).status == 400
    right = f"<CompleteMultipartUpload>{named}</CompleteMultipartUpload>".encode()
    assert service.ask("POST", f"/bench/parts?uploadId={upload_id}", right).status == 200
    assert service.ask("GET", "/bench/parts").body == content
    assert service.ask("PUT", f"/bench/parts?uploadId={upload_id}&partNumber=1", b"late").status == 404


def test_small_parts_are_kept(service: Service) -> None:
    upload_id = texts(service.ask("POST", "/bench/few?uploads").body, "UploadId")[0]
    for number, part in enumerate((b"one ", b"two"), 1):
        service.ask("PUT", f"/bench/few?uploadId={upload_id}&partNumber={number}", part)
    named = "".join(f"<Part><PartNumber>{number}</PartNumber></Part>" for number in (1, 2))
    service.ask("POST", f"/bench/few?uploadId={upload_id}", f"<C>{named}</C>".encode())
    assert service.ask("GET", "/bench/few").body == b"one two"


def test_a_part_can_be_a_range_of_another_object(service: Service) -> None:
    service.ask("PUT", "/kept/source", b"0123456789")
    upload_id = texts(service.ask("POST", "/kept/copied?uploads").body, "UploadId")[0]
    told = {"x-amz-copy-source": "kept/source", "x-amz-copy-source-range": "bytes=3-5"}
    service.ask("PUT", f"/kept/copied?uploadId={upload_id}&partNumber=1", b"", **told)
    service.ask("POST", f"/kept/copied?uploadId={upload_id}", b"<C><Part><PartNumber>1</PartNumber></Part></C>")
    assert service.ask("GET", "/kept/copied").body == b"345"


@pytest.mark.parametrize(
    ("wanted", "begin", "end"),
    [
        ("0-0", 0, 1),
        ("5-9", 5, 10),
        (f"{BLOB_BYTES - 3}-", BLOB_BYTES - 3, BLOB_BYTES),
        ("-7", BLOB_BYTES - 7, BLOB_BYTES),
    ],
)
def test_ranges_are_those_asked_for(service: Service, wanted: str, begin: int, end: int) -> None:
    content = service.blob.read_bytes()
    service.ask("PUT", "/bench/ranged", content)
    for target in ("/bench/ranged", "/storage/v1/b/bench/o/ranged?alt=media"):
        answer = service.ask("GET", target, Range=f"bytes={wanted}")
        assert (answer.status, answer.body) == (206, content[begin:end])
        assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/{BLOB_BYTES}"


def test_a_range_behind_the_end_is_refused(service: Service) -> None:
    service.ask("PUT", "/bench/short", b"abc")
    assert service.ask("GET", "/bench/short", Range="bytes=3-").status == 416


def test_listings_are_sorted_and_cut_into_pages(service: Service) -> None:
    for name in ("c", "a", "b/2", "b/1"):
        service.ask("PUT", f"/bench/list/{name}", b"x")
    target = "/bench?list-type=2&prefix=list/&max-keys=3"
    page = service.ask("GET", target).body
    assert texts(page, "Key") == ["list/a", "list/b/1", "list/b/2"]
    token = texts(page, "NextContinuationToken")[0]
    assert texts(service.ask("GET", f"{target}&continuation-token={token}").body, "Key") == ["list/c"]
    folders = service.ask("GET", "/bench?list-type=2&prefix=list/&delimiter=/").body
    assert texts(folders, "Key") == ["list/a", "list/c"]
    assert texts(folders, "Prefix")[1:] == ["list/b/"]


def test_listings_in_json_have_pages_too(service: Service) -> None:
    for name in ("c", "a", "b"):
        service.ask("PUT", f"/bench/json/{name}", b"x")
    target = "/storage/v1/b/bench/o?prefix=json/&maxResults=2"
    page = json.loads(service.ask("GET", target).body)
    assert [item["name"] for item in page["items"]] == ["json/a", "json/b"]
    rest = json.loads(service.ask("GET", f"{target}&pageToken={page['nextPageToken']}").body)
    assert [item["name"] for item in rest["items"]] == ["json/c"]


def test_a_resumable_upload_tells_how_far_it_came(service: Service) -> None:
    content = service.blob.read_bytes()[: 3 * MIB]
    begun = service.ask("POST", "/upload/storage/v1/b/bench/o?uploadType=resumable&name=resumed", b"{}")
    target = begun.headers["location"].removeprefix(service.url)
    size = len(content)
    first = service.ask("PUT", target, content[: 2 * MIB], Content_Range=f"bytes 0-{2 * MIB - 1}/{size}")
    assert (first.status, first.headers["range"]) == (308, f"bytes=0-{2 * MIB - 1}")
    asked = service.ask("PUT", target, Content_Range="bytes */*")
    assert (asked.status, asked.headers["range"]) == (308, f"bytes=0-{2 * MIB - 1}")
    last = service.ask("PUT", target, content[2 * MIB :], Content_Range=f"bytes {2 * MIB}-{size - 1}/{size}")
    told = json.loads(last.body)
    crc = base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()
    assert (told["size"], told["crc32c"]) == (str(size), crc)


def test_a_related_upload_has_its_metadata_taken_off(service: Service) -> None:
    for size in (1000, 2 * MIB):
        content = service.blob.read_bytes()[:size]
        head = b'--b0\r\nContent-Type: application/json\r\n\r\n{"name": "both"}\r\n--b0\r\nContent-Type: x/y\r\n\r\n'
        target = "/upload/storage/v1/b/bench/o?uploadType=multipart"
        body = head + content + b"\r\n--b0--"
        assert service.ask("POST", target, body, Content_Type="multipart/related; boundary=b0").status == 200
        assert service.ask("GET", "/storage/v1/b/bench/o/both?alt=media").body == content


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_snapshot_goes_there_and_back(
    service: Service, scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "bench")
    cloud = {"endpoint_url": service.url}
    config = resolve({"state_dir": str(tmp_path / "state"), "s3": cloud, "gcs": cloud})
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "weights").write_bytes(service.blob.read_bytes())
    (tree / "small.json").write_text("{}")
    run = f"{scheme}://bench/run-{scheme}"
    ckptsync.save(tree, run, step=1, config=config)
    ckptsync.save(tree, run, step=2, config=config)  # its parts are copied on the service
    assert ckptsync.restore(run, tmp_path / "back", config=config).step == 2
    assert (tmp_path / "back" / "weights").read_bytes() == service.blob.read_bytes()
    assert (tmp_path / "back" / "small.json").read_text() == "{}"
