from __future__ import annotations

import logging
import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import google.auth
import google.auth.credentials
import google.auth.exceptions
import pytest
import requests
import urllib3

from ckptsync.errors import (
    CkptsyncError,
    ConfigError,
    ConflictError,
    CredentialsError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    StoreError,
    TransientError,
)
from ckptsync.options import Gcs, Http
from ckptsync.store.base import PartTag, Tag, Upload
from ckptsync.store.gcs import GcsStore, login
from ckptsync.store.gcs.errors import Asked, broken
from ckptsync.store.gcs.http import Line, Wire, new_session


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int

    @property
    def method(self) -> str:
        return self.line.split()[0]

    @property
    def target(self) -> str:
        return self.line.split()[1]


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    """Write an answer; `_` in a header's name stands for `-`."""
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


@dataclass
class Canned:
    """Answers in order of arrival; the last one goes on for ever. An empty answer hangs up, as does a short one."""

    script: Sequence[bytes]
    seen: list[Seen] = field(default_factory=list)
    url: str = ""

    def next(self) -> bytes:
        """Answer to the request seen last."""
        return self.script[min(len(self.seen), len(self.script)) - 1]


@contextmanager
def canned(*script: bytes) -> Iterator[Canned]:
    """Serve a script on loopback."""
    server = Canned(script)
    listener = socket.create_server(("127.0.0.1", 0))
    server.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    lock = threading.Lock()
    connections: list[socket.socket] = []

    def serve(connection: socket.socket, number: int) -> None:
        with connection, connection.makefile("rb") as stream:
            while line := stream.readline().decode().strip():
                headers = {}
                while header := stream.readline().decode().strip():
                    name, _, value = header.partition(":")
                    headers[name.lower()] = value.strip()
                body = stream.read(int(headers.get("content-length", 0)))
                with lock:
                    server.seen.append(Seen(line, headers, body, number))
                    reply = server.next()
                connection.sendall(reply)
                head, _, content = reply.partition(b"\r\n\r\n")
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                if not reply or len(content) < int(length or 0):
                    return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            connections.append(connection)
            threading.Thread(target=serve, args=(connection, len(connections)), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield server
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in connections:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue


ASKED = Asked(op="get", key="k", bucket="bkt", where="gs://bkt/run/k")
UPLOAD = Upload(key="big", id="u+/=1")


def json_error(status: int, reason: str, message: str = "said so") -> bytes:
    body = f'{{"error": {{"code": {status}, "message": "{message}", "errors": [{{"reason": "{reason}"}}]}}}}'
    return answer(status, body.encode(), X_GUploader_UploadID="id-7")


def xml_error(status: int, code: str) -> bytes:
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>Said so.</Message></Error>"
    return answer(status, body.encode(), X_GUploader_UploadID="id-7")


def store(url: str, *, read_timeout_s: float = 5.0) -> GcsStore:
    http = Http(connect_timeout_s=5.0, read_timeout_s=read_timeout_s)
    return GcsStore("bkt", "run", Gcs(endpoint_url=url), http, connections=2)


CASES: list[tuple[bytes, str, type[CkptsyncError], str]] = [
    (json_error(429, "rateLimitExceeded"), "put", TransientError, "slower pace"),
    (json_error(503, "backendError"), "put", TransientError, "slower pace"),
    (json_error(403, "userRateLimitExceeded"), "stat", TransientError, "slower pace"),
    (json_error(403, "rateLimitExceeded"), "list", TransientError, "slower pace"),
    (json_error(500, "backendError"), "stat", TransientError, "for the moment"),
    (answer(502, b"<html><h1>Bad gateway</h1></html>"), "get", TransientError, "502"),
    (answer(504, b"\xff\xfe"), "get", TransientError, "504"),
    (answer(408), "put_part", TransientError, "408"),
    (xml_error(400, "RequestTimeout"), "put_part", TransientError, "RequestTimeout"),
    (json_error(410, "gone"), "copy", TransientError, "410"),
    (json_error(409, "aborted"), "put", TransientError, "409"),
    (json_error(409, "conflict"), "put", StoreError, "refused"),
    (answer(501), "stat", StoreError, "refused"),
    (answer(307, Location="http://elsewhere/"), "stat", StoreError, "refused"),
    (json_error(412, "conditionNotMet"), "put", ConflictError, "something is there already"),
    (xml_error(412, "PreconditionFailed"), "get", ConflictError, "no longer the version"),
    (json_error(412, "conditionNotMet"), "copy", ConflictError, "no longer the version"),
    (json_error(404, "notFound"), "list", NotFoundError, "no bucket 'bkt'"),
    (json_error(404, "notFound"), "put", NotFoundError, "no bucket 'bkt'"),
    (xml_error(404, "NoSuchBucket"), "get", NotFoundError, "no bucket 'bkt'"),
    (xml_error(404, "NoSuchKey"), "get", NotFoundError, "gs://bkt/run/k is not there"),
    (xml_error(404, "NoSuchUpload"), "put_part", NotFoundError, "upload is gone"),
    (xml_error(404, "NoSuchUpload"), "parts", NotFoundError, "upload is gone"),
    (xml_error(404, "NoSuchUpload"), "finish", NotFoundError, "upload is gone"),
    (
        json_error(400, "invalid", "Provided CRC32C 1 doesn't match calculated CRC32C 2"),
        "put",
        TransientError,
        "CRC32C",
    ),
    (xml_error(400, "BadDigest"), "put_part", TransientError, "BadDigest"),
    (xml_error(400, "CrcMismatch"), "put_part", TransientError, "CrcMismatch"),
    (xml_error(400, "InvalidPart"), "finish", IntegrityError, "InvalidPart"),
    (xml_error(400, "EntityTooSmall"), "finish", IntegrityError, "EntityTooSmall"),
    (json_error(400, "invalid", "Invalid bucket name: bkt"), "list", ConfigError, "name of a bucket"),
    (xml_error(400, "InvalidBucketName"), "get", ConfigError, "name of a bucket"),
    (json_error(400, "invalid", "something else"), "put", StoreError, "something else"),
    (json_error(401, "authError"), "stat", CredentialsError, "none are sent"),
    (json_error(403, "forbidden"), "put", DeniedError, "storage.objects.create"),
    (xml_error(403, "AccessDenied"), "get", DeniedError, "storage.objects.get"),
    (json_error(403, "forbidden"), "list", DeniedError, "storage.objects.list"),
    (json_error(403, "forbidden"), "delete", DeniedError, "storage.objects.delete"),
    (xml_error(403, "AccessDenied"), "begin", DeniedError, "storage.multipartUploads.create"),
    (xml_error(403, "AccessDenied"), "parts", DeniedError, "storage.multipartUploads.listParts"),
    (xml_error(403, "AccessDenied"), "uploads", DeniedError, "storage.multipartUploads.list"),
    (xml_error(403, "AccessDenied"), "abort", DeniedError, "storage.multipartUploads.abort"),
    (answer(200, b"<html>log in to the hotel</html>"), "stat", TransientError, "cannot be read"),
    (answer(200, b"{}"), "parts", TransientError, "cannot be read"),
    (answer(200, b"<ListPartsResult><Part/></ListPartsResult>"), "parts", TransientError, "cannot be read"),
    (answer(200), "begin", TransientError, "cannot be read"),
    (b"", "stat", TransientError, "broke"),
    (b"", "put_part", TransientError, "broke"),
]


def call(of: GcsStore, op: str) -> object:
    verbs: dict[str, Callable[[], object]] = {
        "put": lambda: of.put("k", b"data", if_absent=True),
        "get": lambda: of.get("k", memoryview(bytearray(4)), tag=Tag("7")),
        "stat": lambda: of.stat("k"),
        "list": lambda: list(of.list("")),
        "delete": lambda: of.delete(["k"]),
        "copy": lambda: of.copy("k", "k2", tag=Tag("7")),
        "begin": lambda: of.begin("big"),
        "put_part": lambda: of.put_part(UPLOAD, 1, b"data"),
        "parts": lambda: of.parts(UPLOAD),
        "finish": lambda: of.finish(UPLOAD, [PartTag(number=1, size=4, tag=Tag('"e"'))]),
        "abort": lambda: of.abort(UPLOAD),
        "uploads": lambda: list(of.uploads("")),
    }
    return verbs[op]()


@pytest.mark.parametrize(("reply", "op", "kind", "words"), CASES)
def test_an_answer_becomes_our_error(reply: bytes, op: str, kind: type[CkptsyncError], words: str) -> None:
    with canned(reply) as server, store(server.url) as of, pytest.raises(kind) as caught:
        call(of, op)
    assert type(caught.value) is kind
    assert words in str(caught.value)
    if isinstance(caught.value, TransientError):
        assert caught.value.throttled is ("slower pace" in words)
    if isinstance(caught.value, StoreError):
        assert caught.value.op in {op, "stat"}
        assert "run/" not in caught.value.key
        if b"id-7" in reply:
            assert caught.value.request_id == "id-7"


def test_one_call_makes_one_request_however_it_fails() -> None:
    for reply in (json_error(503, "backendError"), b"", answer(401)):
        with canned(reply) as server, store(server.url) as of:
            with pytest.raises(StoreError):
                of.stat("k")
            assert len(server.seen) == 1


def test_the_pause_the_service_asks_for_is_handed_on() -> None:
    with canned(answer(429, Retry_After="7")) as server, store(server.url) as of:
        with pytest.raises(TransientError) as caught:
            of.stat("k")
        assert caught.value.retry_after_s == 7


def test_a_date_as_the_pause_is_left_aside() -> None:
    with canned(answer(503, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT")) as server, store(server.url) as of:
        with pytest.raises(TransientError) as caught:
            of.stat("k")
        assert caught.value.retry_after_s is None


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with store(url) as of, pytest.raises(TransientError, match="the connection broke"):
        of.stat("k")


@pytest.mark.req(10)
def test_silence_ends_at_the_read_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with store(url, read_timeout_s=0.05) as of, pytest.raises(TransientError, match="timed out"):
            of.stat("k")


def test_silence_in_the_middle_of_a_body_keeps_what_came() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with store(url, read_timeout_s=0.05) as of:
            with socket.create_connection(listener.getsockname()[:2]):  # stands first in the queue
                listener.accept()[0].close()

            def half() -> None:
                connection, _ = listener.accept()
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 206 X\r\nContent-Length: 8\r\nContent-Range: bytes 0-7/8\r\n\r\nabc")
                done.wait(5)
                connection.close()

            done = threading.Event()
            thread = threading.Thread(target=half)
            thread.start()
            into = bytearray(8)
            with pytest.raises(TransientError, match="timed out") as caught:
                of.get("k", memoryview(into))
            done.set()
            thread.join()
        assert caught.value.received == 3
        assert bytes(into[:3]) == b"abc"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (requests.ConnectionError("x"), TransientError),
        (requests.ReadTimeout("x"), TransientError),
        (requests.exceptions.ChunkedEncodingError("x"), TransientError),
        (urllib3.exceptions.ProtocolError("x"), TransientError),
        (ConnectionResetError("x"), TransientError),
        (requests.exceptions.InvalidURL("x"), ConfigError),
        (requests.exceptions.InvalidProxyURL("x"), ConfigError),
        (OSError("no CA bundle"), StoreError),
    ],
)
def test_a_broken_connection_becomes_our_error(error: Exception, kind: type[CkptsyncError]) -> None:
    assert type(broken(ASKED, error)) is kind


def test_a_certificate_nobody_trusts_is_not_tried_again() -> None:
    inner = urllib3.exceptions.SSLError(ssl.SSLCertVerificationError("self-signed"))
    inner.__cause__ = ssl.SSLCertVerificationError("self-signed")
    pool = urllib3.HTTPSConnectionPool("localhost")
    error = requests.exceptions.SSLError(urllib3.exceptions.MaxRetryError(pool, "/", inner))
    error.__context__ = error.args[0]
    found = broken(ASKED, error)
    assert type(found) is StoreError
    assert "REQUESTS_CA_BUNDLE" in str(found)


class Token(google.auth.credentials.Credentials):
    """Credentials whose token is the number of times they were made."""

    made = 0

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        Token.made += 1
        self.token = f"token-{Token.made}"
        self._failure = failure

    def refresh(self, request: object) -> None:
        raise AssertionError(request)

    def before_request(self, request: object, method: str, url: str, headers: dict[str, str]) -> None:
        del request, method, url
        if self._failure:
            raise self._failure
        headers["Authorization"] = f"Bearer {self.token}"


def with_tokens(of: GcsStore, url: str, failure: Exception | None = None) -> None:
    """Let a store send tokens over loopback."""
    Token.made = 0

    def connect() -> Line:
        session = new_session(2)
        session.auth = login._Login(Token(failure), lambda: None)
        return Line(session, url, anonymous=False)

    of._wire = Wire(connect, Http())


def test_refused_credentials_are_read_anew_three_times_in_a_row(caplog: pytest.LogCaptureFixture) -> None:
    with canned(json_error(401, "authError")) as server, store(server.url) as of:
        with_tokens(of, server.url)
        for _ in range(3):
            with pytest.raises(TransientError, match="read anew"):
                of.stat("k")
        with pytest.raises(CredentialsError, match="not accepted"):
            of.stat("k")
        sent = [seen.headers["authorization"] for seen in server.seen]
    assert sent == [f"Bearer token-{number}" for number in (1, 2, 3, 4)]
    assert [record.levelno for record in caplog.records if record.name == "ckptsync"] == [logging.WARNING]


def test_one_success_between_refusals_starts_the_count_again() -> None:
    refused = json_error(401, "authError")
    found = answer(200, b'{"name":"run/k","size":"1","generation":"2","updated":"2026-11-23T00:00:00Z"}')
    with canned(refused, refused, refused, found, refused) as server, store(server.url) as of:
        with_tokens(of, server.url)
        for _ in range(3):
            with pytest.raises(TransientError):
                of.stat("k")
        assert of.stat("k").size == 1
        with pytest.raises(TransientError):
            of.stat("k")


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (google.auth.exceptions.TransportError("x"), TransientError, "for the moment"),
        (google.auth.exceptions.RefreshError("x", retryable=True), TransientError, "for the moment"),
        (google.auth.exceptions.RefreshError("x"), TransientError, "read anew"),
        (google.auth.exceptions.GoogleAuthError("x"), CredentialsError, "cannot be used"),
        (ValueError("bad key file"), CredentialsError, "cannot be used"),
    ],
)
def test_no_failure_to_log_in_escapes(failure: Exception, kind: type[StoreError], words: str) -> None:
    with canned(answer(500)) as server, store(server.url) as of:
        with_tokens(of, server.url, failure)
        with pytest.raises(kind, match=words) as caught:
            of.put_part(UPLOAD, 1, b"data")
        assert (caught.value.op, caught.value.key) == ("put_part", "big")
        assert server.seen == []


