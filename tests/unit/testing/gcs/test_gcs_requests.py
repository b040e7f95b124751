"""The loopback Cloud Storage, spoken to by hand: single requests, credentials and rights."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import google_crc32c
import pytest

from ckptsync.testing.clock import FakeClock
from ckptsync.testing.gcs import GcsServer
from ckptsync.testing.gcs import http as gcs_http
from ckptsync.testing.gcs.payload import encode_crc32c

Ask = Callable[..., Any]
Connect = Callable[[GcsServer], Ask]

MIB = 1 << 20
UPLOAD = "/upload/storage/v1/b/b/o"
OBJECT = "/storage/v1/b/b/o/o"


def crc(content: bytes) -> str:
    return encode_crc32c(google_crc32c.value(content))


def test_a_media_upload_names_its_hashes(ask: Ask) -> None:
    made = ask("POST", f"{UPLOAD}?uploadType=media&name=o", b"hello", X_Goog_Hash=f"crc32c={crc(b'hello')}").json
    assert (made["size"], made["crc32c"], made["md5Hash"]) == ("5", crc(b"hello"), "XUFAKrxLKna5cZ2REBfFkg==")
    for path in (f"{OBJECT}?alt=media", f"/download{OBJECT}?alt=media", "/b/o"):
        read = ask("GET", path)
        assert (read.status, read.body) == (200, b"hello")
        assert read.headers["x-goog-hash"] == f"crc32c={crc(b'hello')},md5=XUFAKrxLKna5cZ2REBfFkg=="
        assert read.headers["x-goog-generation"] == made["generation"]
        assert read.headers["etag"]
    assert ask("HEAD", "/b/o").headers["content-length"] == "5"


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (f"{UPLOAD}?uploadType=media&name=o", {"X_Goog_Hash": "crc32c=AAAAAA=="}),
        (f"{UPLOAD}?uploadType=media&name=o", {"Content_MD5": "AAAAAAAAAAAAAAAAAAAAAA=="}),
        (f"{UPLOAD}?uploadType=media&name=o", {"X_Goog_Hash": "crc32c=no"}),
        (f"{UPLOAD}?uploadType=media&name=o", {"X_Goog_Hash": "sha1=AAAAAA=="}),
        (f"{UPLOAD}?uploadType=media&name=o&ifGenerationMatch=x", {}),
        (f"{UPLOAD}?uploadType=media&name=o&ifGenerationMatch=-1", {}),
        (f"{UPLOAD}?uploadType=media&name=o&if_generation_match=0", {}),
        (f"{UPLOAD}?uploadType=media", {}),
        (f"{UPLOAD}?name=o", {}),
        (f"{UPLOAD}?uploadType=media&name=.", {}),
        (f"{UPLOAD}?uploadType=media&name={'x' * 1025}", {}),
        (f"{UPLOAD}?uploadType=multipart&name=o", {"Content_Type": "multipart/related; boundary=x"}),
    ],
)
def test_bad_uploads_are_refused(ask: Ask, path: str, headers: dict[str, str]) -> None:
    answer = ask("POST", path, b"hello", **headers)
    assert (answer.status, answer.json["error"]["code"]) == (400, 400)
    assert ask("GET", OBJECT).status == 404


@pytest.mark.parametrize(("field", "status"), [("crc32c", 400), ("md5Hash", 400), ("contentType", 200)])
def test_a_related_upload_is_checked_against_its_metadata(ask: Ask, field: str, status: int) -> None:
    value = {"crc32c": "AAAAAA==", "md5Hash": "AAAAAAAAAAAAAAAAAAAAAA==", "contentType": "a/b"}[field]
    media = b"line\r\n--sep not the end\r\n"
    head = json.dumps({"name": "o", field: value}).encode()
    body = b"--sep\r\n\r\n" + head + b"\r\n--sep\r\nContent-Type: c/d\r\n\r\n" + media + b"\r\n--sep--\r\n"
    answer = ask("POST", f"{UPLOAD}?uploadType=multipart", body, Content_Type='multipart/related; boundary="sep"')
    assert answer.status == status
    if status == 200:
        assert answer.json["contentType"] == "a/b"
        assert ask("GET", "/b/o").body == media


def test_chunked_bodies_are_taken_and_bodies_without_length_are_not(server: GcsServer, ask: Ask) -> None:
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
    connection.request(
        "PUT", "/b/o", body=iter([b"abc", b"defg"]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"}
    )
    assert connection.getresponse().read() == b""
    connection.close()
    assert ask("GET", "/b/o").body == b"abcdefg"
    with socket.create_connection((urlsplit(server.url).hostname, urlsplit(server.url).port)) as raw:
        raw.sendall(b"PUT /b/o HTTP/1.1\r\nHost: x\r\n\r\n")
        assert raw.recv(1024).startswith(b"HTTP/1.1 411 ")


def test_writes_by_etag_are_refused_rather_than_done_anyway(ask: Ask) -> None:
    for header in ("If_Match", "If_None_Match"):
        assert ask("POST", f"{UPLOAD}?uploadType=media&name=o", b"", **{header: "*"}).status == 400
    assert ask("GET", OBJECT).status == 404


def test_metadata_changes_can_be_pinned(ask: Ask) -> None:
    ask("PUT", "/b/o", b"")
    assert ask("PATCH", f"{OBJECT}?generation=1", b'{"contentType": "a/b"}').status == 404
    assert ask("PATCH", f"{OBJECT}?ifMetagenerationMatch=2", b'{"contentType": "a/b"}').status == 412
    assert ask("PATCH", OBJECT, b"[]").status == 400
    changed = ask("PATCH", OBJECT, b'{"contentType": "a/b", "size": "9"}').json
    assert (changed["contentType"], changed["size"], changed["metageneration"]) == ("a/b", "0", "2")


def test_reads_follow_their_conditions(ask: Ask) -> None:
    generation = ask("POST", f"{UPLOAD}?uploadType=media&name=o", b"hello").json["generation"]
    etag = ask("GET", OBJECT).headers["etag"]
    assert ask("GET", f"{OBJECT}?ifGenerationMatch=1").status == 412
    assert ask("GET", f"{OBJECT}?alt=media&ifGenerationNotMatch={generation}").status == 304
    assert ask("GET", f"{OBJECT}?ifMetagenerationNotMatch=1").status == 304
    assert ask("GET", OBJECT, If_None_Match=etag).status == 304
    assert ask("GET", OBJECT, If_Match='"other"').status == 412
    assert ask("GET", "/b/o", x_goog_if_generation_match="1").code == "PreconditionFailed"
    assert ask("GET", f"{OBJECT}?generation=1").status == 404
    assert ask("POST", f"{UPLOAD}?uploadType=media&name=o&ifGenerationNotMatch={generation}", b"").status == 412
    assert ask("GET", "/storage/v1/b/b/o/none?alt=media").body == b"No such object: b/none"


@pytest.mark.parametrize(
    ("span", "status", "body", "content_range"),
    [
        ("bytes=1-3", 206, b"ell", "bytes 1-3/5"),
        ("bytes=3-99", 206, b"lo", "bytes 3-4/5"),
        ("bytes=-2", 206, b"lo", "bytes 3-4/5"),
        ("bytes=4-", 206, b"o", "bytes 4-4/5"),
        ("bytes=5-", 416, None, None),
        ("bytes=3-1", 200, b"hello", None),
        ("lines=1-2", 200, b"hello", None),
    ],
)
def test_ranges(ask: Ask, span: str, status: int, body: bytes | None, content_range: str | None) -> None:
    ask("PUT", "/b/o", b"hello")
    for path in ("/b/o", f"{OBJECT}?alt=media"):
        answer = ask("GET", path, Range=span)
        assert (answer.status, answer.headers.get("content-range")) == (status, content_range)
        assert body is None or answer.body == body


def test_large_bodies_live_in_several_segments(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcs_http, "SEGMENT_BYTES", 100_000)
    whole = bytes(range(256)) * 4096
    assert ask("PUT", "/b/o", whole, x_goog_hash=f"crc32c={crc(whole)}").status == 200
    assert ask("GET", "/b/o").body == whole
    assert ask("GET", "/b/o", Range="bytes=99999-300000").body == whole[99_999:300_001]


def test_listing_options_are_checked(ask: Ask) -> None:
    for query in ("maxResults=0", "maxResults=x", "pageToken=no", "prefixes=x", "prefix=a&prefix=b"):
        assert ask("GET", f"/storage/v1/b/b/o?{query}").status == 400, query
    assert ask("GET", "/storage/v1/b/b/o?fields=items(name)&maxResults=5000").status == 200
    assert ask("GET", "/storage/v1/b/nowhere/o").status == 404
    assert ask("GET", "/storage/v1/nothing").status == 404


def test_folded_names_are_listed_once_over_all_pages(ask: Ask) -> None:
    for name in ("a/1", "a/2", "b", "c/1", "c/d/2", "e"):
        ask("PUT", f"/b/{name}", b"")
    found: list[tuple[list[str], list[str]]] = []
    token = ""
    while True:
        page = ask("GET", f"/storage/v1/b/b/o?delimiter=/&maxResults=2{token}").json
        found.append((page.get("prefixes", []), [item["name"] for item in page.get("items", [])]))
        if "nextPageToken" not in page:
            break
        token = f"&pageToken={page['nextPageToken']}"
    assert found == [(["a/"], ["b"]), (["c/"], ["e"])]
    assert ask("GET", "/storage/v1/b/b/o?delimiter=/&prefix=c/").json["prefixes"] == ["c/d/"]


def test_xml_refuses_in_xml(ask: Ask) -> None:
    assert ask("PUT", "/nowhere/o", b"").code == "NoSuchBucket"
    assert ask("GET", "/b/none").code == "NoSuchKey"
    assert ask("DELETE", "/b/none").status == 404
    assert ask("PUT", "/b/o", b"1", x_goog_if_generation_match="0").status == 200
    lost = ask("PUT", "/b/o", b"2", x_goog_if_generation_match="0")
    assert (lost.status, lost.code) == (412, "PreconditionFailed")
    assert ask("PUT", "/b/o", b"2", x_goog_hash="crc32c=AAAAAA==").code == "BadDigest"
    assert ask("PUT", "/b/o", b"2", If_None_Match="*").code == "NotImplemented"
    assert ask("PUT", "/b/o", b"2", x_goog_if_generation_not_match="0").code == "NotImplemented"
    assert ask("PUT", "/b/o?acl", b"2").code == "InvalidArgument"
    assert ask("GET", "/b").status == 501
    assert ask("GET", "/b/o").body == b"1"
    assert ask("DELETE", "/b/o").status == 204


# Credentials and rights


def test_a_token_is_demanded_except_by_sessions(connect: Connect) -> None:
    with GcsServer(buckets=["b"], token="t", writes_per_s=None) as server:
        ask = connect(server)
        assert ask("GET", OBJECT).status == 401
        wrong = ask("GET", OBJECT, Authorization="Bearer x")
        assert (wrong.status, "www-authenticate" in wrong.headers) == (401, True)
        assert ask("GET", "/b/o").code == "AuthenticationRequired"
        started = ask("POST", f"{UPLOAD}?uploadType=resumable&name=o", b"", Authorization="Bearer t")
        parts = urlsplit(started.headers["location"])
        assert ask("PUT", f"{parts.path}?{parts.query}", b"x").status == 200


@pytest.mark.parametrize(
    ("permission", "method", "path"),
    [
        ("storage.objects.create", "PUT", "/b/new"),
        ("storage.objects.get", "GET", "/b/o"),
        ("storage.objects.list", "GET", "/storage/v1/b/b/o"),
        ("storage.objects.list", "GET", "/storage/v1/b/b/o/none"),  # else 404 would tell
        ("storage.objects.delete", "DELETE", OBJECT),
        ("storage.objects.delete", "PUT", "/b/o"),  # replaces
        ("storage.multipartUploads.create", "POST", "/b/o?uploads"),
        ("storage.multipartUploads.list", "GET", "/b?uploads"),
    ],
)
def test_denied_permissions_are_named(permission: str, method: str, path: str, connect: Connect) -> None:
    with GcsServer(buckets=["b"], deny={permission}, writes_per_s=None) as server:
        ask = connect(server)
        ask("PUT", "/b/o", b"")
        answer = ask(method, path, b"")
        assert (answer.status, permission in answer.text) == (403, True)


def test_the_write_rate_rule_speaks_both_apis(connect: Connect) -> None:
    with GcsServer(buckets=["b"], clock=FakeClock(), write_burst=2) as server:
        ask = connect(server)
        assert [ask("PUT", "/b/o", b"").status for _ in range(2)] == [200, 200]
        assert ask("PUT", "/b/o", b"").code == "SlowDown"
        answer = ask("POST", f"{UPLOAD}?uploadType=media&name=o", b"")
        assert (answer.status, answer.json["error"]["errors"][0]["reason"]) == (429, "rateLimitExceeded")


def test_rewrite_honours_the_callers_limit(ask: Ask) -> None:
    ask("PUT", "/b/o", bytes(3 * MIB))
    path = f"{OBJECT}/rewriteTo/b/b/o/copy"
    assert ask("POST", f"{path}?maxBytesRewrittenPerCall=1000", b"").status == 400
    step = ask("POST", f"{path}?maxBytesRewrittenPerCall={2 * MIB}", b"").json
    assert (step["done"], step["totalBytesRewritten"], step["objectSize"]) == (False, str(2 * MIB), str(3 * MIB))
    token = f"rewriteToken={step['rewriteToken']}"
    assert ask("POST", f"{path}?maxBytesRewrittenPerCall={MIB}&{token}", b"").status == 400
    assert ask("POST", f"{path}?maxBytesRewrittenPerCall={2 * MIB}&{token}", b"").json["done"] is True
    assert ask("POST", f"{OBJECT}/copyTo/b/b/o/third", b"").json["size"] == str(3 * MIB)
