"""An S3 that holds everybody to the policies in force: a front before moto, which passes over conditions.

Each request is taken for the actions that Amazon's documentation gives it, with the condition keys that a policy may ask
for, and judged by a simulator. Signatures are nobody's business here: who asks is told by the access key.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

from support.iam import Judge, JudgeError, Rights

_KEY = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)
_ACCESS_KEY = re.compile(r"Credential=([^/]+)/")
_HOP_BY_HOP = {"connection", "transfer-encoding", "keep-alive", "server", "date", "content-length"}
# Of the bucket, by subresource: what GET, PUT and DELETE need. Source: Amazon's service authorization reference for S3.
_SUBRESOURCES = {
    "location": ("GetBucketLocation", "", ""),
    "versioning": ("GetBucketVersioning", "PutBucketVersioning", ""),
    "policy": ("GetBucketPolicy", "PutBucketPolicy", "DeleteBucketPolicy"),
    "lifecycle": ("GetLifecycleConfiguration", "PutLifecycleConfiguration", "PutLifecycleConfiguration"),
    "encryption": ("GetEncryptionConfiguration", "PutEncryptionConfiguration", "PutEncryptionConfiguration"),
    "publicAccessBlock": ("GetBucketPublicAccessBlock", "PutBucketPublicAccessBlock", "PutBucketPublicAccessBlock"),
    "acl": ("GetBucketAcl", "PutBucketAcl", ""),
    "uploads": ("ListBucketMultipartUploads", "", ""),
    "versions": ("ListBucketVersions", "", ""),
    "": ("ListBucket", "CreateBucket", "DeleteBucket"),
}
# Header fields that become condition keys of a put.
_OF_A_PUT = {
    "if-none-match": "s3:if-none-match",
    "if-match": "s3:if-match",
    "x-amz-server-side-encryption": "s3:x-amz-server-side-encryption",
    "x-amz-server-side-encryption-aws-kms-key-id": "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "x-amz-storage-class": "s3:x-amz-storage-class",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request.

    Attributes:
        method: of HTTP.
        bucket: its name.
        key: of the object; empty for the bucket itself.
        query: by name.
        fields: of the header, names in small letters.
        body: whole.
    """

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    fields: Mapping[str, str]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Needed:
    """One action that a request needs.

    Attributes:
        action: as in `s3:PutObject`.
        resource: the ARN.
        context: condition keys.
    """

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


def needed(asked: Asked) -> list[Needed]:
    """What a request needs, each of which must be allowed."""
    bucket = f"arn:aws:s3:::{asked.bucket}"
    if not asked.key:
        return _of_bucket(asked, bucket)
    resource, query = f"{bucket}/{asked.key}", asked.query
    if asked.method in {"GET", "HEAD"}:
        if "uploadId" in query:
            return [Needed("s3:ListMultipartUploadParts", resource)]
        return [Needed("s3:GetObjectVersion" if "versionId" in query else "s3:GetObject", resource)]
    if asked.method == "DELETE":
        if "uploadId" in query:
            return [Needed("s3:AbortMultipartUpload", resource)]
        return [Needed("s3:DeleteObjectVersion" if "versionId" in query else "s3:DeleteObject", resource)]
    # Beginning an upload and sending a part create no object; a put, a copy and the end of an upload do.
    creates = "uploads" not in query and "partNumber" not in query
    context = {key: asked.fields[name] for name, key in _OF_A_PUT.items() if name in asked.fields}
    found = [Needed("s3:PutObject", resource, {"s3:ObjectCreationOperation": str(creates).lower(), **context})]
    if source := unquote(asked.fields.get("x-amz-copy-source", "")):
        found.append(Needed("s3:GetObject", f"arn:aws:s3:::{source.lstrip('/').partition('?')[0]}"))
    return found


def _of_bucket(asked: Asked, bucket: str) -> list[Needed]:
    if asked.method == "POST" and "delete" in asked.query:
        keys = [unescape(key.decode()) for key in _KEY.findall(asked.body)]
        return [Needed("s3:DeleteObject", f"{bucket}/{key}") for key in keys]
    subresource = next((name for name in _SUBRESOURCES if name in asked.query), "")
    number = {"GET": 0, "HEAD": 0, "PUT": 1, "DELETE": 2}[asked.method]
    lists = number == 0 and subresource in {"", "versions"}  # Amazon has no such keys for uploads
    context = {f"s3:{name}": asked.query[name] for name in ("prefix", "delimiter", "max-keys") if name in asked.query}
    return [Needed(f"s3:{_SUBRESOURCES[subresource][number]}", bucket, context if lists else {})]


