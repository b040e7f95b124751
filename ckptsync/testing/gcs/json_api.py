"""The JSON API, less uploads: objects and their metadata, listings, compose, rewrite, permissions."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, unquote

from ckptsync.testing.gcs.payload import encode_crc32c, encode_md5
from ckptsync.testing.gcs.rewrite import Progress
from ckptsync.testing.gcs.service import (
    Service,
    check_etags,
    check_options,
    json_conditions,
    media_response,
    text_body,
    whole_number,
)
from ckptsync.testing.gcs.values import Conditions, Selection, StoredObject, check_source_count, compose
from ckptsync.testing.gcs.wire import (
    GcsError,
    Kind,
    Request,
    Response,
    Target,
    invalid,
    json_response,
    not_implemented,
)

MAX_PAGE = 1000

STANDARD = frozenset(
    {
        "alt",
        "callback",
        "fields",
        "key",
        "access_token",
        "oauth_token",
        "prettyPrint",
        "quotaUser",
        "userIp",
        "userProject",
        "$.xgafv",
    }
)
CONDITIONS = frozenset(
    {"ifGenerationMatch", "ifGenerationNotMatch", "ifMetagenerationMatch", "ifMetagenerationNotMatch"}
)
SOURCE_CONDITIONS = frozenset(name.replace("if", "ifSource", 1) for name in CONDITIONS)
_COPY = CONDITIONS | SOURCE_CONDITIONS | {"sourceGeneration", "destinationPredefinedAcl", "projection"}
KNOWN: Mapping[Kind, frozenset[str]] = {
    Kind.BUCKET: frozenset({"projection"}),
    Kind.PERMISSIONS: frozenset({"permissions"}),
    Kind.LIST: frozenset(
        {
            "delimiter",
            "endOffset",
            "includeTrailingDelimiter",
            "maxResults",
            "pageToken",
            "prefix",
            "projection",
            "startOffset",
            "versions",
        }
    ),
    Kind.GET: CONDITIONS | {"generation", "projection"},
    Kind.MEDIA: CONDITIONS | {"generation", "projection"},
    Kind.DELETE: CONDITIONS | {"generation"},
    Kind.PATCH: CONDITIONS | {"generation", "projection", "predefinedAcl"},
    Kind.COMPOSE: frozenset({"ifGenerationMatch", "ifMetagenerationMatch", "destinationPredefinedAcl"}),
    Kind.REWRITE: _COPY | {"maxBytesRewrittenPerCall", "rewriteToken"},
    Kind.COPY: _COPY,
}

WRITABLE = frozenset(
    {
        "cacheControl",
        "contentDisposition",
        "contentEncoding",
        "contentLanguage",
        "contentType",
        "customTime",
        "metadata",
        "storageClass",
    }
)

_OBJECT = r"/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)"
_PATHS: Sequence[tuple[str, re.Pattern[str], Kind]] = [
    ("GET", re.compile(r"/storage/v1/b/(?P<bucket>[^/]+)"), Kind.BUCKET),
    ("GET", re.compile(r"/storage/v1/b/(?P<bucket>[^/]+)/iam/testPermissions"), Kind.PERMISSIONS),
    ("GET", re.compile(r"/storage/v1/b/(?P<bucket>[^/]+)/o"), Kind.LIST),
    ("GET", re.compile("(?:/download)?" + _OBJECT), Kind.GET),
    ("DELETE", re.compile(_OBJECT), Kind.DELETE),
    ("PATCH", re.compile(_OBJECT), Kind.PATCH),
    ("POST", re.compile(_OBJECT + "/compose"), Kind.COMPOSE),
    ("POST", re.compile(_OBJECT + r"/rewriteTo/b/(?P<to_bucket>[^/]+)/o/(?P<to_name>[^/]+)"), Kind.REWRITE),
    ("POST", re.compile(_OBJECT + r"/copyTo/b/(?P<to_bucket>[^/]+)/o/(?P<to_name>[^/]+)"), Kind.COPY),
]


def route(method: str, path: str, query: Mapping[str, list[str]]) -> Target:
    """Tell what a request below `/storage/v1` or `/download/storage/v1` asks for; kind UNKNOWN when nothing known."""
    for verb, pattern, kind in _PATHS:
        if verb == method and (found := pattern.fullmatch(path)):
            names = {key: unquote(value) for key, value in found.groupdict().items()}
            media = kind is Kind.GET and query.get("alt", ["json"])[-1] == "media"
            return Target(
                kind=Kind.MEDIA if media else kind,
                bucket=names["bucket"],
                name=names.get("name", ""),
                to_bucket=names.get("to_bucket", ""),
                to_name=names.get("to_name", ""),
            )
    return Target(kind=Kind.UNKNOWN)


def resource(found: StoredObject, url: str) -> dict[str, object]:
    """The object as the JSON API describes it."""
    path = f"/b/{quote(found.bucket, safe='')}/o/{quote(found.name, safe='')}"
    document: dict[str, object] = {
        "kind": "storage#object",
        "id": f"{found.bucket}/{found.name}/{found.generation}",
        "selfLink": f"{url}/storage/v1{path}",
        "mediaLink": f"{url}/download/storage/v1{path}?generation={found.generation}&alt=media",
        "name": found.name,
        "bucket": found.bucket,
        "generation": str(found.generation),
        "metageneration": str(found.metageneration),
        "storageClass": "STANDARD",
        "size": str(found.size),
        "crc32c": encode_crc32c(found.crc32c),
        "etag": found.etag,
        "timeCreated": timestamp(found.created_s),
        "updated": timestamp(found.updated_s),
        "timeStorageClassUpdated": timestamp(found.created_s),
        "timeFinalized": timestamp(found.created_s),
    }
    if found.md5 is not None:
        document["md5Hash"] = encode_md5(found.md5)
    if found.component_count is not None:
        document["componentCount"] = found.component_count
    return {**document, **found.attributes}


def timestamp(time_s: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    return datetime.fromtimestamp(time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_body(request: Request) -> dict[str, Any]:
    """The body as a JSON object; an empty one stands for `{}`.

    Raises:
        GcsError: 400.
    """
    return parse_json(text_body(request))


def parse_json(content: bytes) -> dict[str, Any]:
    """Read a JSON object; nothing at all stands for `{}`.

    Raises:
        GcsError: 400.
    """
    try:
        document = json.loads(content) if content.strip() else {}
    except ValueError as error:
        raise GcsError(400, "parseError", "InvalidArgument", f"Parse Error: {error}") from error
    if not isinstance(document, dict):
        raise GcsError(400, "parseError", "InvalidArgument", "Parse Error: an object is needed")
    return document


def writable(document: Mapping[str, Any]) -> dict[str, Any]:
    """What of a resource the client may set."""
    return {key: value for key, value in document.items() if key in WRITABLE}


def handle(service: Service, request: Request) -> Response:
    """Answer any request `route` knows.

    Raises:
        GcsError: the refusal.
    """
    check_options(request, KNOWN[request.kind] | STANDARD)
    return _HANDLERS[request.kind](service, request)


def _bucket(service: Service, request: Request) -> Response:
    name = request.target.bucket
    service.objects.check_bucket(name)
    document = {"kind": "storage#bucket", "id": name, "name": name, "metageneration": "1", "etag": "CAE="}
    facts = {"location": "US", "locationType": "multi-region", "storageClass": "STANDARD"}
    return json_response({**document, **facts})


def _permissions(service: Service, request: Request) -> Response:
    service.objects.check_bucket(request.target.bucket)
    asked = request.query.get("permissions", [])
    if not asked:
        raise invalid("At least one permission is needed.")
    held = [permission for permission in asked if permission not in service.objects.deny]
    document: dict[str, object] = {"kind": "storage#testIamPermissionsResponse"}
    return json_response({**document, "permissions": held} if held else document)


def _list(service: Service, request: Request) -> Response:
    def encoded(name: str) -> bytes:
        return (request.option(name) or "").encode()

    limit = whole_number(request.option("maxResults"), "maxResults", least=1)
    token = request.option("pageToken")
    selection = Selection(
        prefix=encoded("prefix"),
        delimiter=encoded("delimiter"),
        start=max(encoded("startOffset"), _decode_page_token(token) if token else b""),
        end=encoded("endOffset") or None,
    )
    if request.option("includeTrailingDelimiter") == "true":
        raise not_implemented("includeTrailingDelimiter is not modelled.")
    page = service.objects.list(request.target.bucket, selection, min(limit or MAX_PAGE, MAX_PAGE))
    document: dict[str, object] = {"kind": "storage#objects"}
    if page.resume is not None:
        document["nextPageToken"] = base64.urlsafe_b64encode(b"\n" + page.resume).decode()
    if page.prefixes:
        document["prefixes"] = list(page.prefixes)
    if page.objects:
        document["items"] = [resource(found, service.url) for found in page.objects]
    return json_response(document)


def _decode_page_token(token: str) -> bytes:
    try:
        content = base64.b64decode(token, altchars=b"-_", validate=True)
    except binascii.Error:
        content = b""
    if not content.startswith(b"\n"):
        raise invalid("Invalid page token.")
    return content[1:]


def _found(service: Service, request: Request) -> StoredObject:
    """The object a read asks for, once its conditions hold."""
    generation = whole_number(request.option("generation"), "generation")
    found = service.objects.get(
        request.target.bucket, request.target.name, json_conditions(request), generation=generation
    )
    check_etags(request, found.etag)
    return found


def _get(service: Service, request: Request) -> Response:
    found = _found(service, request)
    return json_response(resource(found, service.url), headers={"ETag": found.etag})


def _media(service: Service, request: Request) -> Response:
    found = _found(service, request)
    return media_response(request, found, found.etag)


def _delete(service: Service, request: Request) -> Response:
    generation = whole_number(request.option("generation"), "generation")
    service.objects.delete(request.target.bucket, request.target.name, json_conditions(request), generation=generation)
    return Response(status=204)


def _patch(service: Service, request: Request) -> Response:
    made = service.objects.patch(
        request.target.bucket,
        request.target.name,
        writable(json_body(request)),
        json_conditions(request),
        generation=whole_number(request.option("generation"), "generation"),
    )
    return json_response(resource(made, service.url), headers={"ETag": made.etag})


def _compose(service: Service, request: Request) -> Response:
    body = json_body(request)
    if body.get("deleteSourceObjects"):
        raise not_implemented("deleteSourceObjects is not modelled.")
    entries = body.get("sourceObjects", [])
    check_source_count(len(entries))
    sources = [_compose_source(service, request.target.bucket, entry) for entry in entries]
    draft = compose(sources, writable(body.get("destination", {})))
    made = service.objects.create(request.target.bucket, request.target.name, draft, json_conditions(request))
    return json_response(resource(made, service.url), headers={"ETag": made.etag})


def _compose_source(service: Service, bucket: str, entry: Mapping[str, Any]) -> StoredObject:
    generation = whole_number(_text(entry.get("generation")), "generation")
    wanted = whole_number(_text(entry.get("objectPreconditions", {}).get("ifGenerationMatch")), "ifGenerationMatch")
    conditions = Conditions(generation=wanted)
    return service.objects.get(bucket, str(entry.get("name", "")), conditions, generation=generation, source=True)


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _rewrite(service: Service, request: Request) -> Response:
    progress = _copy_step(service, request)
    document: dict[str, object] = {
        "kind": "storage#rewriteResponse",
        "totalBytesRewritten": str(progress.written),
        "objectSize": str(progress.total),
        "done": progress.made is not None,
    }
    if progress.token is not None:
        document["rewriteToken"] = progress.token
    if progress.made is not None:
        document["resource"] = resource(progress.made, service.url)
    return json_response(document)


def _copy(service: Service, request: Request) -> Response:
    progress = _copy_step(service, request)
    while progress.made is None:
        progress = _copy_step(service, request, token=progress.token)
    return json_response(resource(progress.made, service.url), headers={"ETag": progress.made.etag})


def _copy_step(service: Service, request: Request, *, token: str | None = None) -> Progress:
    source = service.objects.get(
        request.target.bucket,
        request.target.name,
        json_conditions(request, "Source"),
        generation=whole_number(request.option("sourceGeneration"), "sourceGeneration"),
        source=True,
    )
    return service.rewrites.step(
        request.target,
        source,
        attributes=writable(json_body(request)),
        conditions=json_conditions(request),
        asked_bytes=whole_number(request.option("maxBytesRewrittenPerCall"), "maxBytesRewrittenPerCall"),
        token=token or request.option("rewriteToken"),
    )


_HANDLERS: Mapping[Kind, Callable[[Service, Request], Response]] = {
    Kind.BUCKET: _bucket,
    Kind.PERMISSIONS: _permissions,
    Kind.LIST: _list,
    Kind.GET: _get,
    Kind.MEDIA: _media,
    Kind.DELETE: _delete,
    Kind.PATCH: _patch,
    Kind.COMPOSE: _compose,
    Kind.REWRITE: _rewrite,
    Kind.COPY: _copy,
}
