"""What both APIs share: options, rights, and how bytes are read out."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from email.utils import formatdate

from ckptsync.testing.gcs.objects import Objects
from ckptsync.testing.gcs.payload import Payload
from ckptsync.testing.gcs.rewrite import Rewrites
from ckptsync.testing.gcs.uploads import Uploads
from ckptsync.testing.gcs.values import Conditions, StoredObject
from ckptsync.testing.gcs.wire import (
    GcsError,
    Kind,
    Request,
    Response,
    condition_failed,
    invalid,
    not_implemented,
    not_modified,
)

_RANGE = re.compile(r"bytes=(?P<first>\d*)-(?P<last>\d*)")
_CREATE = ("storage.objects.create",)
_PARTS = ("storage.multipartUploads.create", "storage.objects.create")

PERMISSIONS: Mapping[Kind, tuple[str, ...]] = {
    Kind.BUCKET: ("storage.buckets.get",),
    Kind.LIST: ("storage.objects.list",),
    Kind.GET: ("storage.objects.get",),
    Kind.MEDIA: ("storage.objects.get",),
    Kind.XML_GET: ("storage.objects.get",),
    Kind.XML_HEAD: ("storage.objects.get",),
    Kind.DELETE: ("storage.objects.delete",),
    Kind.XML_DELETE: ("storage.objects.delete",),
    Kind.PATCH: ("storage.objects.update",),
    Kind.COMPOSE: ("storage.objects.create", "storage.objects.get"),
    Kind.REWRITE: ("storage.objects.create", "storage.objects.get"),
    Kind.COPY: ("storage.objects.create", "storage.objects.get"),
    Kind.INSERT: _CREATE,
    Kind.SESSION_START: _CREATE,
    Kind.XML_PUT: _CREATE,
    Kind.PARTS_START: _PARTS,
    Kind.PARTS_PUT: _PARTS,
    Kind.PARTS_COMPLETE: _PARTS,
    Kind.PARTS_LIST: ("storage.multipartUploads.listParts",),
    Kind.PARTS_UPLOADS: ("storage.multipartUploads.list",),
    Kind.PARTS_ABORT: ("storage.multipartUploads.abort",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The state behind both APIs.

    Attributes:
        objects: buckets and what is in them.
        uploads: what is unfinished.
        rewrites: copies under way.
        url: where the server is reached, without a slash at the end.
    """

    objects: Objects
    uploads: Uploads
    rewrites: Rewrites
    url: str


def check_token(request: Request, token: str | None) -> None:
    """Ask for credentials where a token was set; a session's own address is its credential, as at Google.

    Raises:
        GcsError: 401.
    """
    sessions = {Kind.SESSION_CHUNK, Kind.SESSION_QUERY, Kind.SESSION_CANCEL}
    if token is None or request.kind in sessions:
        return
    given = request.headers.get("authorization")
    if given is None:
        raise GcsError(401, "required", "AuthenticationRequired", "Authentication required.")
    if given != f"Bearer {token}":
        raise GcsError(401, "authError", "AuthenticationRequired", "Invalid Credentials")


def check_options(request: Request, known: Collection[str]) -> None:
    """Refuse query parameters that mean nothing here, so that a misspelt precondition is never ignored.

    Raises:
        GcsError: 400.
    """
    for name, values in request.query.items():
        if name not in known:
            raise invalid(f"Invalid query parameter: {name!r}")
        if len(values) > 1 and name != "permissions":
            raise invalid(f"Query parameter {name!r} was given {len(values)} times.")


def refuse_etags(request: Request) -> None:
    """Refuse `If-Match` and its kin on JSON requests that write, which Google supports for reads only.

    Raises:
        GcsError: 400.
    """
    for header in ("if-match", "if-none-match", "if-modified-since", "if-unmodified-since"):
        if header in request.headers and request.kind not in {Kind.GET, Kind.MEDIA}:
            raise not_implemented(f"{header} is for reads; use ifGenerationMatch.", status=400)


def whole_number(text: str | None, name: str, *, least: int = 0) -> int | None:
    """Read an integer option; None stays None.

    Raises:
        GcsError: 400.
    """
    if text is None:
        return None
    if not text.isascii() or not text.isdigit() or int(text) < least:
        raise invalid(f"Invalid value for {name}: {text!r}")
    return int(text)


def json_conditions(request: Request, infix: str = "") -> Conditions:
    """Preconditions in the query, such as `ifGenerationMatch`, or `ifSourceGenerationMatch` with infix `Source`.

    Raises:
        GcsError: 400.
    """

    def number(suffix: str) -> int | None:
        name = f"if{infix}{suffix}"
        return whole_number(request.option(name), name)

    return Conditions(
        generation=number("GenerationMatch"),
        not_generation=number("GenerationNotMatch"),
        metageneration=number("MetagenerationMatch"),
        not_metageneration=number("MetagenerationNotMatch"),
    )


