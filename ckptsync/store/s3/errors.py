"""What S3 and its SDK may answer, and which of our errors that is: the one table."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException

import botocore.exceptions as sdk
import urllib3.exceptions
from boto3.exceptions import Boto3Error
from botocore.parsers import ResponseParserError

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
    UnsupportedError,
)

SDK_ERRORS = (
    sdk.BotoCoreError,
    sdk.ClientError,
    Boto3Error,
    ResponseParserError,
    urllib3.exceptions.HTTPError,
    HTTPException,
    OSError,
)
"""Everything the SDK and the network below it raise."""

# Source: https://docs.aws.amazon.com/service-authorization/latest/reference/list_amazons3.html
ACTIONS = {
    "put": "s3:PutObject",
    "get": "s3:GetObject",
    "read": "s3:GetObject",
    "stat": "s3:GetObject",
    "list": "s3:ListBucket",
    "delete": "s3:DeleteObject",
    "copy": "s3:GetObject and s3:PutObject",
    "begin": "s3:PutObject",
    "put_part": "s3:PutObject",
    "copy_part": "s3:GetObject and s3:PutObject",
    "parts": "s3:ListMultipartUploadParts",
    "finish": "s3:PutObject",
    "abort": "s3:AbortMultipartUpload",
    "uploads": "s3:ListBucketMultipartUploads",
}
_ON_BUCKET = frozenset({"list", "uploads"})


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, for messages: the verb, the key relative to the run, the bucket."""

    op: str
    key: str
    bucket: str


@dataclass(frozen=True, slots=True)
class _Rule:
    """Which error, and what to tell; `{said}` is the service's own sentence, `{action}` the right needed."""

    error: type[CkptsyncError]
    tells: str
    throttled: bool = False


_BUSY = _Rule(TransientError, "the service asks for a slower pace: {said}", throttled=True)
_FAILED = _Rule(TransientError, "the service failed, or its answer was cut off: {said}")
_GARBLED = _Rule(TransientError, "the body was damaged or cut on its way to the service, nothing was stored: {said}")
_RACING = _Rule(TransientError, "another request is changing the same object, nothing was written: {said}")
_ABSENT = _Rule(NotFoundError, "not there: {said}")
_TAKEN = _Rule(ConflictError, "the object is not in the state asked for: {said}")
_DENIED = _Rule(DeniedError, "access denied: the credentials need {action}{hint}; the service says: {said}")
_BAD_KEYS = _Rule(CredentialsError, "the service does not accept the credentials: {said}")
_EXPIRED = _Rule(CredentialsError, "the credentials have expired and reading them afresh did not help: {said}")
_UNSUPPORTED = _Rule(UnsupportedError, "the service does not support this request: {said}")
_BAD_NAME = _Rule(ConfigError, "the bucket, key or an option cannot be used: {said}")
_BAD_PARTS = _Rule(IntegrityError, "the service does not hold the parts that were sent: {said}")
_ELSEWHERE = _Rule(StoreError, "the bucket is in {region}; set the region option to it")
_SKEWED = _Rule(StoreError, "this machine's clock is more than 15 minutes off the service's; set it right: {said}")
_UNSIGNED = _Rule(UnsupportedError, "the service refuses bodies without a signed digest (UNSIGNED-PAYLOAD): {said}")
_OTHER = _Rule(StoreError, "the service refused: {said}")

_STALE = "ExpiredToken ExpiredTokenException RequestExpired TokenRefreshRequired InvalidToken InvalidClientTokenId"

