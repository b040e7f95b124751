"""The requests that carry payload, past the SDK's models, events, endpoint rules and, over open connections, its HTTP session.

A small object costs a fifth of the CPU so. Every other request, and all of them where the SDK would do something of its own
(directory buckets, access points, buckets of another region), goes through the client itself.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import SplitResult, quote, urlencode, urlsplit

import urllib3
from botocore.awsrequest import AWSPreparedRequest, AWSResponse, HeadersDict
from botocore.compat import HTTPHeaders
from botocore.exceptions import ClientError, NoCredentialsError
from botocore.parsers import create_parser

from ckptsync.store.exchange import exchange
from ckptsync.store.s3.sigv4 import Signer

if TYPE_CHECKING:
    from botocore.credentials import Credentials
    from mypy_boto3_s3 import S3Client

# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_PLAIN_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}")
_SAFE = "/~"  # as the SDK encodes keys, and S3 wants them signed
_SOME_KEY = "k"
_PORTS = {"http": 80, "https": 443}
SMALL_BODY_BYTES = 256 << 10
"""Bodies up to this are sent without asking the service whether it wants them."""
_ASK_S = 300.0
"""After a refusal every thread asks for so long: a service that is short of capacity is not sent what it will refuse."""
_FIELDS = {
    "etag": "ETag",
    "content-range": "ContentRange",
    "x-amz-checksum-crc64nvme": "ChecksumCRC64NVME",
    "x-amz-checksum-type": "ChecksumType",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-customer-algorithm": "SSECustomerAlgorithm",
}
"""What is read of an answer's headers, by the name the SDK gives it."""
_parser: Any = create_parser("rest-xml")


class LeanClient:
    """A client of one bucket that sends payload the short way; everything else of it is the SDK's.

    The answers of its own methods hold what this package reads, under the SDK's names.
    """

    def __init__(self, client: Any, credentials: Credentials | None, base_url: str) -> None:
        """Wrap a client. `base_url` is what keys are appended to; `lean` finds it."""
        self._client = client
        self._credentials = credentials
        self._base_url = base_url
        where = urlsplit(base_url)
        self._origin, self._path = f"{where.scheme}://{where.netloc}", where.path
        self._signer = Signer(_host(where), client.meta.region_name)
        self._session = client._endpoint.http_session  # noqa: SLF001  its pools, proxies, certificates
        manager = getattr(self._session, "_manager", None)
        self._pool = manager and manager.connection_from_url(base_url)  # behind a proxy it never has any idle
        self._welcome = threading.local()
        self._asks_until_s = 0.0
        self._elsewhere = False  # the SDK has found the bucket in another region, and remembers that by itself

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def put_object(self, *, Key: str, Body: Any, **params: Any) -> Mapping[str, Any]:  # noqa: N803  the SDK's names
        """As the SDK's."""
        headers = {"If-None-Match": params.get("IfNoneMatch"), **_checksum(params)}
        return self._send("PutObject", Key, headers=headers, body=Body, params=params)

    def upload_part(self, *, Key: str, Body: Any, **params: Any) -> Mapping[str, Any]:  # noqa: N803  the SDK's names
        """As the SDK's."""
        query = {"partNumber": params["PartNumber"], "uploadId": params["UploadId"]}
        return self._send("UploadPart", Key, query=query, headers=_checksum(params), body=Body, params=params)

    def get_object(self, *, Key: str, **params: Any) -> Mapping[str, Any]:  # noqa: N803  the SDK's names
        """As the SDK's; `Body` is a response of urllib3."""
        headers = {"Range": params.get("Range"), "If-Match": params.get("IfMatch")}
        return self._send("GetObject", Key, headers=headers, params=params)

    def head_object(self, *, Key: str, **params: Any) -> Mapping[str, Any]:  # noqa: N803  the SDK's names
        """As the SDK's."""
        headers = {"x-amz-checksum-mode": params.get("ChecksumMode")}
        return self._send("HeadObject", Key, headers=headers, params=params)

    def _send(
        self,
        operation: str,
        key: str,
        *,
        headers: Mapping[str, str | None],
        params: Mapping[str, Any],
        query: Mapping[str, object] | None = None,
        body: Any = None,
    ) -> Mapping[str, Any]:
        """Send one request; through the SDK when the bucket is elsewhere."""
        if not self._elsewhere:
            answer = self._asked(operation, key, headers, query or {}, body)
            if answer.status < HTTPStatus.MULTIPLE_CHOICES:
                return _read(answer, streamed=operation == "GetObject")
            refusal = _refusal(answer)
            if not _may_be_elsewhere(refusal):
                raise ClientError(refusal, operation)
        if hasattr(body, "seek"):
            body.seek(0)
        sent = params if body is None else {**params, "Body": body}
        method = {"PutObject": "put_object", "UploadPart": "upload_part", "GetObject": "get_object"}.get(operation)
        found: Mapping[str, Any] = getattr(self._client, method or "head_object")(Key=key, **sent)
        self._elsewhere = True
        return found

    def _asked(
        self, operation: str, key: str, headers: Mapping[str, str | None], query: Mapping[str, object], body: Any
    ) -> Any:
        """Sign and send, once; the answer's content is still on the connection."""
        if self._credentials is None:
            raise NoCredentialsError
        method = {"GetObject": "GET", "HeadObject": "HEAD"}.get(operation, "PUT")
        path, asked = self._path + quote(key, safe=_SAFE), urlencode(query, quote_via=quote) if query else ""
        target = f"{path}?{asked}" if asked else path
        wanted = {name: value for name, value in headers.items() if value}
        frozen = self._credentials.get_frozen_credentials()
        wanted = self._signer.signed(frozen, method, path, asked, wanted)
        wanted["User-Agent"] = self._client.meta.config.user_agent
        if body is not None:
            wanted["Content-Length"] = str(len(body))
        if body is not None and len(body) > SMALL_BODY_BYTES:
            return self._offered(method, target, wanted, body)
        if self._pool is not None:
            whole = b"" if body is None else body.read()
            if (answer := exchange(self._pool, method, target, wanted, whole)) is not None:
                return answer
        return self._connected(method, target, wanted, body)

    def _offered(self, method: str, target: str, headers: Mapping[str, str | bytes], body: Any) -> Any:
        """Send a large body; without asking first, which takes a round trip, where bodies of this thread are taken."""
        if not getattr(self._welcome, "known", False) or time.monotonic() < self._asks_until_s:
            headers = {**headers, "Expect": b"100-continue"}
        taken = False
        try:
            answer = self._connected(method, target, headers, body)
            taken = answer.status < HTTPStatus.MULTIPLE_CHOICES
        finally:
            self._welcome.known = taken
            if not taken:
                self._asks_until_s = time.monotonic() + _ASK_S
        return answer

    def _connected(self, method: str, target: str, headers: Mapping[str, str | bytes], body: Any) -> Any:
        """Send through the SDK's session, which connects where no connection is idle."""
        if body is not None:
            body.seek(0)
        ready: Any = HeadersDict(headers)
        request = AWSPreparedRequest(method, self._origin + target, ready, body, stream_output=True)
        return self._session.send(request).raw


