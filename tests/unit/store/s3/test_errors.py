"""Every answer and every failure of the SDK has one of our errors."""

from __future__ import annotations

import socket
from collections.abc import Callable
from http.client import IncompleteRead

import botocore.exceptions as sdk
import pytest
from support.scripted_s3 import Open, Says, Service, refusal

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
from ckptsync.store.base import Upload
from ckptsync.store.s3 import S3Store
from ckptsync.store.s3 import errors as s3_errors

UPLOAD = Upload(key="k", id="u")


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("SlowDown", 503, TransientError),
        ("ServiceUnavailable", 503, TransientError),
        ("", 429, TransientError),
        ("ThrottlingException", 400, TransientError),
        ("RequestLimitExceeded", 400, TransientError),
        ("InternalError", 500, TransientError),
        ("InternalError", 200, TransientError),
        ("Whatever", 502, TransientError),
        ("RequestTimeout", 400, TransientError),
        ("BadDigest", 400, TransientError),
        ("XAmzContentChecksumMismatch", 400, TransientError),
        ("ConditionalRequestConflict", 409, TransientError),
        ("OperationAborted", 409, TransientError),
        ("PreconditionFailed", 412, ConflictError),
        ("NoSuchKey", 404, NotFoundError),
        ("NoSuchUpload", 404, NotFoundError),
        ("NoSuchBucket", 404, NotFoundError),
        ("404", 404, NotFoundError),
        ("AccessDenied", 403, DeniedError),
        ("403", 403, DeniedError),
        ("InvalidAccessKeyId", 403, CredentialsError),
        ("SignatureDoesNotMatch", 403, CredentialsError),
        ("ExpiredToken", 400, CredentialsError),
        ("NotImplemented", 501, UnsupportedError),
        ("MethodNotAllowed", 405, UnsupportedError),
        ("XAmzContentSHA256Mismatch", 400, UnsupportedError),
        ("InvalidBucketName", 400, ConfigError),
        ("EntityTooSmall", 400, IntegrityError),
        ("InvalidPart", 400, IntegrityError),
        ("InvalidPartOrder", 400, IntegrityError),
        ("RequestTimeTooSkewed", 403, StoreError),
        ("PermanentRedirect", 301, StoreError),
        ("Whatever", 400, StoreError),
    ],
)
def test_each_answer_has_its_error(code: str, status: int, kind: type[CkptsyncError]) -> None:
    meta = {"HTTPStatusCode": status, "RequestId": "R7", "HTTPHeaders": {}}
    error = sdk.ClientError({"Error": {"Code": code, "Message": "said"}, "ResponseMetadata": meta}, "PutObject")  # type: ignore[typeddict-item]
    found = s3_errors.translate(error, s3_errors.Request("put", "a/b", "bucket"))
    assert type(found) is kind
    assert "put" in str(found)
    assert "a/b" in str(found)
    assert "R7" in str(found)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (sdk.NoCredentialsError(), CredentialsError),
        (sdk.PartialCredentialsError(provider="env", cred_var="x"), CredentialsError),
        (sdk.ProfileNotFound(profile="x"), CredentialsError),
        (sdk.CredentialRetrievalError(provider="process", error_msg="x"), CredentialsError),
        (sdk.UnauthorizedSSOTokenError(), CredentialsError),
        (FileNotFoundError(2, "no token file"), CredentialsError),
        (sdk.EndpointConnectionError(endpoint_url="http://x", error="refused"), TransientError),
        (sdk.ConnectTimeoutError(endpoint_url="http://x"), TransientError),
        (sdk.ReadTimeoutError(endpoint_url="http://x"), TransientError),
        (sdk.ConnectionClosedError(endpoint_url="http://x"), TransientError),
        (sdk.ResponseStreamingError(error="reset"), TransientError),
        (sdk.IncompleteReadError(actual_bytes=1, expected_bytes=2), TransientError),
        (sdk.SSLError(endpoint_url="https://x", error=OSError("EOF occurred")), TransientError),
        (IncompleteRead(b""), TransientError),
        (ConnectionResetError(104, "reset"), TransientError),
        (sdk.SSLError(endpoint_url="https://x", error=OSError("CERTIFICATE_VERIFY_FAILED")), StoreError),
        (sdk.ParamValidationError(report="Invalid bucket name"), ConfigError),
        (sdk.InvalidRegionError(region_name="!"), ConfigError),
        (sdk.ConfigParseError(path="x"), ConfigError),
    ],
)
def test_each_failure_of_the_sdk_has_its_error(error: Exception, kind: type[CkptsyncError]) -> None:
    assert type(s3_errors.translate(error, s3_errors.Request("put", "k", "bucket"))) is kind


@pytest.mark.req(3, 32)
def test_a_denied_verb_names_the_right_it_needs(store: S3Store, service: Service) -> None:
    service.script = [refusal("AccessDenied", 403)]
    verbs: dict[str, Callable[[], object]] = {
        "s3:PutObject on arn:aws:s3:::bucket/*": lambda: store.put("k", b"x"),
        "s3:GetObject on arn:aws:s3:::bucket/*": lambda: store.stat("k"),
        "s3:ListBucket on arn:aws:s3:::bucket": lambda: list(store.list("")),
        "s3:DeleteObject on": lambda: store.delete(["k"]),
        "s3:AbortMultipartUpload on": lambda: store.abort(UPLOAD),
        "s3:ListMultipartUploadParts on": lambda: store.parts(UPLOAD),
        "s3:ListBucketMultipartUploads on arn:aws:s3:::bucket": lambda: list(store.uploads("")),
        "s3:GetObject and s3:PutObject on": lambda: store.copy("a", "k"),
    }
    for right, verb in verbs.items():
        with pytest.raises(DeniedError) as caught:
            verb()
        assert f"need {right}" in str(caught.value)


@pytest.mark.req(19)
def test_throttling_tells_the_pause_asked_for_and_is_tried_once(store: S3Store, service: Service) -> None:
    service.script = [refusal("SlowDown", 503, **{"Retry-After": "7"})]
    with pytest.raises(TransientError) as caught:
        store.put("k", b"x")
    assert (caught.value.throttled, caught.value.retry_after_s, caught.value.request_id) == (True, 7.0, "R1")
    assert len(service.asked) == 1


def test_a_bucket_elsewhere_names_its_region(store: S3Store, service: Service) -> None:
    service.script = [Says(301, b"<Error><Code>PermanentRedirect</Code></Error>", {"x-amz-bucket-region": "eu-west-1"})]
    with pytest.raises(StoreError, match="region eu-west-1"):
        list(store.list(""))


def test_a_host_that_does_not_resolve_is_said_so(open_s3: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(TransientError, match="host name does not resolve"):
        open_s3(endpoint_url="http://nowhere.invalid").stat("k")


def test_an_answer_that_is_not_s3_is_transient(store: S3Store, service: Service) -> None:
    service.script = [Says(200, b"<html><body>please log in<br></html>")]
    with pytest.raises(TransientError, match="cut off"):
        list(store.list(""))
