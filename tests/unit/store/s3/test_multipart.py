"""Multipart uploads of S3Store."""

from __future__ import annotations

import hashlib

import pytest
from support.scripted_s3 import ETAG, Answer, Asked, Says, Service, crc, crc_hex, head, refusal

from ckptsync.errors import (
    ConfigError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    TransientError,
    UnsupportedError,
)
from ckptsync.store.base import PartTag, Tag, Upload
from ckptsync.store.s3 import S3Store
from ckptsync.store.s3 import objects as s3_objects
from ckptsync.store.s3 import store as s3

UPLOAD = Upload(key="k", id="u")


def part(number: int, data: bytes, **hashes: str) -> PartTag:
    tag = Tag(f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"')
    return PartTag(number=number, size=len(data), tag=tag, hashes=hashes)


A, B = b"a" * 10, b"b" * 5
PARTS = [part(2, B, crc64nvme=crc_hex(B)), part(1, A, crc64nvme=crc_hex(A))]
WHOLE = A + B
TOGETHER = hashlib.md5(
    b"".join(hashlib.md5(data, usedforsecurity=False).digest() for data in (A, B)), usedforsecurity=False
).hexdigest()
MULTIPART_ETAG = f'"{TOGETHER}-2"'


def completed(etag: str = MULTIPART_ETAG, extra: str = "") -> Says:
    body = f"<CompleteMultipartUploadResult><ETag>{etag}</ETag>{extra}</CompleteMultipartUploadResult>"
    return Says(200, body.encode())


def test_finish_names_every_part_in_order_and_compares(store: S3Store, service: Service) -> None:
    full = {"x-amz-checksum-crc64nvme": crc(WHOLE), "x-amz-checksum-type": "FULL_OBJECT"}
    service.script = [completed(), head(15, ETag=MULTIPART_ETAG, **full)]
    stat = store.finish(UPLOAD, PARTS)
    assert (stat.size, stat.tag) == (15, MULTIPART_ETAG)
    assert stat.hashes == {"crc64nvme": crc_hex(WHOLE), "md5-of-parts": MULTIPART_ETAG.strip('"')}
    asked = service.asked[0]
    assert asked.body.index(b"<PartNumber>1<") < asked.body.index(b"<PartNumber>2<")
    assert asked.headers["x-amz-mp-object-size"] == "15"
    assert "x-amz-checksum-crc64nvme" not in asked.headers


def test_finish_takes_an_empty_etag_from_the_object(store: S3Store, service: Service) -> None:
    service.script = [completed(""), head(15, ETag=MULTIPART_ETAG)]
    assert store.finish(UPLOAD, PARTS).tag == MULTIPART_ETAG


def test_only_amazon_is_sent_the_whole_checksum(
    store: S3Store, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "is_amazon", lambda _: True)
    service.script = [completed(), head(15, ETag=MULTIPART_ETAG)]
    store.finish(UPLOAD, PARTS)
    assert service.asked[0].headers["x-amz-checksum-crc64nvme"] == crc(WHOLE)
    assert service.asked[0].headers["x-amz-checksum-type"] == "FULL_OBJECT"
    service.script = [refusal("BadDigest", 400)]
    with pytest.raises(IntegrityError, match="not what its parts make"):
        store.finish(UPLOAD, PARTS)


@pytest.mark.req(16)
@pytest.mark.parametrize(
    "script",
    [
        [completed(), head(14, ETag=MULTIPART_ETAG)],
        [
            completed(),
            head(
                15,
                ETag=MULTIPART_ETAG,
                **{"x-amz-checksum-crc64nvme": crc(b"x"), "x-amz-checksum-type": "FULL_OBJECT"},
            ),
        ],
        [
            completed(
                extra=f"<ChecksumCRC64NVME>{crc(b'x')}</ChecksumCRC64NVME><ChecksumType>FULL_OBJECT</ChecksumType>"
            ),
            head(15, ETag=MULTIPART_ETAG),
        ],
        [refusal("EntityTooSmall", 400)],
        [refusal("InvalidPart", 400)],
        [refusal("InvalidRequest", 400, "The provided 'x-amz-mp-object-size' header value 15 does not match")],
    ],
    ids=["size", "checksum", "checksum in the answer", "small", "part", "size refused"],
)
def test_an_object_that_is_not_its_parts_is_an_integrity_error(
    script: list[Says | Answer], store: S3Store, service: Service
) -> None:
    service.script = script
    with pytest.raises(IntegrityError):
        store.finish(UPLOAD, PARTS)


@pytest.mark.req(29)
def test_an_error_inside_a_200_is_seen(store: S3Store, service: Service) -> None:
    service.script = [refusal("InternalError", 200), Says(200, b"<ListPartsResult></ListPartsResult>")]
    with pytest.raises(TransientError):
        store.finish(UPLOAD, PARTS)
    service.script = [refusal("SlowDown", 200)]
    with pytest.raises(TransientError) as caught:
        store.copy("a", "k")
    assert caught.value.throttled


@pytest.mark.req(29)
@pytest.mark.parametrize("lost", [refusal("NoSuchUpload", 404), refusal("InternalError", 500)])
def test_a_lost_answer_to_finish_is_settled_by_the_object(lost: Says, store: S3Store, service: Service) -> None:
    def script(found: Says) -> Answer:
        def answer(asked: Asked) -> Says:
            return {"POST": lost, "GET": refusal("NoSuchUpload", 404), "HEAD": found}[asked.method]

        return answer

    full = {"x-amz-checksum-crc64nvme": crc(WHOLE), "x-amz-checksum-type": "FULL_OBJECT"}
    for same in (head(15, ETag=MULTIPART_ETAG), head(15, ETag='"other-2"', **full)):
        service.script = [script(same)]
        assert store.finish(UPLOAD, PARTS).size == 15
    for other in (Says(404), head(15, ETag='"other-2"'), head(14, ETag=MULTIPART_ETAG)):
        service.script = [script(other)]
        with pytest.raises(NotFoundError, match="the upload is gone"):
            store.finish(UPLOAD, PARTS)


@pytest.mark.req(7)
def test_parts_come_from_all_pages(store: S3Store, service: Service) -> None:
    def page(number: int, *, more: bool) -> Says:
        extra = f"<ChecksumCRC64NVME>{crc(A)}</ChecksumCRC64NVME>" if number == 1 else ""
        row = f"<Part><PartNumber>{number}</PartNumber><Size>5</Size><ETag>{ETAG}</ETag>{extra}</Part>"
        head_ = f"<IsTruncated>{str(more).lower()}</IsTruncated><NextPartNumberMarker>{number}</NextPartNumberMarker>"
        return Says(200, f"<ListPartsResult>{head_}{row}</ListPartsResult>".encode())

    service.script = [page(1, more=True), page(7, more=False)]
    found = store.parts(UPLOAD)
    assert list(found) == [1, 7]
    assert found[1].hashes == {"crc64nvme": crc_hex(A)}
    assert found[7].hashes == {"md5": ETAG.strip('"')}
    assert service.asked[1].query["part-number-marker"] == ["1"]


def test_a_small_source_is_copied_without_a_range(store: S3Store, service: Service) -> None:
    result = Says(200, f"<CopyPartResult><ETag>{ETAG}</ETag></CopyPartResult>".encode())

    def answer(asked: Asked) -> Says:
        return head(100) if asked.method == "HEAD" else result

    service.script = [answer]
    store.copy_part(UPLOAD, 1, "a b", 0, 100, tag=Tag(ETAG))
    store.copy_part(UPLOAD, 1, "a b", 0, 99)
    store.copy_part(UPLOAD, 1, "a b", 10, 6 << 20)
    puts = [asked.headers for asked in service.asked if asked.method == "PUT"]
    assert [headers.get("x-amz-copy-source-range") for headers in puts] == [None, "bytes=0-98", "bytes=10-6291465"]
    assert puts[0]["x-amz-copy-source"] == "bucket/run/a%20b"
    assert puts[0]["x-amz-copy-source-if-match"] == ETAG


@pytest.mark.parametrize("amazon", [True, False])
def test_a_service_that_ignores_the_condition_of_a_copy_is_found_out(
    amazon: bool,  # noqa: FBT001  a parameter of the test
    store: S3Store,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(s3, "is_amazon", lambda _: amazon)
    monkeypatch.setattr(s3_objects, "is_amazon", lambda _: amazon)
    copied = Says(200, f"<CopyPartResult><ETag>{ETAG}</ETag></CopyPartResult>".encode())
    service.script = [lambda asked: head(6 << 20) if asked.method == "HEAD" else copied]
    for tag in (ETAG, ETAG.strip('"')):
        store.copy("source", "k", tag=Tag(tag))
        store.copy_part(UPLOAD, 1, "source", 0, 6 << 20, tag=Tag(tag))
    if amazon:  # it enforces the condition
        store.copy("source", "k", tag=Tag('"older"'))
        store.copy_part(UPLOAD, 1, "source", 0, 6 << 20, tag=Tag('"older"'))
        return
    service.asked.clear()
    with pytest.raises(ConflictError, match="no longer the version"):
        store.copy("source", "k", tag=Tag('"older"'))
    assert [asked.method for asked in service.asked] == ["HEAD"]
    service.script = [head(6 << 20), copied, head(6 << 20, ETag='"newer"')]
    with pytest.raises(ConflictError, match="no longer the version"):
        store.copy("source", "k", tag=Tag(ETAG))
    service.script = [copied, head(6 << 20)]
    with pytest.raises(ConflictError, match="no longer the version"):
        store.copy_part(UPLOAD, 1, "source", 1, 6 << 20, tag=Tag('"older"'))


@pytest.mark.parametrize("number", [0, 10_001])
def test_part_numbers_that_are_none_are_refused(number: int, store: S3Store, service: Service) -> None:
    with pytest.raises(ConfigError):
        store.put_part(UPLOAD, number, b"x")
    with pytest.raises(ConfigError):
        store.copy_part(UPLOAD, number, "source", 0, 1)
    assert not service.asked


@pytest.mark.req(30)
def test_abort_is_repeated_until_no_part_is_left(store: S3Store, service: Service) -> None:
    left = Says(200, b"<ListPartsResult></ListPartsResult>")
    service.script = [Says(204), left, Says(204), refusal("NoSuchUpload", 404)]
    store.abort(UPLOAD)
    assert [asked.method for asked in service.asked] == ["DELETE", "GET", "DELETE", "GET"]
    service.script = [refusal("NoSuchUpload", 404)]
    store.abort(UPLOAD)
    service.script = [Says(204), refusal("AccessDenied", 403)]
    store.abort(UPLOAD)
    service.script = [lambda asked: left if asked.method == "GET" else Says(204)]
    with pytest.raises(TransientError, match="parts keep arriving"):
        store.abort(UPLOAD)


def test_uploads_come_from_all_pages_and_are_asked_encoded_only_where_they_must(
    store: S3Store, service: Service
) -> None:
    def page(key: str, *, more: bool = False, encoded: bool = False) -> Says:
        markers = f"<IsTruncated>true</IsTruncated><NextKeyMarker>{key}</NextKeyMarker><NextUploadIdMarker>i</NextUploadIdMarker>"
        kind = "<EncodingType>url</EncodingType>" if encoded else ""
        row = f"<Upload><Key>{key}</Key><UploadId>i</UploadId><Initiated>2026-01-02T03:04:05.000Z</Initiated></Upload>"
        text = f"<ListMultipartUploadsResult>{kind}{markers if more else ''}{row}</ListMultipartUploadsResult>"
        return Says(200, text.encode())

    service.script = [page("run/a+b%20c", more=True), page("run/&#1;"), page("run/d%01+e", encoded=True)]
    found = list(store.uploads("a"))
    assert [upload.key for upload in found] == ["a+b%20c", "d\x01 e"]
    assert found[0].begun_s == 1767323045.0
    assert service.asked[0].query["prefix"] == ["run/a"]
    assert service.asked[2].query["key-marker"] == ["run/a+b%20c"]
    assert service.asked[2].query["encoding-type"] == ["url"]


def test_uploads_that_run_in_circles_end(store: S3Store, service: Service) -> None:
    marker = (
        "<IsTruncated>true</IsTruncated><NextKeyMarker>run/a</NextKeyMarker><NextUploadIdMarker>i</NextUploadIdMarker>"
    )
    service.script = [Says(200, f"<ListMultipartUploadsResult>{marker}</ListMultipartUploadsResult>".encode())]
    with pytest.raises(UnsupportedError, match="twice"):
        list(store.uploads(""))
