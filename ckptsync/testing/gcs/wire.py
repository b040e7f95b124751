"""What travels: requests, answers, errors in the service's two dialects, and faults a test injects."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from http import HTTPStatus
from xml.sax.saxutils import escape

from ckptsync.testing.gcs.payload import Payload

CLIENT_CLOSED = 499  # what a cancelled session answers; no standard status
XML_HEAD = "<?xml version='1.0' encoding='UTF-8'?>"


class Kind(StrEnum):
    """What a request asks for; `GcsServer.requests` counts by these."""

    BUCKET = "bucket.get"
    PERMISSIONS = "bucket.testPermissions"
    LIST = "object.list"
    GET = "object.get"
    MEDIA = "object.media"
    DELETE = "object.delete"
    PATCH = "object.patch"
    COMPOSE = "object.compose"
    REWRITE = "object.rewrite"
    COPY = "object.copy"
    INSERT = "upload.simple"  # uploadType media or multipart
    SESSION_START = "upload.start"
    SESSION_CHUNK = "upload.chunk"
    SESSION_QUERY = "upload.query"
    SESSION_CANCEL = "upload.cancel"
    XML_PUT = "xml.put"
    XML_GET = "xml.get"
    XML_HEAD = "xml.head"
    XML_DELETE = "xml.delete"
    PARTS_START = "multipart.start"
    PARTS_PUT = "multipart.put"
    PARTS_LIST = "multipart.parts"
    PARTS_COMPLETE = "multipart.complete"
    PARTS_ABORT = "multipart.abort"
    PARTS_UPLOADS = "multipart.uploads"
    UNKNOWN = "unknown"


class GcsError(Exception):
    """A refusal, which both APIs can put into words.

    Attributes:
        status: HTTP status.
        reason: the JSON API's word for it.
        code: the XML API's word for it.
        message: a sentence.
        details: what the XML API adds; the message when empty.
    """

    def __init__(self, status: int, reason: str, code: str, message: str, details: str = "") -> None:
        """Keep the words."""
        super().__init__(message)
        self.status = status
        self.reason = reason
        self.code = code
        self.message = message
        self.details = details


def no_such_bucket() -> GcsError:
    """The bucket is not there."""
    return GcsError(404, "notFound", "NoSuchBucket", "The specified bucket does not exist.")


def no_such_object(bucket: str, name: str) -> GcsError:
    """The object, or the generation asked for, is not there."""
    where = f"No such object: {bucket}/{name}"
    return GcsError(404, "notFound", "NoSuchKey", where, where)


def no_such_upload() -> GcsError:
    """The multipart upload or session is not there, or is over."""
    return GcsError(404, "notFound", "NoSuchUpload", "The requested upload was not found.")


def gone() -> GcsError:
    """The session or rewrite token was ended."""
    return GcsError(410, "gone", "Gone", "The upload session or rewrite token is no longer available; start a new one.")


def condition_failed(what: str) -> GcsError:
    """A precondition does not hold."""
    message = "At least one of the pre-conditions you specified did not hold."
    return GcsError(412, "conditionNotMet", "PreconditionFailed", message, what)


def not_modified() -> GcsError:
    """A read asked only for something newer."""
    return GcsError(304, "notModified", "NotModified", "Not modified.")


def invalid(message: str, *, code: str = "InvalidArgument") -> GcsError:
    """The request makes no sense."""
    return GcsError(400, "invalid", code, message)


def not_implemented(message: str, *, status: int = 501) -> GcsError:
    """The service, or this likeness of it, cannot do that."""
    return GcsError(status, "notImplemented", "NotImplemented", message)


def bad_hash(algorithm: str, given: str, computed: str) -> GcsError:
    """The bytes that arrived are not those the client hashed."""
    shown = "CRC32C" if algorithm == "crc32c" else "MD5 hash"
    message = f'Provided {shown} "{given}" doesn\'t match calculated {shown} "{computed}".'
    return GcsError(400, "invalid", "BadDigest", message)


def rate_limited(bucket: str, name: str) -> GcsError:
    """The object name was written less than a second ago."""
    message = (
        f"The object {bucket}/{name} exceeded the rate limit for object mutation operations (create, update, and delete). "
        "Please reduce your request rate. See https://cloud.google.com/storage/docs/gcs429."
    )
    return GcsError(429, "rateLimitExceeded", "SlowDown", message)


def denied(permission: str) -> GcsError:
    """The caller is known but lacks a right."""
    of_object = permission.startswith("storage.objects.") and permission != "storage.objects.list"
    message = (
        f"The caller does not have {permission} access to the Google Cloud Storage {'object' if of_object else 'bucket'}. "
        f"Permission '{permission}' denied on resource (or it may not exist)."
    )
    return GcsError(403, "forbidden", "AccessDenied", message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where a request goes.

    Attributes:
        kind: what it asks for.
        bucket: bucket name, percent-decoded.
        name: object name, percent-decoded; empty when the request is about a bucket.
        to_bucket: destination of a rewrite or copy.
        to_name: destination of a rewrite or copy.
        xml: it speaks the XML API.
    """

    kind: Kind
    bucket: str = ""
    name: str = ""
    to_bucket: str = ""
    to_name: str = ""
    xml: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request whose body has been read.

    Attributes:
        method: as sent.
        path: as sent, percent-encoded, without the query.
        query: decoded values by name.
        headers: by lower-case name.
        target: what the path, method and query name.
        body: what arrived of the body.
        complete: False when the client hung up before the end of the body.
    """

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    target: Target
    body: Payload
    complete: bool = True

    @property
    def kind(self) -> Kind:
        """What it asks for."""
        return self.target.kind

    @property
    def object_name(self) -> str:
        """The object it is about, wherever it names it; empty when it is about a bucket."""
        return self.target.name

    def option(self, name: str) -> str | None:
        """A query parameter; the last one when it is repeated."""
        values = self.query.get(name)
        return values[-1] if values else None


@dataclass(slots=True, kw_only=True)
class Response:
    """An answer.

    Attributes:
        status: HTTP status.
        headers: by the name to be sent.
        body: sent, or only counted when the request was a HEAD.
    """

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: Payload = field(default_factory=Payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What a hook makes happen instead of the answer.

    Attributes:
        status: answer with this status and an error body.
        reason: the JSON API's word in that body.
        code: the XML API's word in that body.
        headers: sent along, as in `{"Retry-After": "2"}`.
        drop: close the connection without an answer; `status` is then of no concern.
        cut_bytes: from an `after` hook: send the true answer, but only so many bytes of its body, then close.
    """

    status: int = 503
    reason: str = "backendError"
    code: str = "ServiceUnavailable"
    headers: Mapping[str, str] = field(default_factory=dict)
    drop: bool = False
    cut_bytes: int | None = None


