"""The JSON API's uploads: media, multipart/related, and resumable sessions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.message import Message
from typing import Any
from urllib.parse import unquote, urlencode

from ckptsync.testing.gcs.json_api import CONDITIONS, STANDARD, json_body, parse_json, resource, writable
from ckptsync.testing.gcs.payload import Payload
from ckptsync.testing.gcs.service import (
    Service,
    check_hashes,
    check_options,
    head_of,
    header_hashes,
    json_conditions,
    whole_number,
)
from ckptsync.testing.gcs.values import Draft, StoredObject, check_name
from ckptsync.testing.gcs.wire import CLIENT_CLOSED, GcsError, Kind, Request, Response, Target, invalid, json_response

HEAD_BYTES = 1 << 20  # metadata of a multipart/related upload must end within

_PATH = re.compile(r"(?:/resumable)?/upload/storage/v1/b/(?P<bucket>[^/]+)/o")
_INSERT = CONDITIONS | STANDARD | {"uploadType", "name", "contentEncoding", "predefinedAcl", "projection"}


def route(method: str, path: str, query: Mapping[str, list[str]], headers: Mapping[str, str]) -> Target:
    """Tell what a request below `/upload/storage/v1` asks for; kind UNKNOWN when nothing known."""
    found = _PATH.fullmatch(path)
    if not found:
        return Target(kind=Kind.UNKNOWN)
    bucket = unquote(found["bucket"])
    if "upload_id" in query:
        asks = headers.get("content-range", "").startswith("bytes */")
        kinds = {
            "PUT": Kind.SESSION_QUERY if asks else Kind.SESSION_CHUNK,
            "POST": Kind.SESSION_QUERY if asks else Kind.SESSION_CHUNK,
            "DELETE": Kind.SESSION_CANCEL,
        }
        return Target(kind=kinds.get(method, Kind.UNKNOWN), bucket=bucket)
    if method not in {"POST", "PUT"}:
        return Target(kind=Kind.UNKNOWN)
    resumable = query.get("uploadType") == ["resumable"]
    return Target(kind=Kind.SESSION_START if resumable else Kind.INSERT, bucket=bucket)


def name_of(service: Service, request: Request) -> str:
    """The object an upload is for, which its path does not tell; empty when nothing does."""
    try:
        if session_id := request.option("upload_id"):
            return service.uploads.session_name(session_id)
        if request.option("name") or request.option("uploadType") == "media":
            return request.option("name") or ""
        document = json_body(request) if request.kind is Kind.SESSION_START else _split_related(request)[0]
    except GcsError:
        return ""
    return str(document.get("name", ""))


def handle(service: Service, request: Request) -> Response:
    """Answer any request `route` knows.

    Raises:
        GcsError: the refusal.
    """
    check_options(request, _INSERT | {"upload_id"})
    if request.kind is Kind.INSERT:
        return _insert(service, request)
    if request.kind is Kind.SESSION_START:
        return _start(service, request)
    if request.kind is Kind.SESSION_CANCEL:
        service.uploads.cancel(request.option("upload_id") or "")
        return Response(status=CLIENT_CLOSED)
    return _chunk(service, request)


def _insert(service: Service, request: Request) -> Response:
    """Take an object in one request."""
    service.objects.check_bucket(request.target.bucket)
    conditions = json_conditions(request)
    upload_type = request.option("uploadType")
    if upload_type == "media":
        document: dict[str, Any] = {}
        content, content_type = request.body, request.headers.get("content-type")
    elif upload_type == "multipart":
        document, content, content_type = _split_related(request)
    else:
        raise invalid(f"Invalid value for uploadType: {upload_type!r}")
    name, expected = _name(request, document), _expected(request, document)
    attributes = _attributes(request, document, content_type)
    draft = Draft.hashed(content, attributes, expected, md5s=service.objects.md5s)
    return _created(service, service.objects.create(request.target.bucket, name, draft, conditions))


def _start(service: Service, request: Request) -> Response:
    """Open a session. Its address repeats the query, preconditions and all, as the service's does."""
    service.objects.check_bucket(request.target.bucket)
    document = json_body(request)
    declared = request.headers.get("x-upload-content-length")
    session = service.uploads.begin_session(
        request.target.bucket,
        _name(request, document),
        attributes=_attributes(request, document, request.headers.get("x-upload-content-type")),
        conditions=json_conditions(request),
        expected=_expected(request, document),
        total_bytes=whole_number(declared, "X-Upload-Content-Length"),
    )
    query = urlencode([(name, value) for name, values in request.query.items() for value in values])
    location = f"{service.url}{request.path}?{query}&upload_id={session.id}"
    return Response(headers={"Location": location, "X-GUploader-UploadID": session.id})