def test_a_token_that_is_never_renewed_ends_as_a_credentials_error() -> None:
    with store("http://127.0.0.1:9") as of:
        with_tokens(of, "http://127.0.0.1:9", google.auth.exceptions.RefreshError("revoked"))
        for _ in range(3):
            with pytest.raises(TransientError):
                of.stat("k")
        with pytest.raises(CredentialsError, match="gcloud auth application-default login"):
            of.stat("k")


def test_no_credentials_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise google.auth.exceptions.DefaultCredentialsError("none")

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google.auth, "default", missing)
    with GcsStore("bkt", "run", Gcs(), Http(), connections=2) as of, pytest.raises(CredentialsError) as caught:
        of.stat("k")
    assert "GOOGLE_APPLICATION_CREDENTIALS" in str(caught.value)
    assert (caught.value.op, caught.value.key) == ("stat", "k")


class Metadata(BaseHTTPRequestHandler):
    """The metadata service of a virtual machine, as far as a token needs it."""

    ANSWERS: ClassVar = {
        "": "",
        "instance/service-accounts/default/": '{"email": "me@x.iam.gserviceaccount.com", "scopes": []}',
        "universe/universe-domain": "cloud.example",
        "project/project-id": "p",
    }

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].removeprefix("/").removeprefix("computeMetadata/v1/")
        text = '{"access_token": "T0", "expires_in": 3600, "token_type": "Bearer"}'
        text = self.ANSWERS.get(path, text if path.endswith("/token") else "")
        self.send_response(200 if text or not path else 404)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", "application/json" if text.startswith("{") else "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        return


LOGIN = """
import requests
from ckptsync.options import Http
from ckptsync.store.gcs import login
line = login.connect_with_login(None, None, 2, http=Http())
prepared = line.session.prepare_request(requests.Request("GET", line.endpoint))
print(line.endpoint, prepared.headers["Authorization"], line.anonymous)
"""


def test_a_virtual_machines_own_credentials(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Metadata) as metadata:
        threading.Thread(target=metadata.serve_forever, args=(0.01,), daemon=True).start()
        host = f"127.0.0.1:{metadata.server_address[1]}"
        environ = {**os.environ, "GCE_METADATA_HOST": host, "GCE_METADATA_IP": host, "CLOUDSDK_CONFIG": str(tmp_path)}
        environ.pop("GOOGLE_APPLICATION_CREDENTIALS", None)
        environ["PYTHONPATH"] = str(Path(login.__file__).parents[2])
        # Google's library reads that address once, when it is imported
        ran = subprocess.run([sys.executable, "-c", LOGIN], env=environ, capture_output=True, text=True, check=False)
        metadata.shutdown()
    assert ran.stdout == "https://storage.cloud.example Bearer T0 False\n", ran.stderr


RESOURCE = b'{"name":"run/k","size":"%d","generation":"2","updated":"2026-11-23T00:00:00Z","crc32c":"AAAAAA=="}'


@pytest.mark.parametrize(
    ("reply", "op", "kind", "words"),
    [
        (answer(200, RESOURCE % 4), "put", IntegrityError, "stored other bytes"),
        (answer(200, RESOURCE % 5), "put", IntegrityError, "stored other bytes"),
        (answer(200, ETag='"e"', X_Goog_Hash="crc32c=AAAAAA=="), "put_part", IntegrityError, "another part 1"),
        (answer(200), "put_part", TransientError, "no ETag"),
        (answer(206, b"abcd", Content_Range="bytes 5-8/9"), "get", TransientError, "not the range"),
        (answer(206, b"abcd"), "get", TransientError, "not the range"),
        (answer(206, b"ab", Content_Range="bytes 0-3/9"), "get", TransientError, "after 2 of 4 bytes"),
        (answer(200, b"<Error><Code>InternalError</Code></Error>"), "finish", TransientError, "half-way"),
    ],
)
def test_an_answer_that_looks_well_but_is_not(reply: bytes, op: str, kind: type[CkptsyncError], words: str) -> None:
    with canned(reply) as server, store(server.url) as of:
        with pytest.raises(kind, match=words) as caught:
            call(of, op)
        if "after 2" in words:
            assert isinstance(caught.value, TransientError)
            assert caught.value.received == 2


def test_a_service_that_ignores_ranges_serves_the_start_only() -> None:
    with canned(answer(200, b"abcdef")) as server, store(server.url) as of:
        into = bytearray(4)
        assert of.get("k", memoryview(into)) == 4
        assert into == b"abcd"
        with pytest.raises(TransientError, match="not the range"):
            of.get("k", memoryview(into), offset=2)
        assert of.read("k") == b"abcdef"


@pytest.mark.parametrize("kind", [google.auth.exceptions.TransportError, OSError])
def test_a_session_that_cannot_be_made_is_told_as_such(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("x")

    monkeypatch.setattr(google.auth, "default", fail)
    options = Gcs(endpoint_url="https://127.0.0.1:9")
    with GcsStore("bkt", "run", options, Http(), connections=2) as of, pytest.raises(StoreError) as caught:
        of.stat("k")
    assert isinstance(caught.value, CredentialsError if kind is OSError else TransientError)
    assert caught.value.op == "stat"