# Source: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_BY_CODE: Mapping[str, _Rule] = {
    code: rule
    for rule, codes in (
        (
            _BUSY,
            """SlowDown ServiceUnavailable Throttling ThrottlingException ThrottledException RequestThrottled
            RequestThrottledException RequestLimitExceeded TooManyRequests TooManyRequestsException
            BandwidthLimitExceeded ProvisionedThroughputExceededException LimitExceededException Busy""",
        ),
        (_FAILED, "InternalError InternalFailure RequestTimeout RequestTimeoutException"),
        (_GARBLED, "BadDigest XAmzContentChecksumMismatch IncompleteBody"),
        (_RACING, "ConditionalRequestConflict OperationAborted"),
        (_ABSENT, "NoSuchKey NoSuchUpload NoSuchVersion NotFound"),
        (_Rule(NotFoundError, "bucket {bucket!r} does not exist"), "NoSuchBucket"),
        (_TAKEN, "PreconditionFailed"),
        (_DENIED, "AccessDenied AccessDeniedException Forbidden AllAccessDisabled UnauthorizedAccess"),
        (_BAD_KEYS, "InvalidAccessKeyId SignatureDoesNotMatch AuthFailure UnrecognizedClientException InvalidSecurity"),
        (_EXPIRED, _STALE),
        (_UNSUPPORTED, "NotImplemented MethodNotAllowed"),
        (_BAD_NAME, "InvalidBucketName KeyTooLongError InvalidURI"),
        (_BAD_PARTS, "InvalidPart InvalidPartOrder EntityTooSmall"),
        (_ELSEWHERE, "PermanentRedirect AuthorizationHeaderMalformed IllegalLocationConstraintException Redirect"),
        (_SKEWED, "RequestTimeTooSkewed"),
        (_UNSIGNED, "XAmzContentSHA256Mismatch"),
        (_Rule(StoreError, "the object is archived; restore it first: {said}"), "InvalidObjectState"),
        (_Rule(StoreError, "the range lies outside the object: {said}"), "InvalidRange"),
    )
    for code in codes.split()
}
_SERVER_ERRORS = 500
_BY_STATUS: Mapping[int, _Rule] = {
    301: _ELSEWHERE,
    307: _ELSEWHERE,
    401: _BAD_KEYS,
    403: _DENIED,
    404: _ABSENT,
    405: _UNSUPPORTED,
    408: _FAILED,
    409: _OTHER,
    412: _TAKEN,
    429: _BUSY,
    501: _UNSUPPORTED,
    503: _BUSY,
}

_NO_CREDENTIALS = _Rule(CredentialsError, "no usable credentials: {said}")
_BAD_SETTING = _Rule(ConfigError, "the SDK cannot use its settings: {said}")
_NO_CONNECTION = _Rule(TransientError, "the connection failed: {said}")
_NO_HOST = _Rule(TransientError, "the service's host name does not resolve; check endpoint_url and region: {said}")
_NO_TRUST = _Rule(StoreError, "the service's TLS certificate cannot be verified: {said}")
_NO_SENSE = _Rule(TransientError, "the answer is cut off or not S3's: {said}")

# The first fitting row counts.
_BY_EXCEPTION: tuple[tuple[_Rule, tuple[type[BaseException], ...]], ...] = (
    (_EXPIRED, (sdk.CredentialRetrievalError, sdk.MetadataRetrievalError)),
    (
        _NO_CREDENTIALS,
        (
            sdk.NoCredentialsError,
            sdk.PartialCredentialsError,
            sdk.ProfileNotFound,
            sdk.NoAuthTokenError,
            sdk.TokenRetrievalError,
            sdk.UnknownCredentialError,
            sdk.RefreshWithMFAUnsupportedError,
            sdk.SSOError,
        ),
    ),
    (
        _NO_CONNECTION,
        (
            sdk.ConnectionError,
            sdk.HTTPClientError,
            urllib3.exceptions.TimeoutError,
            urllib3.exceptions.ProtocolError,
            HTTPException,
        ),
    ),
    (_NO_SENSE, (ResponseParserError, sdk.IncompleteReadError, sdk.ChecksumError, sdk.FlexibleChecksumError)),
    (_BAD_SETTING, (sdk.BotoCoreError, Boto3Error, urllib3.exceptions.HTTPError)),
    # Files the chain of credential providers reads, such as a web identity token.
    (_NO_CREDENTIALS, (FileNotFoundError, PermissionError, IsADirectoryError)),
    (_NO_CONNECTION, (OSError,)),
)
_OF_NO_USE = re.compile(r"\?[^\s\"]*(?=\")|\b\w+\(host=[^)]*\): ")
"""A request's query, and the object that stands for a connection."""
_UNRESOLVED = re.compile(
    r"failed to resolve|name or service not known|name resolution|nodename nor servname", re.IGNORECASE
)
_UNTRUSTED = re.compile(r"certificate.verify.failed|certificate verify failed|hostname mismatch", re.IGNORECASE)
_CHECKSUM_REFUSED = re.compile(
    r"unsupported|not supported|not implemented|not support|mismatch occurred|unknown", re.IGNORECASE
)


def translate(error: Exception, request: Request) -> CkptsyncError:
    """Return our error for one of `SDK_ERRORS`; raise it `from` that."""
    if isinstance(error, sdk.ClientError):
        return _from_answer(error, request)
    inner = getattr(error, "kwargs", {}).get("error", "")  # the SDK leaves why it could not connect out of its sentence
    said = " ".join(f"{error} {'' if str(inner) in str(error) else inner}".split()) or type(error).__name__
    said = _OF_NO_USE.sub("", said)
    if isinstance(error, sdk.ConnectionError | sdk.HTTPClientError):
        if _UNRESOLVED.search(said):
            return _make(_NO_HOST, request, said=said)
        if _UNTRUSTED.search(said):
            return _make(_NO_TRUST, request, said=said)
    rule = next((rule for rule, kinds in _BY_EXCEPTION if isinstance(error, kinds)), _OTHER)
    return _make(rule, request, said=said)


