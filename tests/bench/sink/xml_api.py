"""Paths like `/bucket/key`: what S3 and Google's XML API speak. Names of headers tell which of the two it is."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import formatdate
from urllib.parse import quote, unquote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from bench.sink import state as state_of
from bench.sink.state import Content, PreconditionError, State, Stored
from bench.sink.wire import Connection, Request, bounds

_NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"
_KEPT_HEADERS = re.compile(r"x-(?:amz|goog)-meta-.*|content-type|content-encoding|x-amz-checksum-crc64nvme")
_CHECKSUM = re.compile(r"x-amz-checksum-(?!algorithm|type|mode)[a-z0-9]+")
_MD5 = re.compile(r'"([0-9a-f]{32})"')
_PAGE = 1000


def handle(state: State, wire: Connection, request: Request) -> None:
    """Answer one request, its body included."""
    bucket, _, key = request.path.lstrip("/").partition("/")
    if not key:
        _bucket(state, wire, request, bucket)
        return
    query = request.query
    verbs: dict[str, Callable[[State, Connection, Request, str, str], None]] = {
        "PUT": _put_part if "uploadId" in query else _copy if "x-amz-copy-source" in request.headers else _put,
        "GET": _list_parts if "uploadId" in query else _get,
        "HEAD": _get,
        "POST": _finish if "uploadId" in query else _begin,
        "DELETE": _abort if "uploadId" in query else _delete,
    }
    try:
        verbs[request.method](state, wire, request, bucket, key)
    except PreconditionError:
        _error(wire, 412, "PreconditionFailed")


def _error(wire: Connection, status: int, code: str) -> None:
    """An answer that says why not."""
    body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
    wire.reply(status, {"Content-Type": "application/xml"}, body.encode())


def _xml(wire: Connection, name: str, inner: str, headers: Mapping[str, str] | None = None) -> None:
    """An answer in XML."""
    body = f"<?xml version='1.0' encoding='UTF-8'?><{name} xmlns='{_NAMESPACE}'>{inner}</{name}>"
    wire.reply(200, {"Content-Type": "application/xml", **(headers or {})}, body.encode())


def _stamp(modified_s: float) -> str:
    return formatdate(modified_s, usegmt=True)


def iso(modified_s: float) -> str:
    """A time as both services write it in XML and JSON."""
    return datetime.fromtimestamp(modified_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _allowed(request: Request) -> Callable[[Stored | None], bool]:
    """What conditions a request puts on what is there."""
    headers = request.headers
    if headers.get("if-none-match") == "*" or headers.get("x-goog-if-generation-match") == "0":
        return lambda there: there is None
    if wanted := headers.get("x-goog-if-generation-match"):
        return lambda there: there is not None and str(there.generation) == wanted
    if wanted := headers.get("if-match"):
        return lambda there: there is not None and there.etag.strip('"') == wanted.strip('"')
    return lambda _: True


def _told(request: Request) -> dict[str, str]:
    """Headers that an object keeps."""
    return {name: value for name, value in request.headers.items() if _KEPT_HEADERS.fullmatch(name)}


def _echo(request: Request) -> dict[str, str]:
    """Checksums that the client sent, which the services tell again."""
    names = [name for name in request.headers if _CHECKSUM.fullmatch(name) or name == "x-goog-hash"]
    return {name: request.headers[name] for name in names}


def _etag(request: Request, content: Content) -> str:
    """The MD5 where it is known without work, else empty."""
    if told := request.headers.get("content-md5"):
        return f'"{base64.b64decode(told).hex()}"'
    if content.is_kept and content.size <= state_of.KEPT_BYTES:
        return f'"{base64.b64decode(state_of.md5(content)).hex()}"'
    return ""


def _object_headers(request: Request, stored: Stored, *, is_whole: bool) -> dict[str, str]:
    """What is told of an object."""
    headers = {"ETag": stored.etag, "Last-Modified": _stamp(stored.modified_s), "Accept-Ranges": "bytes"}
    told = dict(stored.told)
    if not (is_whole and request.headers.get("x-amz-checksum-mode")):
        told.pop("x-amz-checksum-crc64nvme", None)
    elif "x-amz-checksum-crc64nvme" in told:
        headers["x-amz-checksum-type"] = "FULL_OBJECT"
    if "authorization" not in request.headers:  # Google's, where nobody signs
        headers["x-goog-generation"] = str(stored.generation)
        headers["x-goog-metageneration"] = "1"
        headers["x-goog-stored-content-length"] = str(stored.size)
        headers["x-goog-hash"] = f"crc32c={state_of.crc32c(stored.content)}"
    return headers | told


def _put(state: State, wire: Connection, request: Request, bucket: str, key: str) -> None:
    content = state.take(wire, request, bucket)
    made = state.store(
        bucket, key, content, etag=_etag(request, content), told=_told(request), allowed=_allowed(request)
    )
    wire.reply(200, {"ETag": made.etag, "x-goog-generation": str(made.generation), **_echo(request)})


def _copy(state: State, wire: Connection, request: Request, bucket: str, key: str) -> None:
    wire.drop_body(request)
    if (found := _source(state, request)) is None:
        _error(wire, 404, "NoSuchKey")
        return
    made = state.store(bucket, key, found.content, etag=found.etag, told=found.told, in_parts=found.in_parts)
    _xml(wire, "CopyObjectResult", f"<ETag>{made.etag}</ETag><LastModified>{iso(made.modified_s)}</LastModified>")


def _get(state: State, wire: Connection, request: Request, bucket: str, key: str) -> None:
    wire.drop_body(request)
    found = state.find(bucket, key)
    if found is None:
        if request.method == "HEAD":
            wire.reply(404)
        else:
            _error(wire, 404, "NoSuchKey")
        return
    if not _allowed(request)(found):
        raise PreconditionError
    begin, end = span = bounds(request, found.size) or (0, found.size)
    if begin == end and found.size:
        _error(wire, 416, "InvalidRange")
        return
    is_part = "range" in request.headers
    headers = _object_headers(request, found, is_whole=span == (0, found.size) and not is_part)
    if is_part:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{found.size}"
    wire.reply(206 if is_part else 200, headers, size=end - begin)
    if request.method == "GET":
        for piece in found.content.cut(begin, end):
            wire.send(piece)


def _delete(state: State, wire: Connection, request: Request, bucket: str, key: str) -> None:
    wire.drop_body(request)
    state.delete(bucket, key)
    wire.reply(204)


def _begin(state: State, wire: Connection, request: Request, bucket: str, key: str) -> None:
    wire.drop_body(request)
    told = _told(request)
    if request.headers.get("x-amz-checksum-algorithm") == "CRC64NVME":
        told["x-amz-checksum-crc64nvme"] = ""
    upload_id = state.begin(bucket, key, told)
    inner = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload_id}</UploadId>"
    _xml(wire, "InitiateMultipartUploadResult", inner)


def _put_part(state: State, wire: Connection, request: Request, bucket: str, key: str) -> None:
    del key
    content = _copied_part(state, wire, request) or state.take(wire, request, bucket)
    if (upload := state.uploads.get(request.query["uploadId"])) is None:
        _error(wire, 404, "NoSuchUpload")
        return
    number = int(request.query["partNumber"])
    if (
        not content.is_kept and "x-amz-copy-source" not in request.headers
    ):  # where it probably lies in what is uploaded: all parts but the last have one size
        largest = max((part.size for part, _, _ in upload.parts.values()), default=content.size)
        content = state.of_blob(content.size, (number - 1) * max(largest, content.size))
    etag, told = _etag(request, content) or f'"{state.number():032x}-1"', _echo(request)
    upload.parts[number] = (content, etag, told)
    if "authorization" not in request.headers and "x-goog-hash" not in told:
        told = {"x-goog-hash": f"crc32c={state_of.crc32c(content)}"}
    if "x-amz-copy-source" in request.headers:
        _xml(wire, "CopyPartResult", f"<ETag>{etag}</ETag>")
    else:
        wire.reply(200, {"ETag": etag, **told})


def _copied_part(state: State, wire: Connection, request: Request) -> Content | None:
    """A range of another object, where one is named that is there."""
    if (source := _source(state, request)) is None:
        return None
    wire.drop_body(request)
    first, _, last = request.headers.get("x-amz-copy-source-range", "").removeprefix("bytes=").partition("-")
    end = int(last) + 1 if last else source.size
    return Content(tuple(source.content.cut(int(first or 0), end)), source.content.is_kept)


def _source(state: State, request: Request) -> Stored | None:
    """The object that is to be copied."""
    bucket, _, key = unquote(request.headers.get("x-amz-copy-source", "")).lstrip("/").partition("?")[0].partition("/")
    return state.find(bucket, key)


def _list_parts(state: State, wire: Connection, request: Request, bucket: str, key: str) -> None:
    wire.drop_body(request)
    if (upload := state.uploads.get(request.query["uploadId"])) is None:
        _error(wire, 404, "NoSuchUpload")
        return
    inner = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag><Size>{content.size}</Size></Part>"
        for number, (content, etag, _) in sorted(upload.parts.items())
    )
    _xml(wire, "ListPartsResult", f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>{inner}")


def _finish(state: State, wire: Connection, request: Request, bucket: str, key: str) -> None:
    root = ET.fromstring(wire.read_body(request))  # noqa: S314  our own clients
    if (upload := state.uploads.get(request.query["uploadId"])) is None:
        _error(wire, 404, "NoSuchUpload")
        return
    numbers = [int(node.text or "0") for node in root.iterfind(".//{*}PartNumber")]
    if any(number not in upload.parts for number in numbers):
        _error(wire, 400, "InvalidPart")
        return
    parts = [upload.parts[number] for number in numbers]
    content, told = state.joined(part for part, _, _ in parts), dict(upload.told)
    inner = f"<Location>/{bucket}/{escape(key)}</Location><Bucket>{bucket}</Bucket><Key>{escape(key)}</Key>"
    if "x-amz-checksum-crc64nvme" in told:
        told["x-amz-checksum-crc64nvme"] = crc = state_of.crc64nvme(content)
        inner += f"<ChecksumCRC64NVME>{crc}</ChecksumCRC64NVME><ChecksumType>FULL_OBJECT</ChecksumType>"
    made = state.store(
        bucket,
        key,
        content,
        etag=_etag_of_parts([etag for _, etag, _ in parts]),
        told=told,
        in_parts=True,
        allowed=_allowed(request),
    )
    state.uploads.pop(request.query["uploadId"], None)
    _xml(wire, "CompleteMultipartUploadResult", f"{inner}<ETag>{made.etag}</ETag>")


def _etag_of_parts(etags: list[str]) -> str:
    """What S3 makes of MD5s; empty when one is none."""
    found = [_MD5.fullmatch(etag) for etag in etags]
    raw = [bytes.fromhex(one[1]) for one in found if one]
    if len(raw) < len(etags):
        return ""
    return f'"{hashlib.md5(b"".join(raw), usedforsecurity=False).hexdigest()}-{len(etags)}"'


def _abort(state: State, wire: Connection, request: Request, bucket: str, key: str) -> None:
    del bucket, key
    wire.drop_body(request)
    there = state.uploads.pop(request.query["uploadId"], None)
    if there is None:
        _error(wire, 404, "NoSuchUpload")
    else:
        wire.reply(204)


def _bucket(state: State, wire: Connection, request: Request, bucket: str) -> None:
    """Requests about a bucket: listings, deletion of many, and what clients ask to see whether it is there."""
    body, query = wire.read_body(request), request.query
    if request.method == "POST" and "delete" in query:
        for node in ET.fromstring(body).iterfind(".//{*}Key"):  # noqa: S314  our own clients
            state.delete(bucket, node.text or "")
        _xml(wire, "DeleteResult", "")
    elif request.method == "GET" and "location" in query:
        _xml(wire, "LocationConstraint", "")
    elif request.method == "GET" and "uploads" in query:
        inner = "".join(
            f"<Upload><Key>{escape(upload.key)}</Key><UploadId>{upload_id}</UploadId></Upload>"
            for upload_id, upload in sorted(state.uploads.items())
            if upload.bucket == bucket and upload.key.startswith(query.get("prefix", ""))
        )
        _xml(wire, "ListMultipartUploadsResult", f"<IsTruncated>false</IsTruncated>{inner}")
    elif request.method == "GET":
        _list(state, wire, request, bucket)
    else:
        wire.reply(200, {"x-amz-bucket-region": "us-east-1"})


def _list(state: State, wire: Connection, request: Request, bucket: str) -> None:
    """One page of a listing, of either version."""
    query = request.query
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    after = query.get("continuation-token") or query.get("start-after") or query.get("marker") or ""
    encode = quote if query.get("encoding-type") == "url" else escape
    most, inner, count, last, folders = int(query.get("max-keys") or _PAGE), "", 0, "", set[str]()
    for key, stored in state.listed(bucket, prefix, after):
        folder = prefix + key[len(prefix) :].partition(delimiter)[0] + delimiter if delimiter else ""
        if folder and folder != key + delimiter:
            if folder in folders or folder <= after:
                continue
            folders.add(folder)
        if count == most:
            inner += (
                f"<NextContinuationToken>{encode(last)}</NextContinuationToken><NextMarker>{encode(last)}</NextMarker>"
            )
            break
        count, last = count + 1, key
        if folder and folder != key + delimiter:
            last = folder + "\U0010ffff"
            inner += f"<CommonPrefixes><Prefix>{encode(folder)}</Prefix></CommonPrefixes>"
        else:
            inner += (
                f"<Contents><Key>{encode(key)}</Key><LastModified>{iso(stored.modified_s)}</LastModified>"
                f"<ETag>{escape(stored.etag)}</ETag><Size>{stored.size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
            )
    cut = "true" if "<NextMarker>" in inner else "false"
    encoding = "<EncodingType>url</EncodingType>" if encode is quote else ""
    head = (
        f"<Name>{bucket}</Name><Prefix>{encode(prefix)}</Prefix><KeyCount>{count}</KeyCount><MaxKeys>{most}</MaxKeys>"
    )
    _xml(wire, "ListBucketResult", f"{head}{encoding}<IsTruncated>{cut}</IsTruncated>{inner}")