def lean(client: S3Client, credentials: Credentials | None, bucket: str) -> S3Client:
    """Return a client that sends payload the short way; `client` itself where that is not the SDK's plain way.

    Args:
        client: of the SDK.
        credentials: that it signs with.
        bucket: the one that requests will be about.
    """
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    plain = _PLAIN_BUCKET.fullmatch(bucket) and not bucket.endswith("--x-s3")
    if session is None or not plain or getattr(client.meta.config, "signature_version", "") != "s3v4":
        return client
    return cast("S3Client", LeanClient(client, credentials, _address(client, bucket).removesuffix(_SOME_KEY)))


def _address(client: S3Client, bucket: str) -> str:
    """Where the SDK would look for an object named `_SOME_KEY`. Asks nobody.

    A presigned URL would not tell: those the SDK makes for the service's global address.
    """
    urls: list[str] = []

    def answer(request: AWSPreparedRequest, **_: object) -> AWSResponse:
        urls.append(request.url)
        return AWSResponse(
            request.url, HTTPStatus.OK, HTTPHeaders(), urllib3.HTTPResponse(BytesIO(), preload_content=False)
        )

    events: Any = client.meta.events
    events.register_first("before-send.s3.HeadObject", answer)
    client.head_object(Bucket=bucket, Key=_SOME_KEY)
    events.unregister("before-send.s3.HeadObject", answer)
    return urls[0]


def _host(where: SplitResult) -> str:
    """The host as it is sent and signed: with the port where that is not the scheme's own."""
    name = where.hostname or ""
    bracketed = f"[{name}]" if ":" in name else name
    return bracketed if where.port in {None, _PORTS.get(where.scheme)} else f"{bracketed}:{where.port}"


def _checksum(params: Mapping[str, Any]) -> dict[str, str | None]:
    """The header of a body's checksum."""
    return {"x-amz-checksum-crc64nvme": params.get("ChecksumCRC64NVME")}


def _read(answer: Any, *, streamed: bool) -> dict[str, Any]:
    """Put an answer under the names the SDK has for it."""
    headers = {name.lower(): value for name, value in answer.headers.items()}
    found: dict[str, Any] = {_FIELDS[name]: value for name, value in headers.items() if name in _FIELDS}
    if (length := headers.get("content-length", "")).isdecimal():
        found["ContentLength"] = int(length)
    with suppress(ValueError):
        found["LastModified"] = parsedate_to_datetime(headers.get("last-modified", ""))
    if streamed:
        found["Body"] = answer
    else:
        _content(answer)
    found["ResponseMetadata"] = {"HTTPStatusCode": answer.status, "HTTPHeaders": headers}
    return found


def _content(answer: Any) -> bytes:
    """Read what is left of an answer, and give its connection back."""
    try:
        content: bytes = answer.read()
    except BaseException:
        answer.close()
        raise
    answer.release_conn()
    return content


def _refusal(answer: Any) -> Any:
    """What the service says of an error, as the SDK reads it."""
    return _parser.parse({"status_code": answer.status, "headers": answer.headers, "body": _content(answer)}, None)


def _may_be_elsewhere(refusal: Any) -> bool:
    """Whether the SDK might find the bucket in another region.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    """
    code, status = refusal["Error"].get("Code"), refusal["ResponseMetadata"]["HTTPStatusCode"]
    moved = {
        "PermanentRedirect",
        "TemporaryRedirect",
        "AuthorizationHeaderMalformed",
        "IllegalLocationConstraintException",
    }
    return code in moved or status in {HTTPStatus.MOVED_PERMANENTLY, HTTPStatus.TEMPORARY_REDIRECT} or code == "400"
