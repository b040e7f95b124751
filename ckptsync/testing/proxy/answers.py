"""Answers that a service gives when something is wrong, in the words of S3 and of Google.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html and
https://cloud.google.com/storage/docs/json_api/v1/status-codes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from xml.sax.saxutils import escape

from ckptsync.testing.proxy.asked import Asked
from ckptsync.testing.proxy.wire import Head

REQUEST_ID = "INJECTED0001"
_NONE: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer made up by the proxy.

    Attributes:
        status: HTTP status code.
        code: the word S3 and Google's XML API have for it.
        reason: the word of Google's JSON API; `code` when empty.
        message: a sentence.
        headers: besides type and length.
        as_status: sent in place of `status`, as by an S3 that says 200 before it knows better; 0 sends `status`.
    """

    status: int
    code: str
    reason: str = ""
    message: str = "A fault injected by the proxy."
    headers: Mapping[str, str] = field(default_factory=lambda: _NONE)
    as_status: int = 0

    def encode(self, asked: Asked, *, closes: bool) -> tuple[Head, bytes]:
        """Write it in the dialect the request was asked in; an answer to HEAD has no body.

        Args:
            asked: what is answered.
            closes: the connection ends after it.
        """
        body = self._json() if asked.speaks_json else self._xml()
        status = self.as_status or self.status
        known = {item.value: item.phrase for item in HTTPStatus}
        fields = {
            "Content-Type": "application/json" if asked.speaks_json else "application/xml",
            "Content-Length": str(len(body)),
            "x-amz-request-id": REQUEST_ID,
            "x-guploader-uploadid": REQUEST_ID,
            **({"Connection": "close"} if closes else {}),
            **self.headers,
        }
        head = Head(f"HTTP/1.1 {status} {known.get(status, 'Injected')}", tuple(fields.items()))
        return head, b"" if asked.head.method == "HEAD" else body

    def _json(self) -> bytes:
        reason = {"domain": "global", "reason": self.reason or self.code, "message": self.message}
        return json.dumps({"error": {"code": self.status, "message": self.message, "errors": [reason]}}).encode()

    def _xml(self) -> bytes:
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{escape(self.code)}</Code><Message>{escape(self.message)}</Message>"
            f"<RequestId>{REQUEST_ID}</RequestId></Error>"
        ).encode()


def _retry_after(seconds: int | None) -> Mapping[str, str]:
    return {} if seconds is None else {"Retry-After": str(seconds)}


def slow_down(retry_after_s: int | None = None) -> Answer:
    """503 SlowDown: the whole prefix or bucket is asked too often."""
    return Answer(status=503, code="SlowDown", reason="backendError", headers=_retry_after(retry_after_s))


def too_many_requests(retry_after_s: int | None = None) -> Answer:
    """429: too many requests, or too many changes of one object."""
    headers = _retry_after(retry_after_s)
    return Answer(status=429, code="TooManyRequests", reason="rateLimitExceeded", headers=headers)


def internal_error() -> Answer:
    """500: whether the request had an effect is not told."""
    return Answer(status=500, code="InternalError", reason="internalError")


def error_in_200() -> Answer:
    """200 with an error for a body, as CompleteMultipartUpload gives when it fails after it began to answer.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html
    """
    return Answer(status=500, code="InternalError", reason="internalError", as_status=200)


def conditional_request_conflict() -> Answer:
    """409: two conditional requests raced; this one wrote nothing and may be repeated.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
    """
    return Answer(status=409, code="ConditionalRequestConflict", reason="aborted")


def precondition_failed() -> Answer:
    """412: something is there already, or it is not the version asked for."""
    return Answer(status=412, code="PreconditionFailed", reason="conditionNotMet")


def expired_token() -> Answer:
    """400 ExpiredToken of S3: the credentials have run out."""
    return Answer(status=400, code="ExpiredToken", message="The provided token has expired.")


def unauthorized() -> Answer:
    """401 of Google: the access token has run out, or was never good."""
    return Answer(status=401, code="AuthenticationRequired", reason="authError", message="Invalid Credentials")


def denied() -> Answer:
    """403: the credentials are good and lack a right."""
    return Answer(status=403, code="AccessDenied", reason="forbidden", message="Access Denied")


def no_such_upload() -> Answer:
    """404: the multipart upload was finished or aborted."""
    return Answer(status=404, code="NoSuchUpload", reason="notFound", message="The upload does not exist.")


def invalid_part() -> Answer:
    """400: a part that shall be put together is not there, or is another one by now."""
    return Answer(status=400, code="InvalidPart", reason="invalid")