def header_hashes(headers: Mapping[str, str]) -> dict[str, str]:
    """Hashes the client says the bytes have: `x-goog-hash` and `Content-MD5`, base64 by algorithm.

    Raises:
        GcsError: 400, one is not what such a hash looks like.
    """
    found: dict[str, str] = {}
    for entry in filter(None, (text.strip() for text in headers.get("x-goog-hash", "").split(","))):
        algorithm, _, given = entry.partition("=")
        found[algorithm] = given
    if "content-md5" in headers:
        found["md5"] = headers["content-md5"].strip()
    check_hashes(found)
    return found


def check_hashes(found: Mapping[str, str]) -> None:
    """Refuse hashes of unknown kind or wrong length.

    Raises:
        GcsError: 400.
    """
    lengths = {"crc32c": 4, "md5": 16}
    for algorithm, given in found.items():
        try:
            length = len(base64.b64decode(given, validate=True))
        except binascii.Error:
            length = -1
        if length != lengths.get(algorithm):
            raise invalid(f"Invalid hash: {algorithm}={given}", code="InvalidDigest")


def check_etags(request: Request, etag: str) -> None:
    """`If-Match` and `If-None-Match` of a read.

    Raises:
        GcsError: 412 or 304.
    """

    def names(header: str) -> bool:
        tags = [tag.strip().strip('"') for tag in header.split(",")]
        return "*" in tags or etag.strip('"') in tags

    match, none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    if match is not None and not names(match):
        raise condition_failed("If-Match")
    if none_match is not None and names(none_match):
        raise not_modified()


def media_response(request: Request, found: StoredObject, etag: str) -> Response:
    """Hand out an object's bytes, or the one range asked for; anything else in `Range` is ignored, as HTTP has it.

    Raises:
        GcsError: 416.
    """
    headers = object_headers(found, etag)
    headers["Content-Type"] = found.attributes.get("contentType", "application/octet-stream")
    headers["Accept-Ranges"] = "bytes"
    headers["Last-Modified"] = formatdate(found.updated_s, usegmt=True)
    span = _RANGE.fullmatch(request.headers.get("range", "").strip())
    first_text, last_text = (span["first"], span["last"]) if span else ("", "")
    if not first_text and not last_text:
        return Response(headers=headers, body=found.payload)
    if first_text:
        first = int(first_text)
        last = min(int(last_text), found.size - 1) if last_text else found.size - 1
        if last_text and int(last_text) < first:
            return Response(headers=headers, body=found.payload)
    else:
        first, last = max(0, found.size - int(last_text)), found.size - 1
    if first > last:
        raise GcsError(416, "requestedRangeNotSatisfiable", "InvalidRange", "The requested range cannot be satisfied.")
    headers["Content-Range"] = f"bytes {first}-{last}/{found.size}"
    return Response(status=206, headers=headers, body=found.payload.slice(first, last + 1))


def object_headers(found: StoredObject, etag: str) -> dict[str, str]:
    """Headers that describe an object."""
    headers = {
        "ETag": etag,
        "x-goog-generation": str(found.generation),
        "x-goog-metageneration": str(found.metageneration),
        "x-goog-hash": found.hashes,
        "x-goog-storage-class": str(found.attributes.get("storageClass", "STANDARD")),
        "x-goog-stored-content-encoding": str(found.attributes.get("contentEncoding", "identity")),
        "x-goog-stored-content-length": str(found.size),
    }
    if found.component_count is not None:
        headers["x-goog-component-count"] = str(found.component_count)
    for name, header in (
        ("contentEncoding", "Content-Encoding"),
        ("contentLanguage", "Content-Language"),
        ("contentDisposition", "Content-Disposition"),
        ("cacheControl", "Cache-Control"),
    ):
        if name in found.attributes:
            headers[header] = str(found.attributes[name])
    for name, value in found.attributes.get("metadata", {}).items():
        headers[f"x-goog-meta-{name}"] = str(value)
    return headers


def text_body(request: Request, limit_bytes: int = 8 << 20) -> bytes:
    """A small body as bytes.

    Raises:
        GcsError: 400, it is not small.
    """
    if request.body.size > limit_bytes:
        raise invalid(f"The request body has {request.body.size} bytes, more than {limit_bytes}.")
    return bytes(request.body)


def head_of(payload: Payload, size_bytes: int) -> bytes:
    """The first bytes of a payload."""
    return bytes(payload.slice(0, size_bytes))
