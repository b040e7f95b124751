"""The loopback Cloud Storage, spoken to by hand: sessions, multipart uploads, and clients that die in between."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, urlsplit

import google_crc32c
import pytest

from ckptsync.testing.clock import FakeClock
from ckptsync.testing.gcs import GcsServer
from ckptsync.testing.gcs.payload import encode_crc32c

Ask = Callable[..., Any]
Connect = Callable[[GcsServer], Ask]

MIB = 1 << 20
BLOCK = 256 << 10
UPLOAD = "/upload/storage/v1/b/b/o"
OBJECT = "/storage/v1/b/b/o/o"
SOME_PART = bytes(5 * MIB)


def crc(content: bytes) -> str:
    return encode_crc32c(google_crc32c.value(content))


def break_off(server: GcsServer, method: str, path: str, headers: Mapping[str, str], sent: bytes, said: int) -> None:
    """Announce `said` bytes, send fewer, hang up, and wait for the server to have noticed."""
    parts = urlsplit(server.url)
    before = len(server.requests)
    with socket.create_connection((parts.hostname, parts.port)) as raw:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        raw.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{lines}Content-Length: {said}\r\n\r\n".encode() + sent)
        raw.shutdown(socket.SHUT_WR)
        assert raw.recv(1) == b""  # the server hangs up once it has dealt with it
    assert len(server.requests) == before + 1


def begin(ask: Ask, query: str = "", body: bytes = b"{}", **headers: str) -> str:
    started = ask("POST", f"{UPLOAD}?uploadType=resumable&name=o{query}", body, **headers)
    assert started.status == 200, started.text
    parts = urlsplit(started.headers["location"])
    return f"{parts.path}?{parts.query}"


def start_parts(ask: Ask, name: str = "o") -> str:
    return ask("POST", f"/b/{name}?uploads").element("UploadId")


def put_part(ask: Ask, upload_id: str, number: int, body: bytes, name: str = "o") -> str:
    return ask("PUT", f"/b/{name}?partNumber={number}&uploadId={upload_id}", body).headers["etag"]


def complete(ask: Ask, upload_id: str, parts: list[tuple[int, str]], name: str = "o") -> Any:
    inner = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>" for n, e in parts)
    xml = f"<CompleteMultipartUpload>{inner}</CompleteMultipartUpload>"
    return ask("POST", f"/b/{name}?uploadId={upload_id}", xml.encode())


def test_a_body_cut_short_leaves_nothing(ask: Ask, server: GcsServer) -> None:
    ask("PUT", "/b/o", b"old")
    for method, path in (("PUT", "/b/o"), ("POST", f"{UPLOAD}?uploadType=media&name=o")):
        break_off(server, method, path, {}, b"x" * 400_000, 1_000_000)
        assert ask("GET", "/b/o").body == b"old"
    upload_id = start_parts(ask)
    break_off(server, "PUT", f"/b/o?partNumber=1&uploadId={upload_id}", {}, b"x" * 400_000, 1_000_000)
    assert "<Part>" not in ask("GET", f"/b/o?uploadId={upload_id}").text


# Resumable sessions


def test_a_session_tells_what_it_holds(ask: Ask) -> None:
    session = begin(ask)
    asked = ask("PUT", session, b"", Content_Range="bytes */*")
    assert (asked.status, "range" in asked.headers) == (308, False)
    chunk = ask("PUT", session, b"a" * BLOCK, Content_Range=f"bytes 0-{BLOCK - 1}/*")
    assert (chunk.status, chunk.headers["range"]) == (308, f"bytes=0-{BLOCK - 1}")
    assert ask("GET", OBJECT).status == 404
    done = ask("PUT", session, b"bc", Content_Range=f"bytes {BLOCK}-{BLOCK + 1}/{BLOCK + 2}")
    assert (done.status, done.json["size"]) == (200, str(BLOCK + 2))
    again = ask("PUT", session, b"", Content_Range=f"bytes */{BLOCK + 2}")
    assert (again.status, again.json["generation"]) == (200, done.json["generation"])
    assert ask("GET", "/b/o").body == b"a" * BLOCK + b"bc"


@pytest.mark.parametrize(
    ("content_range", "size"),
    [
        ("bytes 0-99/*", 100),  # no multiple of 256 KiB
        ("bytes 0-99/1000", 100),
        (f"bytes 0-{BLOCK - 1}/*", BLOCK - 1),  # another length than announced
        (f"bytes {BLOCK}-{2 * BLOCK - 1}/*", BLOCK),  # a gap
        ("bytes 0-9/5", 10),
        ("bytes 9-0/10", 10),
        ("bytes */*", 1),
        ("0-9/10", 10),
    ],
)
def test_bad_chunks_are_refused(ask: Ask, content_range: str, size: int) -> None:
    session = begin(ask)
    assert ask("PUT", session, bytes(size), Content_Range=content_range).status == 400
    assert "range" not in ask("PUT", session, b"", Content_Range="bytes */*").headers


def test_a_session_keeps_to_the_size_it_was_begun_with(ask: Ask) -> None:
    session = begin(ask, X_Upload_Content_Length="10")
    assert ask("PUT", session, bytes(9), Content_Range="bytes 0-8/9").status == 400
    assert ask("PUT", session, bytes(10), Content_Range="bytes 0-9/10").status == 200


def test_an_empty_object_by_session(ask: Ask) -> None:
    assert ask("PUT", begin(ask), b"", Content_Range="bytes */0").json["size"] == "0"


def test_a_broken_chunk_keeps_whole_blocks(ask: Ask, server: GcsServer) -> None:
    session = begin(ask)
    whole = bytes(range(256)) * 4096
    said = {"Content-Range": f"bytes 0-{MIB - 1}/{MIB}"}
    break_off(server, "PUT", session, said, whole[: 2 * BLOCK + 1000], MIB)
    kept = ask("PUT", session, b"", Content_Range=f"bytes */{MIB}")
    assert (kept.status, kept.headers["range"]) == (308, f"bytes=0-{2 * BLOCK - 1}")
    # Bytes that are here already may be sent again.
    done = ask("PUT", session, whole[BLOCK:], Content_Range=f"bytes {BLOCK}-{MIB - 1}/{MIB}")
    assert (done.status, done.json["crc32c"]) == (200, crc(whole))


def test_a_session_may_keep_less_than_was_sent(connect: Connect) -> None:
    with GcsServer(buckets=["b"], persist_bytes=BLOCK) as server:
        ask = connect(server)
        started = ask("POST", f"{UPLOAD}?uploadType=resumable&name=o", b"")
        parts = urlsplit(started.headers["location"])
        chunk = ask(
            "PUT",
            f"{parts.path}?{parts.query}",
            bytes(2 * BLOCK),
            Content_Range=f"bytes 0-{2 * BLOCK - 1}/*",
        )
        assert chunk.headers["range"] == f"bytes=0-{BLOCK - 1}"


def test_conditions_of_a_session_are_looked_at_when_it_ends(ask: Ask) -> None:
    session = begin(ask, "&ifGenerationMatch=0")
    assert "ifGenerationMatch=0" in session
    ask("PUT", "/b/o", b"someone else's")
    assert ask("PUT", session, b"mine", Content_Range="bytes 0-3/4").status == 412
    assert ask("GET", "/b/o").body == b"someone else's"


@pytest.mark.parametrize("early", [True, False])
def test_wrong_hashes_end_a_session(ask: Ask, *, early: bool) -> None:
    session = begin(ask, body=b'{"crc32c": "AAAAAA=="}' if early else b"{}")
    headers = {} if early else {"X_Goog_Hash": "crc32c=AAAAAA=="}
    assert ask("PUT", session, b"mine", Content_Range="bytes 0-3/4", **headers).status == 400
    assert ask("PUT", session, b"", Content_Range="bytes */4").status == 410
    assert ask("GET", "/b/o").status == 404


def test_sessions_end_in_every_way_the_service_knows(ask: Ask, server: GcsServer, clock: FakeClock) -> None:
    cancelled, ended, forgotten, old = (begin(ask) for _ in range(4))
    assert ask("DELETE", cancelled).status == 499
    server.end_session(server.open_sessions()[0])
    server.expire_session(server.open_sessions()[0])
    clock.advance(7 * 86_400)
    query = {"Content_Range": "bytes */*"}
    assert [ask("PUT", s, b"", **query).status for s in (cancelled, ended, forgotten, old)] == [404, 404, 404, 404]
    fresh = begin(ask)
    assert ask("DELETE", fresh).status == 499
    assert ask("PUT", fresh, b"", **query).status == 410
    assert ask("DELETE", fresh).status == 410
    another = begin(ask)
    server.end_session(server.open_sessions()[-1])
    assert ask("PUT", another, b"", **query).status == 410
    assert ask("PUT", f"{UPLOAD}?uploadType=resumable&upload_id=never", b"", **query).status == 404


# Multipart uploads


def test_a_multipart_upload(ask: Ask) -> None:
    upload_id = start_parts(ask, quote("a b&c"))
    parts = [bytes([number]) * (5 * MIB) for number in (1, 2)] + [b"end"]
    answers = [
        ask(
            "PUT",
            f"/b/{quote('a b&c')}?partNumber={number}&uploadId={upload_id}",
            part,
            x_goog_hash=f"crc32c={crc(part)}",
        )
        for number, part in zip((10_000, 1, 7), reversed(parts), strict=True)
    ]
    assert answers[0].headers["x-goog-hash"].startswith(f"crc32c={crc(b'end')},md5=")
    listed = ask("GET", f"/b/{quote('a b&c')}?uploadId={upload_id}")
    assert re.findall(r"<PartNumber>(\d+)", listed.text) == ["1", "7", "10000"]
    assert re.findall(r"<Size>(\d+)", listed.text) == [str(5 * MIB), str(5 * MIB), "3"]
    chosen = [(1, answers[1].headers["etag"]), (7, answers[2].headers["etag"]), (10_000, answers[0].headers["etag"])]
    done = complete(ask, upload_id, chosen, quote("a b&c"))
    assert done.status == 200
    assert done.headers["x-goog-hash"] == f"crc32c={crc(parts[1] + parts[0] + parts[2])}"
    assert done.element("Key") == "a b&amp;c"
    found = ask("GET", f"/storage/v1/b/b/o/{quote('a b&c')}").json
    assert ("md5Hash" in found, found["size"]) == (False, str(10 * MIB + 3))
    assert ask("GET", f"/b/{quote('a b&c')}").body == parts[1] + parts[0] + parts[2]
    assert complete(ask, upload_id, chosen, quote("a b&c")).code == "NoSuchUpload"


def test_complete_checks_order_tags_and_sizes(ask: Ask) -> None:
    upload_id = start_parts(ask)
    first, second, small = (put_part(ask, upload_id, n, SOME_PART if n < 3 else b"x") for n in (1, 2, 3))
    assert complete(ask, upload_id, [(2, second), (1, first)]).code == "InvalidPartOrder"
    assert complete(ask, upload_id, [(1, first), (1, first)]).code == "InvalidPartOrder"
    assert complete(ask, upload_id, [(1, small)]).code == "InvalidPart"
    assert complete(ask, upload_id, [(9, first)]).code == "InvalidPart"
    assert complete(ask, upload_id, []).status == 400
    assert ask("POST", f"/b/o?uploadId={upload_id}", b"<not xml").code == "MalformedXML"
    replaced = put_part(ask, upload_id, 2, b"tiny")
    assert complete(ask, upload_id, [(1, first), (2, second)]).code == "InvalidPart"
    assert complete(ask, upload_id, [(1, first), (2, replaced), (3, small)]).code == "EntityTooSmall"
    assert ask("GET", "/b/o").status == 404
    assert complete(ask, upload_id, [(1, first), (2, replaced)]).status == 200


def test_bad_parts_are_refused(ask: Ask, server: GcsServer) -> None:
    upload_id = start_parts(ask)
    for number in ("0", "10001", "x"):
        assert ask("PUT", f"/b/o?partNumber={number}&uploadId={upload_id}", b"x").status == 400
    assert (
        ask("PUT", f"/b/o?partNumber=1&uploadId={upload_id}", b"x", x_goog_hash="crc32c=AAAAAA==").code == "BadDigest"
    )
    assert ask("PUT", "/b/o?partNumber=1", b"x").status == 400
    assert ask("PUT", f"/b/other?partNumber=1&uploadId={upload_id}", b"x").code == "NoSuchUpload"
    with socket.create_connection((urlsplit(server.url).hostname, urlsplit(server.url).port)) as raw:
        head = f"PUT /b/o?partNumber=1&uploadId={upload_id} HTTP/1.1\r\nContent-Length: {(5 << 30) + 1}\r\n\r\n"
        raw.sendall(head.encode())
        assert b"EntityTooLarge" in raw.recv(4096)
    assert "<Part>" not in ask("GET", f"/b/o?uploadId={upload_id}").text


def test_multipart_requests_take_no_preconditions(ask: Ask) -> None:
    upload_id = start_parts(ask)
    for method, path in (
        ("POST", "/b/o?uploads"),
        ("PUT", f"/b/o?partNumber=1&uploadId={upload_id}"),
        ("POST", f"/b/o?uploadId={upload_id}"),
        ("DELETE", f"/b/o?uploadId={upload_id}"),
    ):
        for header in ("x_goog_if_generation_match", "If_None_Match"):
            answer = ask(method, path, b"", **{header: "0"})
            assert (answer.status, answer.code) == (400, "NotImplemented")


def test_parts_come_in_pages(ask: Ask) -> None:
    upload_id = start_parts(ask)
    for number in range(1, 6):
        put_part(ask, upload_id, number, b"x")
    page = ask("GET", f"/b/o?uploadId={upload_id}&max-parts=2&part-number-marker=1")
    assert re.findall(r"<PartNumber>(\d+)", page.text) == ["2", "3"]
    assert (page.element("IsTruncated"), page.element("NextPartNumberMarker")) == ("true", "3")
    assert ask("GET", f"/b/o?uploadId={upload_id}&part-number-marker=4").element("IsTruncated") == "false"
    assert ask("GET", f"/b/o?uploadId={upload_id}").element("MaxParts") == "1000"
    assert ask("GET", f"/b/o?uploadId={upload_id}&max-parts=x").status == 400


def test_uploads_are_listed_until_they_end(ask: Ask) -> None:
    ids = sorted(start_parts(ask, "d/x") for _ in range(3))
    start_parts(ask, "e")
    found: list[str] = []
    markers = ""
    while True:
        page = ask("GET", f"/b?uploads&prefix=d/&max-uploads=2{markers}")
        found += re.findall("<Upload><Key>d/x</Key><UploadId>(.*?)</UploadId>", page.text)
        if page.element("IsTruncated") == "false":
            break
        markers = f"&key-marker={page.element('NextKeyMarker')}&upload-id-marker={page.element('NextUploadIdMarker')}"
    assert found == ids
    assert ask("GET", "/b?uploads&key-marker=d/x").text.count("<Upload>") == 1
    for upload_id in ids:
        assert ask("DELETE", f"/b/d/x?uploadId={upload_id}").status == 204
    assert ask("DELETE", f"/b/d/x?uploadId={ids[0]}").code == "NoSuchUpload"
    assert ask("PUT", f"/b/d/x?partNumber=1&uploadId={ids[0]}", b"x").code == "NoSuchUpload"
    assert ask("GET", "/b?uploads&prefix=d/").text.count("<Upload>") == 0