def refused_key(code: str, said: str, request: Request) -> CkptsyncError:
    """Return our error for one key of a request about many."""
    return _make(_BY_CODE.get(code, _FAILED), request, said=_sentence(code, said, 200))


def is_stale(error: Exception) -> bool:
    """Whether reading the credentials afresh may help."""
    if isinstance(error, sdk.ClientError):
        return _rule(code_of(error), 0, error.operation_name) is _EXPIRED
    return isinstance(error, sdk.CredentialRetrievalError | sdk.MetadataRetrievalError)


def code_of(error: BaseException | None) -> str:
    """Return the service's code of an SDK error, or of the SDK error one of ours was raised from; empty when none."""
    if isinstance(error, CkptsyncError):
        error = error.__cause__
    return str(error.response.get("Error", {}).get("Code", "")) if isinstance(error, sdk.ClientError) else ""


def is_garbled(error: TransientError) -> bool:
    """Whether an answer came that is no XML."""
    # What the SDK cannot parse below a status of 200 it reports as a 500, with the status for a code.
    return isinstance(error.__cause__, ResponseParserError) or code_of(error) == "500"


def refuses_checksum(error: CkptsyncError) -> bool:
    """Whether a request failed for its checksum parameters as such, and not because the bytes did not match."""
    code = code_of(error)
    if code in {"InvalidRequest", "InvalidArgument"}:
        said = str(error)
        return "checksum" in said.lower() and bool(_CHECKSUM_REFUSED.search(said))
    return code == "NotImplemented"


def _rule(code: str, status: int, operation: str) -> _Rule:
    """Look an answer up. An answer to HEAD has no body: the SDK puts its status where the code should be."""
    if code == "400" and operation == "HeadObject":
        return _EXPIRED  # all that S3 says to HEAD with an expired token
    return _BY_CODE.get(code) or _BY_STATUS.get(status) or (_FAILED if status >= _SERVER_ERRORS else _OTHER)


def _from_answer(error: sdk.ClientError, request: Request) -> CkptsyncError:
    """Map an error the service answered."""
    answer = error.response.get("Error", {})
    meta = error.response.get("ResponseMetadata", {})
    code, status = str(answer.get("Code", "")), int(meta.get("HTTPStatusCode", 0))
    headers = meta.get("HTTPHeaders", {})
    region = str(answer.get("Region") or headers.get("x-amz-bucket-region") or "")
    return _make(
        _rule(code, status, error.operation_name),
        request,
        said=_sentence(code, str(answer.get("Message") or ""), status),
        region=f"region {region}" if region else "another region",
        request_id=str(meta.get("RequestId") or headers.get("x-amz-request-id") or ""),
        retry_after_s=_seconds(headers.get("retry-after")),
    )


def _make(
    rule: _Rule,
    request: Request,
    *,
    said: str,
    region: str = "another region",
    request_id: str = "",
    retry_after_s: float | None = None,
) -> CkptsyncError:
    """Build the error a rule asks for."""
    resource = f"arn:aws:s3:::{request.bucket}" + ("" if request.op in _ON_BUCKET else "/*")
    sentence = f"s3://{request.bucket}: " + rule.tells.format(
        said=said,
        action=f"{ACTIONS.get(request.op, 's3:*')} on {resource}",
        hint=_hint(request, said),
        region=region,
        bucket=request.bucket,
    )
    if not issubclass(rule.error, StoreError):
        return rule.error(str(StoreError(sentence, op=request.op, key=request.key, request_id=request_id)))
    if issubclass(rule.error, TransientError):
        return TransientError(
            sentence,
            op=request.op,
            key=request.key,
            request_id=request_id,
            throttled=rule.throttled,
            retry_after_s=retry_after_s,
        )
    return rule.error(sentence, op=request.op, key=request.key, request_id=request_id)


def _hint(request: Request, said: str) -> str:
    """What else may be missing when access is denied."""
    if "kms" in said.lower():
        return ", and kms:GenerateDataKey and kms:Decrypt on the bucket's key"
    if request.op in {"stat", "get", "read"}:
        return " (or the object is missing, which S3 tells only to those with s3:ListBucket on the bucket)"
    return ""


def _sentence(code: str, message: str, status: int) -> str:
    """Put what the service said into one line."""
    text = " ".join(message.split())
    return f"{code}: {text}" if text and code and not code.isdigit() else f"{text or code} (HTTP {status})".strip()


def _seconds(value: object) -> float | None:
    """Read a Retry-After header in seconds; its other form, a date, is left alone."""
    try:
        return max(0.0, float(str(value)))
    except ValueError:
        return None