def _chunk(service: Service, request: Request) -> Response:
    """Take a chunk, or tell how far the session is."""
    result = service.uploads.receive(
        request.option("upload_id") or "",
        request.headers.get("content-range"),
        request.body,
        header_hashes(request.headers),
        complete=request.complete,
    )
    if isinstance(result, StoredObject):
        return _created(service, result)
    return Response(status=308, headers={"Range": f"bytes=0-{result - 1}"} if result else {})


def _created(service: Service, made: StoredObject) -> Response:
    return json_response(resource(made, service.url), headers={"ETag": made.etag})


def _name(request: Request, document: Mapping[str, Any]) -> str:
    """The object's name, from the query or else the metadata."""
    name = request.option("name") or document.get("name")
    if not isinstance(name, str):
        raise GcsError(400, "required", "InvalidArgument", "Required")
    check_name(name)
    return name


def _expected(request: Request, document: Mapping[str, Any]) -> dict[str, str]:
    """Hashes the client knows, from the metadata and the headers."""
    named = {"crc32c": document.get("crc32c"), "md5": document.get("md5Hash")}
    found = {algorithm: str(given) for algorithm, given in named.items() if given is not None}
    check_hashes(found)
    return {**found, **header_hashes(request.headers)}


def _attributes(request: Request, document: Mapping[str, Any], content_type: str | None) -> dict[str, Any]:
    attributes = writable(document)
    if content_type:
        attributes.setdefault("contentType", content_type)
    if encoding := request.option("contentEncoding"):
        attributes["contentEncoding"] = encoding
    return attributes


def _split_related(request: Request) -> tuple[dict[str, Any], Payload, str | None]:
    """Take a multipart/related body apart without copying the media: metadata, media, its content type."""
    boundary = _boundary(request.headers.get("content-type", ""))
    head = head_of(request.body, HEAD_BYTES)
    opening = b"--" + boundary
    if not head.startswith(opening):
        raise invalid("Failed to parse the multipart body: it does not start with the boundary.")
    metadata_end = head.find(b"\r\n" + opening, len(opening))
    metadata_start = head.find(b"\r\n\r\n", 0, max(metadata_end, 0)) + 4
    media_start = head.find(b"\r\n\r\n", max(metadata_end, 0)) + 4
    if metadata_end < 0 or metadata_start < 4 or media_start < 4:  # noqa: PLR2004  find's -1, plus 4
        raise invalid("Failed to parse the multipart body: two parts are needed.")
    closing = b"\r\n" + opening + b"--"
    tail = bytes(request.body.slice(request.body.size - len(closing) - 2, request.body.size))
    if not tail.rstrip(b"\r\n").endswith(closing):
        raise invalid("Failed to parse the multipart body: it does not end with the boundary.")
    media_end = request.body.size - len(tail) + tail.rfind(closing)
    media_headers = head[metadata_end:media_start].decode("latin-1")
    content_type = re.search(r"(?im)^content-type:[ \t]*([^\r\n]+)", media_headers)
    document = parse_json(head[metadata_start:metadata_end])
    return document, request.body.slice(media_start, media_end), content_type and content_type[1].strip()


def _boundary(content_type: str) -> bytes:
    message = Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary()
    if message.get_content_type() != "multipart/related" or not boundary:
        raise invalid("A multipart upload needs Content-Type: multipart/related with a boundary.")
    return boundary.encode()