class GuardedS3(ThreadingHTTPServer):
    """The front.

    Attributes:
        url: its address.
        by_key: rights, by access key.
        secure: whether requests count as if they came by TLS.
        refused: what was refused, as in `s3:PutObject arn:aws:s3:::bucket/key`.
        allowed: the same of what was allowed.
    """

    daemon_threads = True

    def __init__(self, upstream: str, judge: Judge) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.upstream = upstream.removeprefix("http://")
        self.by_key: dict[str, Rights] = {}
        self.secure = True
        self.refused: list[str] = []
        self.allowed: list[str] = []
        self.failures: list[JudgeError] = []
        self._judge = judge

    def allows(self, access_key: str, wanted: Needed) -> bool:
        """Whether who has this key may do it."""
        rights = self.by_key.get(access_key)
        context = {"aws:SecureTransport": str(self.secure).lower(), **wanted.context}
        try:
            verdict = (
                "nobody" if rights is None else self._judge.verdict(rights, wanted.action, wanted.resource, context)
            )
        except JudgeError as error:
            self.failures.append(error)
            verdict = "unclear"
        (self.allowed if verdict == "Allowed" else self.refused).append(f"{wanted.action} {wanted.resource}")
        return verdict == "Allowed"


@contextmanager
def guarded_s3(upstream: str, judge: Judge) -> Iterator[GuardedS3]:
    """Stand before an S3 on loopback until the block ends; what could not be judged fails it."""
    with GuardedS3(upstream, judge) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
    assert server.failures == []


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: GuardedS3

    def serve(self) -> None:
        """Judge a request, and hand it on or refuse it."""
        url = urlsplit(self.path)
        bucket, _, key = unquote(url.path).lstrip("/").partition("/")
        asked = Asked(
            method=self.command,
            bucket=bucket,
            key=key,
            query=dict(parse_qsl(url.query, keep_blank_values=True)),
            fields={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(int(self.headers.get("Content-Length") or 0)),
        )
        found = _ACCESS_KEY.search(self.headers.get("Authorization") or "")
        verdicts = [(wanted, self.server.allows(found[1] if found else "", wanted)) for wanted in needed(asked)]
        if all(fine for _, fine in verdicts):
            self.answer(*self.ask(self.command, self.path, asked.body))
        elif "delete" in asked.query:
            self.delete_some(asked.bucket, verdicts)
        else:
            self.answer(403, {"Content-Type": "application/xml"}, _denied("Error"))

    def delete_some(self, bucket: str, verdicts: list[tuple[Needed, bool]]) -> None:
        """Delete what may be deleted, and name the rest, as S3 does."""
        said = b""
        for wanted, fine in verdicts:
            key = wanted.resource.partition("/")[2]
            if fine:
                self.ask("DELETE", f"/{bucket}/{quote(key)}", b"")
            else:
                said += _denied("Error", f"<Key>{escape(key)}</Key>".encode())
        self.answer(200, {"Content-Type": "application/xml"}, b"<DeleteResult>" + said + b"</DeleteResult>")

    def ask(self, method: str, target: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        """Ask moto."""
        fields = {name: value for name, value in self.headers.items() if name.lower() not in {"connection", "expect"}}
        if method != self.command:  # a deletion of our own
            fields = {name: fields[name] for name in ("Authorization", "Host")}
        connection = HTTPConnection(self.server.upstream, timeout=60)
        try:
            connection.request(method, target, body=body or None, headers=fields)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def answer(self, status: int, fields: Mapping[str, str], body: bytes) -> None:
        """Send an answer."""
        self.send_response(status)
        for name, value in fields.items():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        length = len(body)
        if self.command == "HEAD":
            length = int({name.lower(): value for name, value in fields.items()}.get("content-length", "0"))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_one_request(self) -> None:
        """Serve one; a client that was killed is nobody's failure."""
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Stay silent."""

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815


def _denied(element: str, more: bytes = b"") -> bytes:
    """What S3 says to who may not."""
    return b"<%b>%b<Code>AccessDenied</Code><Message>Access Denied</Message></%b>" % (
        element.encode(),
        more,
        element.encode(),
    )
