"""What each failure of Google Cloud Storage is to us: one table for its answers, one for a broken connection.

Source: https://cloud.google.com/storage/docs/json_api/v1/status-codes and
https://cloud.google.com/storage/docs/xml-api/reference-status (reasons), https://cloud.google.com/storage/docs/retry-strategy
(what may be tried again), https://cloud.google.com/storage/docs/access-control/iam-xml and …/iam-json (permissions).
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree as ET

import msgspec
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
from ckptsync.store.gcs.xml_api import NOT_XML, MalformedError

UNREADABLE = (MalformedError, msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the parsers raise for an answer that is not what the documentation promises."""

_MESSAGE_CHARS = 300
_MAX_DIGITS = 9

_PERMISSIONS = {
    "put": "storage.objects.create (and storage.objects.delete to replace an object)",
    "get": "storage.objects.get",
    "stat": "storage.objects.get",
    "read": "storage.objects.get",
    "list": "storage.objects.list",
    "delete": "storage.objects.delete",
    "copy": "storage.objects.get and storage.objects.create",
    "begin": "storage.multipartUploads.create and storage.objects.create",
    "put_part": "storage.multipartUploads.create and storage.objects.create",
    "finish": "storage.multipartUploads.create, storage.objects.create and storage.objects.get",
    "parts": "storage.multipartUploads.listParts",
    "abort": "storage.multipartUploads.abort",
    "uploads": "storage.multipartUploads.list",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What was asked for, for messages.

    Attributes:
        op: the store verb.
        key: relative to the run; empty when there is none.
        bucket: its name.
        where: the whole address, like `gs://bucket/run/key`.
    """

    op: str
    key: str
    bucket: str
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An answer that is not the one hoped for.

    Attributes:
        status: HTTP status code.
        reason: the service's word for it: a JSON `reason` or an XML `Code`; empty when it gave none.
        message: the service's sentence, shortened.
        request_id: what Google's support asks for.
        retry_after_s: the pause it asked for, in seconds.
    """

    status: int
    reason: str = ""
    message: str = ""
    request_id: str = ""
    retry_after_s: float | None = None


class _JsonReason(msgspec.Struct):
    reason: str = ""


class _JsonFacts(msgspec.Struct):
    message: str = ""
    errors: list[_JsonReason] = []


class _JsonError(msgspec.Struct):
    error: _JsonFacts


_decoder = msgspec.json.Decoder(_JsonError)


def read_refusal(status: int, headers: Mapping[str, str], body: bytes) -> Refusal:
    """Take the facts out of an answer of either API, or of a proxy in between that speaks neither."""
    reason, message = _explained(body)
    return Refusal(
        status=status,
        reason=reason,
        message=" ".join(message.split())[:_MESSAGE_CHARS],
        request_id=headers.get("x-guploader-uploadid", ""),
        retry_after_s=_seconds(headers.get("retry-after", "")),
    )


def _explained(body: bytes) -> tuple[str, str]:
    """Reason and message of an error body; empty when it has none."""
    if body.lstrip().startswith(b"<"):
        try:
            root = ET.fromstring(body)  # noqa: S314  the service's own answer
        except NOT_XML:
            return "", ""
        code, message, details = (root.findtext(name, "", {}) for name in ("{*}Code", "{*}Message", "{*}Details"))
        return code, f"{message} {details}"
    try:
        facts = _decoder.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", body.decode(errors="replace")
    return facts.errors[0].reason if facts.errors else "", facts.message


def _seconds(text: str) -> float | None:
    """Retry-After in seconds; Google sends no dates there."""
    return float(text) if text.isdecimal() and len(text) <= _MAX_DIGITS else None


def _transient(asked: Asked, refusal: Refusal) -> CkptsyncError:
    return _retryable(asked, refusal, throttled=False)


def _throttled(asked: Asked, refusal: Refusal) -> CkptsyncError:
    return _retryable(asked, refusal, throttled=True)


def _retryable(asked: Asked, refusal: Refusal, *, throttled: bool) -> TransientError:
    said = "asked for a slower pace" if throttled else "failed for the moment"
    return TransientError(
        _sentence(f"{asked.where}: the service {said}", refusal),
        op=asked.op,
        key=asked.key,
        request_id=refusal.request_id,
        throttled=throttled,
        retry_after_s=refusal.retry_after_s,
    )


def _garbled(asked: Asked, refusal: Refusal) -> CkptsyncError:
    """The service compared a digest and stored nothing: the next try may arrive whole."""
    return TransientError(
        _sentence(f"{asked.where}: the body was damaged on its way to the service, nothing was stored", refusal),
        op=asked.op,
        key=asked.key,
        request_id=refusal.request_id,
    )


def _store(kind: type[StoreError], text: str) -> Callable[[Asked, Refusal], CkptsyncError]:
    """Build an error whose text may name {where}, {bucket} and {permission}."""

    def make(asked: Asked, refusal: Refusal) -> CkptsyncError:
        permission = _PERMISSIONS.get(asked.op, "a permission")
        sentence = text.format(where=asked.where, bucket=asked.bucket, permission=permission)
        return kind(_sentence(sentence, refusal), op=asked.op, key=asked.key, request_id=refusal.request_id)

    return make


def _damaged(asked: Asked, refusal: Refusal) -> CkptsyncError:
    return IntegrityError(
        _sentence(f"{asked.where}: the service did not receive what was sent (during {asked.op})", refusal)
    )


def _bad_bucket(asked: Asked, refusal: Refusal) -> CkptsyncError:
    return ConfigError(_sentence(f"{asked.bucket!r} cannot be the name of a bucket", refusal))


def _not_found(asked: Asked, refusal: Refusal) -> CkptsyncError:
    # the JSON API says notFound for both; these verbs name nothing but the bucket
    if refusal.reason == "NoSuchBucket" or asked.op in {"put", "list", "begin", "uploads"}:
        text = "there is no bucket {bucket!r}; make it, or correct the run URL"
    elif refusal.reason == "NoSuchUpload":
        text = "{where}: the upload is gone: finished, aborted or expired"
    else:
        text = "{where} is not there"
    return _store(NotFoundError, text)(asked, refusal)


def _conflict(asked: Asked, refusal: Refusal) -> CkptsyncError:
    text = "something is there already" if asked.op == "put" else "it is no longer the version asked for"
    return _store(ConflictError, f"{{where}}: {text}")(asked, refusal)


def _sentence(text: str, refusal: Refusal) -> str:
    """Our sentence, then the service's."""
    said = f"{refusal.reason}: {refusal.message}" if refusal.reason else refusal.message
    return f"{text}; it answered {refusal.status} {said}".rstrip().rstrip(":")


class _Rule(NamedTuple):
    """One line of the table; the first that fits decides.

    `words` narrows a reason that means several things in the JSON API; empty fits all.
    """

    statuses: tuple[int, ...]
    make: Callable[[Asked, Refusal], CkptsyncError]
    reasons: tuple[str, ...] = ()
    words: str = ""

    def fits(self, refusal: Refusal) -> bool:
        return (
            refusal.status in self.statuses
            and (not self.reasons or refusal.reason in self.reasons)
            and self.words in refusal.message.lower()
        )


_RULES = (
    _Rule((429, 503), _throttled),
    _Rule((403,), _throttled, ("rateLimitExceeded", "userRateLimitExceeded")),
    _Rule((400,), _garbled, ("BadDigest", "CrcMismatch")),
    _Rule((400,), _garbled, ("invalid",), "crc32c"),
    _Rule((400,), _damaged, ("EntityTooSmall", "InvalidPart", "InvalidPartOrder")),
    _Rule((400,), _bad_bucket, ("InvalidBucketName",)),
    _Rule((400,), _bad_bucket, ("invalid",), "bucket name"),
    _Rule((400,), _transient, ("RequestTimeout", "IncompleteBody")),
    _Rule((401,), _store(CredentialsError, "{where}: the credentials were not accepted")),
    _Rule((403,), _store(DeniedError, "{where}: access denied; the credentials need {permission}")),
    _Rule((404,), _not_found),
    _Rule((409,), _transient, ("aborted", "OperationAborted")),
    _Rule((410,), _transient),  # a rewrite token ran out; the next try begins anew
    _Rule((412,), _conflict),
    _Rule((408, 500, 502, 504, *range(505, 600)), _transient),
)


def failure(asked: Asked, refusal: Refusal) -> CkptsyncError:
    """Turn an answer into the error it means."""
    for rule in _RULES:
        if rule.fits(refusal):
            return rule.make(asked, refusal)
    return _store(StoreError, "{where}: the request was refused")(asked, refusal)


def broken(asked: Asked, error: Exception, *, received: int = 0) -> CkptsyncError:
    """Turn a connection that failed into the error it means.

    Args:
        asked: what for.
        error: what requests, urllib3 or the socket raised.
        received: good bytes of a `get` before that.
    """
    if _untrusted(error):
        return StoreError(
            f"{asked.where}: the server's certificate is not trusted; set REQUESTS_CA_BUNDLE if a proxy is in between",
            op=asked.op,
            key=asked.key,
        )
    if isinstance(error, ValueError):  # requests' InvalidURL, InvalidSchema, InvalidProxyURL, InvalidHeader…
        return ConfigError(f"{asked.where}: the endpoint or proxy address cannot be used ({type(error).__name__})")
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException | ConnectionError | TimeoutError):
        return StoreError(f"{asked.where}: the request could not be sent: {error}", op=asked.op, key=asked.key)
    silent = isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError)
    kind = "timed out" if silent else f"broke ({type(error).__name__})"
    return TransientError(f"{asked.where}: the connection {kind}", op=asked.op, key=asked.key, received=received)


def _untrusted(error: BaseException | None) -> bool:
    """Tell whether a certificate was refused, however deep the layers wrapped that."""
    depth = 0
    while error is not None and depth < 8:  # noqa: PLR2004  more than the layers there are; guards against a cycle
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        inner = getattr(error, "reason", None)  # urllib3's MaxRetryError
        error = inner if isinstance(inner, BaseException) else error.__cause__ or error.__context__
        depth += 1
    return False
