"""The XML API: whole objects, and multipart uploads."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote, unquote

from ckptsync.testing.gcs.json_api import timestamp
from ckptsync.testing.gcs.payload import encode_crc32c, encode_md5
from ckptsync.testing.gcs.service import (
    Service,
    check_etags,
    check_options,
    header_hashes,
    media_response,
    object_headers,
    text_body,
    whole_number,
)
from ckptsync.testing.gcs.uploads import MAX_PART_BYTES, MAX_PARTS, Multipart, Part
from ckptsync.testing.gcs.values import Conditions, Draft, StoredObject, check_name
from ckptsync.testing.gcs.wire import Kind, Request, Response, Target, invalid, not_implemented, tag, xml_response

MAX_PAGE = 1000
NAMESPACE = "http://s3.amazonaws.com/doc/2006-03-01/"

MULTIPART = frozenset(
    {Kind.PARTS_START, Kind.PARTS_PUT, Kind.PARTS_LIST, Kind.PARTS_COMPLETE, Kind.PARTS_ABORT, Kind.PARTS_UPLOADS}
)
KNOWN: Mapping[Kind, frozenset[str]] = {
    Kind.XML_PUT: frozenset(),
    Kind.XML_GET: frozenset({"generation"}),
    Kind.XML_HEAD: frozenset({"generation"}),
    Kind.XML_DELETE: frozenset({"generation"}),
    Kind.PARTS_START: frozenset({"uploads"}),
    Kind.PARTS_PUT: frozenset({"partNumber", "uploadId"}),
    Kind.PARTS_LIST: frozenset({"uploadId", "max-parts", "part-number-marker", "encoding-type"}),
    Kind.PARTS_COMPLETE: frozenset({"uploadId"}),
    Kind.PARTS_ABORT: frozenset({"uploadId"}),
    Kind.PARTS_UPLOADS: frozenset(
        {"uploads", "prefix", "delimiter", "encoding-type", "key-marker", "max-uploads", "upload-id-marker"}
    ),
}

_HTTP_CONDITIONS = ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since")
_NOT_MODELLED = ("x-goog-copy-source", "x-goog-resumable", "x-goog-encryption-key", "x-goog-content-length-range")
_ATTRIBUTES = {
    "content-type": "contentType",
    "content-encoding": "contentEncoding",
    "content-language": "contentLanguage",
    "content-disposition": "contentDisposition",
    "cache-control": "cacheControl",
}


def route(method: str, path: str, query: Mapping[str, list[str]]) -> Target:
    """Tell what a request for `/bucket` or `/bucket/object` asks for; kind UNKNOWN when nothing known."""
    bucket, _, name = path.removeprefix("/").partition("/")
    kind = Kind.UNKNOWN
    if bucket and not name:
        kind = Kind.PARTS_UPLOADS if method == "GET" and "uploads" in query else Kind.UNKNOWN
    elif name:
        part = "uploadId" in query or "partNumber" in query
        kind = {
            "PUT": Kind.PARTS_PUT if part else Kind.XML_PUT,
            "GET": Kind.PARTS_LIST if part else Kind.XML_GET,
            "HEAD": Kind.XML_HEAD,
            "DELETE": Kind.PARTS_ABORT if part else Kind.XML_DELETE,
            "POST": Kind.PARTS_START if "uploads" in query else Kind.PARTS_COMPLETE,
        }.get(method, Kind.UNKNOWN)
    return Target(kind=kind, bucket=unquote(bucket), name=unquote(name), xml=True)


def handle(service: Service, request: Request) -> Response:
    """Answer any request `route` knows.

    Raises:
        GcsError: the refusal.
    """
    check_options(request, KNOWN[request.kind])
    service.objects.check_bucket(request.target.bucket)
    for header in _NOT_MODELLED:
        if header in request.headers:
            raise not_implemented(f"{header} is not modelled.")
    _refuse_conditions(request)
    return _HANDLERS[request.kind](service, request)


def xml_etag(found: StoredObject) -> str:
    """The MD5 where there is one, as the XML API has it, else something opaque."""
    return f'"{found.md5.hex() if found.md5 is not None else "-" + found.etag}"'


def _refuse_conditions(request: Request) -> None:
    """Refuse every precondition that would be ignored; on a multipart upload that is all of them."""
    understood: set[str] = set()
    if request.kind not in MULTIPART:
        understood |= {"x-goog-if-generation-match", "x-goog-if-metageneration-match"}
    if request.kind in {Kind.XML_GET, Kind.XML_HEAD}:
        understood |= {"if-match", "if-none-match"}
    for header in request.headers:
        if (header in _HTTP_CONDITIONS or header.startswith("x-goog-if-")) and header not in understood:
            message = f"A header you provided implies functionality that is not implemented: {header}."
            raise not_implemented(message, status=400)


def _conditions(request: Request) -> Conditions:
    def number(suffix: str) -> int | None:
        name = f"x-goog-if-{suffix}"
        return whole_number(request.headers.get(name), name)

    return Conditions(generation=number("generation-match"), metageneration=number("metageneration-match"))


def _attributes(request: Request) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        name: request.headers[header] for header, name in _ATTRIBUTES.items() if header in request.headers
    }
    prefix = "x-goog-meta-"
    metadata = {key.removeprefix(prefix): value for key, value in request.headers.items() if key.startswith(prefix)}
    return {**attributes, "metadata": metadata} if metadata else attributes


def _put(service: Service, request: Request) -> Response:
    check_name(request.target.name)
    expected = header_hashes(request.headers)
    draft = Draft.hashed(request.body, _attributes(request), expected, md5s=service.objects.md5s)
    made = service.objects.create(request.target.bucket, request.target.name, draft, _conditions(request))
    return Response(headers=object_headers(made, xml_etag(made)))


def _get(service: Service, request: Request) -> Response:
    found = service.objects.get(
        request.target.bucket,
        request.target.name,
        _conditions(request),
        generation=whole_number(request.option("generation"), "generation"),
    )
    etag = xml_etag(found)
    check_etags(request, etag)
    return media_response(request, found, etag)


def _delete(service: Service, request: Request) -> Response:
    generation = whole_number(request.option("generation"), "generation")
    service.objects.delete(request.target.bucket, request.target.name, _conditions(request), generation=generation)
    return Response(status=204)


def _upload(service: Service, request: Request) -> Multipart:
    upload_id = request.option("uploadId")
    if upload_id is None:
        raise invalid("uploadId is missing.")
    return service.uploads.multipart(request.target.bucket, request.target.name, upload_id)


def _start(service: Service, request: Request) -> Response:
    check_name(request.target.name)
    upload = service.uploads.begin_multipart(request.target.bucket, request.target.name, _attributes(request))
    inner = tag("Bucket", upload.bucket) + tag("Key", upload.name) + tag("UploadId", upload.id)
    return _document("InitiateMultipartUploadResult", inner)


def _put_part(service: Service, request: Request) -> Response:
    upload = _upload(service, request)
    number = whole_number(request.option("partNumber"), "partNumber", least=1)
    if number is None or number > MAX_PARTS:
        raise invalid(f"The part number must be 1 to {MAX_PARTS}.")
    if request.body.size > MAX_PART_BYTES:
        raise invalid(f"A part has at most {MAX_PART_BYTES} bytes.", code="EntityTooLarge")
    part = service.uploads.put_part(upload, number, request.body, header_hashes(request.headers))
    return Response(headers={"ETag": part.etag, "x-goog-hash": _part_hashes(part)})


def _part_hashes(part: Part) -> str:
    known = [f"crc32c={encode_crc32c(part.crc32c)}"]
    if part.md5 is not None:
        known.append(f"md5={encode_md5(part.md5)}")
    return ",".join(known)


def _list_parts(service: Service, request: Request) -> Response:
    upload = _upload(service, request)
    marker = whole_number(request.option("part-number-marker"), "part-number-marker") or 0
    limit = _limit(request, "max-parts")
    after = [part for part in service.uploads.parts(upload) if part.number > marker]
    page = after[:limit]
    inner = tag("Bucket", upload.bucket) + tag("Key", _key(request, upload.name)) + tag("UploadId", upload.id)
    inner += tag("StorageClass", "STANDARD") + tag("PartNumberMarker", marker)
    if len(after) > limit:
        inner += tag("NextPartNumberMarker", page[-1].number)
    inner += tag("MaxParts", limit) + tag("IsTruncated", _truth(len(after) > limit))
    for part in page:
        facts = tag("PartNumber", part.number) + tag("LastModified", timestamp(part.modified_s))
        inner += f"<Part>{facts}{tag('ETag', part.etag)}{tag('Size', part.payload.size)}</Part>"
    return _document("ListPartsResult", inner)


def _list_uploads(service: Service, request: Request) -> Response:
    if request.option("delimiter"):
        raise not_implemented("delimiter is not modelled for listings of uploads.")
    prefix, marker = request.option("prefix") or "", request.option("key-marker") or ""
    id_marker = (request.option("upload-id-marker") or "") if marker else ""
    limit = _limit(request, "max-uploads")

    def behind(upload: Multipart) -> bool:
        if upload.name == marker and id_marker:
            return upload.id > id_marker
        return upload.name.encode() > marker.encode()

    matching = [
        upload for upload in service.uploads.multiparts(request.target.bucket) if upload.name.startswith(prefix)
    ]
    after = [upload for upload in matching if behind(upload)]
    page = after[:limit]
    inner = tag("Bucket", request.target.bucket) + tag("KeyMarker", _key(request, marker))
    inner += tag("UploadIdMarker", id_marker)
    if len(after) > limit:
        inner += tag("NextKeyMarker", _key(request, page[-1].name)) + tag("NextUploadIdMarker", page[-1].id)
    inner += tag("Prefix", _key(request, prefix)) + tag("MaxUploads", limit)
    inner += tag("IsTruncated", _truth(len(after) > limit))
    for upload in page:
        facts = tag("Key", _key(request, upload.name)) + tag("UploadId", upload.id)
        facts += tag("StorageClass", "STANDARD") + tag("Initiated", timestamp(upload.begun_s))
        inner += f"<Upload>{facts}</Upload>"
    return _document("ListMultipartUploadsResult", inner)


def _complete(service: Service, request: Request) -> Response:
    upload = _upload(service, request)
    made = service.uploads.complete(upload, _wanted(text_body(request)))
    location = f"{service.url}/{quote(made.bucket)}/{quote(made.name)}"
    inner = tag("Location", location) + tag("Bucket", made.bucket) + tag("Key", made.name) + tag("ETag", xml_etag(made))
    headers = {"x-goog-hash": made.hashes, "x-goog-generation": str(made.generation)}
    return _document("CompleteMultipartUploadResult", inner, headers)


def _wanted(content: bytes) -> list[tuple[int, str]]:
    """Numbers and ETags of the parts a complete request lists; with or without a namespace."""
    try:
        root = ET.fromstring(content)  # noqa: S314  a loopback server for tests
    except ET.ParseError as error:
        raise invalid(f"The XML is malformed: {error}", code="MalformedXML") from error
    wanted: list[tuple[int, str]] = []
    for entry in root.iterfind("{*}Part"):
        number, etag = entry.findtext("{*}PartNumber"), entry.findtext("{*}ETag")
        if number is None or etag is None:
            raise invalid("Each Part needs a PartNumber and an ETag.", code="MalformedXML")
        wanted.append((whole_number(number.strip(), "PartNumber", least=1) or 0, etag.strip()))
    return wanted


def _abort(service: Service, request: Request) -> Response:
    service.uploads.abort(_upload(service, request))
    return Response(status=204)


def _limit(request: Request, name: str) -> int:
    asked = whole_number(request.option(name), name, least=1)
    return MAX_PAGE if asked is None else min(asked, MAX_PAGE)


def _key(request: Request, name: str) -> str:
    return quote(name) if request.option("encoding-type") == "url" else name


def _truth(value: bool) -> str:  # noqa: FBT001  the XML spelling of one value
    return "true" if value else "false"


def _document(root: str, inner: str, headers: Mapping[str, str] | None = None) -> Response:
    return xml_response(f'<{root} xmlns="{NAMESPACE}">{inner}</{root}>', headers=headers)


_HANDLERS: Mapping[Kind, Callable[[Service, Request], Response]] = {
    Kind.XML_PUT: _put,
    Kind.XML_GET: _get,
    Kind.XML_HEAD: _get,
    Kind.XML_DELETE: _delete,
    Kind.PARTS_START: _start,
    Kind.PARTS_PUT: _put_part,
    Kind.PARTS_LIST: _list_parts,
    Kind.PARTS_COMPLETE: _complete,
    Kind.PARTS_ABORT: _abort,
    Kind.PARTS_UPLOADS: _list_uploads,
}
