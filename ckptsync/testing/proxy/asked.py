"""What a request asks for, as far as faults care: its words, and the object it changes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote, urlsplit

from ckptsync.testing.proxy.wire import Head

PEEK_BYTES = 4096

_JSON = re.compile(
    r"/(?:(?:resumable/)?upload/|download/)?storage/v1/b/(?P<bucket>[^/?]+)/o(?:/(?P<name>[^/?]+))?(?P<rest>/.*)?$"
)
_REWRITE = re.compile(r"/(?:rewriteTo|copyTo)/b/(?P<bucket>[^/?]+)/o/(?P<name>[^/?]+)$")
_NAME = re.compile(rb'"name"\s*:\s*"(?P<name>(?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Asked:
    """A request.

    Attributes:
        head: start line and header fields, as they came.
        at_s: when, by the proxy's monotonic clock.
        target: path and query, percent-decoded: a slash in a name reads the same to S3 and to Google's JSON API.
        changes: `bucket/name` of the object it creates, replaces or deletes; empty when it changes none, or many at once.
    """

    head: Head
    at_s: float
    target: str = ""
    changes: str = ""

    @property
    def speaks_json(self) -> bool:
        """Whether it is one of Google's JSON API, which also wants its errors in JSON."""
        return _JSON.match(urlsplit(self.head.target).path) is not None


def names_in_body(head: Head) -> bool:
    """Whether the object's name stands in the body, as in a one-request upload of Google's JSON API."""
    return head.method == "POST" and "uploadType=multipart" in head.target and "name=" not in head.target


def changed_object(head: Head, first_bytes: bytes = b"") -> str:
    """Return `bucket/name` of the object a request changes; empty when it changes none.

    A part of an upload changes nothing yet; finishing the upload does.

    Args:
        head: of the request.
        first_bytes: of its body, where `names_in_body`.
    """
    url = urlsplit(head.target)
    query = parse_qs(url.query, keep_blank_values=True)
    if found := _JSON.match(url.path):
        return _changed_by_json(head.method, found, query, first_bytes)
    path = unquote(url.path).lstrip("/")
    bucket, _, name = path.partition("/")
    if not name or "partNumber" in query or "uploads" in query:
        return ""
    finishes = head.method == "POST" and "uploadId" in query
    changes = head.method in {"PUT", "DELETE"} and "uploadId" not in query
    return f"{bucket}/{name}" if finishes or changes else ""


def _changed_by_json(method: str, found: re.Match[str], query: dict[str, list[str]], first_bytes: bytes) -> str:
    """As above, for Google's JSON API."""
    bucket, name, rest = unquote(found["bucket"]), unquote(found["name"] or ""), found["rest"] or ""
    if target := _REWRITE.match(rest):
        return f"{unquote(target['bucket'])}/{unquote(target['name'])}"
    if name:
        return f"{bucket}/{name}" if method in {"DELETE", "PATCH", "PUT"} or rest == "/compose" else ""
    if method != "POST":
        return ""
    if "name" in query:
        return f"{bucket}/{query['name'][0]}"
    told = _NAME.search(first_bytes)
    return f"{bucket}/{told['name'].decode(errors='replace')}" if told else ""