Before = Callable[[Request], Fault | None]
After = Callable[[Request, Response], Fault | None]


def json_response(
    document: Mapping[str, object], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Answer with a JSON document."""
    content = json.dumps(document, ensure_ascii=False, indent=1).encode()
    kept = {"Content-Type": "application/json; charset=UTF-8", **(headers or {})}
    return Response(status=status, headers=kept, body=Payload.of(content))


def xml_response(inner: str, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with an XML document."""
    kept = {"Content-Type": "application/xml; charset=UTF-8", **(headers or {})}
    return Response(status=status, headers=kept, body=Payload.of((XML_HEAD + inner).encode()))


def tag(name: str, content: object) -> str:
    """One XML element with text in it."""
    return f"<{name}>{escape(str(content))}</{name}>"


def error_response(error: GcsError, target: Target) -> Response:
    """Put a refusal into the words of the API that was spoken to.

    A failed JSON media download answers the bare sentence, which is what the client library shows its users.
    """
    if error.status == HTTPStatus.NOT_MODIFIED:
        return Response(status=error.status)
    headers = {}
    if error.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="https://accounts.google.com/"'
    if target.xml:
        inner = tag("Code", error.code) + tag("Message", error.message) + tag("Details", error.details or error.message)
        return xml_response(f"<Error>{inner}</Error>", error.status, headers)
    if target.kind is Kind.MEDIA:
        headers["Content-Type"] = "text/html; charset=UTF-8"
        return Response(status=error.status, headers=headers, body=Payload.of(error.message.encode()))
    domain = "usageLimits" if error.status == HTTPStatus.TOO_MANY_REQUESTS else "global"
    one = {"message": error.message, "domain": domain, "reason": error.reason}
    document = {"error": {"code": error.status, "message": error.message, "errors": [one]}}
    return json_response(document, error.status, headers)
