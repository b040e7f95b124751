"""Bodies, ranges, listings and deletions of S3Store."""

from __future__ import annotations

import pytest
from support.scripted_s3 import ETAG, Answer, Asked, Open, Says, Service, crc, crc_hex, head, refusal

from ckptsync.errors import (
    ConflictError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    StoreError,
    TransientError,
    UnsupportedError,
)
from ckptsync.store.base import Tag, Upload
from ckptsync.store.pace import SLICE_BYTES
from ckptsync.store.s3 import S3Store
from ckptsync.store.s3 import client as s3_client
from ckptsync.store.s3 import lean as s3_lean

UPLOAD = Upload(key="k", id="u")


def test_a_body_is_lent_in_slices_and_nothing_is_kept() -> None:
    memory = bytearray(range(256)) * 32768
    with s3_client.UploadBody(memory) as body:
        assert body.seek(0, 2) == len(memory) == len(body)  # type: ignore[arg-type]
        body.seek(10)
        first = body.read(16)
        assert isinstance(first, memoryview)
        assert (len(first), body.tell()) == (SLICE_BYTES, 10 + SLICE_BYTES)
        assert bytes(first[:3]) == b"\x0a\x0b\x0c"
        assert len(body.read()) == len(memory) - 10 - SLICE_BYTES
        assert not body.read(1)
    memory.append(0)  # fails while anything points into it


@pytest.mark.parametrize("size", [0, 5, s3_lean.SMALL_BODY_BYTES + 1, 3_000_001])
def test_a_body_arrives_whole_unsigned_and_checked(size: int, store: S3Store, service: Service) -> None:
    data = bytes(i * 7 % 251 for i in range(size))
    service.script = [Says(headers={"ETag": ETAG, "x-amz-checksum-crc64nvme": crc(data)})]
    stat = store.put("k", memoryview(data))
    asked = service.asked[0]
    assert asked.body == data
    assert asked.headers["x-amz-content-sha256"] == "UNSIGNED-PAYLOAD"
    assert asked.headers["x-amz-checksum-crc64nvme"] == crc(data)
    assert "x-amz-trailer" not in asked.headers
    assert "transfer-encoding" not in asked.headers
    assert (stat.size, stat.tag, stat.hashes["crc64nvme"]) == (size, ETAG, crc_hex(data))
    assert stat.modified_s > 1e9


def test_memory_is_free_again_after_a_failed_send(store: S3Store, service: Service) -> None:
    service.script = [refusal("SlowDown", 503)]
    memory = bytearray(1 << 20)
    with pytest.raises(TransientError) as caught:
        store.put_part(UPLOAD, 1, memory)
    memory.append(0)
    assert caught.value.throttled


@pytest.mark.req(16)
def test_another_checksum_in_the_answer_is_an_integrity_error(store: S3Store, service: Service) -> None:
    service.script = [Says(headers={"ETag": ETAG, "x-amz-checksum-crc64nvme": crc(b"other")})]
    with pytest.raises(IntegrityError, match="other bytes"):
        store.put_part(UPLOAD, 1, b"part")


def test_a_demanded_checksum_must_be_confirmed(open_s3: Open, service: Service) -> None:
    service.script = [Says(headers={"ETag": ETAG})]
    with pytest.raises(UnsupportedError, match="does not confirm"):
        open_s3(checksum="crc64nvme").put_part(UPLOAD, 1, b"part")
    open_s3(checksum="auto").put_part(UPLOAD, 1, b"part")


def test_checksum_none_sends_none(open_s3: Open, service: Service) -> None:
    service.script = [Says(headers={"ETag": ETAG})]
    store = open_s3(checksum="none")
    store.put("k", b"x")
    store.put_part(UPLOAD, 1, b"x")
    store.stat("k")
    assert not [name for asked in service.asked for name in asked.headers if "checksum" in name]


@pytest.mark.req(22)
def test_auto_gives_checksums_up_once_where_the_service_takes_none(open_s3: Open, service: Service) -> None:
    begun = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"

    def answer(asked: Asked) -> Says:
        if any("checksum" in name for name in asked.headers):
            return refusal("NotImplemented", 501, "A header you provided implies functionality that is missing")
        return Says(200, begun, {"ETag": ETAG})

    service.script = [answer]
    store = open_s3()
    assert store.begin("k").id == "u"
    store.begin("k")
    store.put_part(UPLOAD, 1, b"x")
    assert len(service.asked) == 4
    with pytest.raises(UnsupportedError):
        open_s3(checksum="crc64nvme").begin("k")


def test_an_upload_begun_without_checksums_is_continued_without(store: S3Store, service: Service) -> None:
    def answer(asked: Asked) -> Says:
        if "x-amz-checksum-crc64nvme" in asked.headers and asked.query.get("uploadId") == ["u"]:
            return refusal("InvalidRequest", 400, "Checksum Type mismatch occurred, expected checksum Type: null")
        return Says(headers={"ETag": ETAG})

    service.script = [answer]
    store.put_part(UPLOAD, 1, b"x")
    store.put_part(UPLOAD, 2, b"x")
    store.put_part(Upload(key="k", id="v"), 1, b"x")
    assert ["x-amz-checksum-crc64nvme" in asked.headers for asked in service.asked] == [True, False, False, True]


def test_a_refused_digest_is_never_taken_for_a_refused_parameter(store: S3Store, service: Service) -> None:
    service.script = [refusal("InvalidRequest", 400, "Value for x-amz-checksum-crc64nvme header is invalid.")]
    with pytest.raises(StoreError):
        store.put_part(UPLOAD, 1, b"x")
    assert len(service.asked) == 1


@pytest.mark.req(20)
def test_a_lost_race_is_a_conflict_and_an_undecided_one_is_tried_again(store: S3Store, service: Service) -> None:
    service.script = [refusal("PreconditionFailed", 412)]
    with pytest.raises(ConflictError):
        store.put("k", b"x", if_absent=True)
    assert service.asked[0].headers["if-none-match"] == "*"
    service.script = [refusal("ConditionalRequestConflict", 409)]
    with pytest.raises(TransientError, match="nothing was written"):
        store.put("k", b"x", if_absent=True)
    service.script = [refusal("NotImplemented", 501)]
    with pytest.raises(UnsupportedError):
        store.put("k", b"x", if_absent=True)


def ranged(data: bytes) -> Answer:
    def answer(asked: Asked) -> Says:
        first, last = (int(text) for text in asked.headers["range"].removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        if not part:
            return refusal("InvalidRange", 416)
        return Says(206, part, {"ETag": ETAG, "Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"})

    return answer


def test_get_fills_memory_from_any_offset_over_one_connection(store: S3Store, service: Service) -> None:
    data = bytes(i * 11 % 253 for i in range(700_000))
    service.script = [ranged(data)]
    memory = bytearray(600_000)
    assert store.get("k", memoryview(memory), tag=Tag(ETAG)) == 600_000
    assert memory == data[:600_000]
    assert service.asked[0].headers["if-match"] == ETAG
    assert store.get("k", memoryview(memory), offset=400_000) == 300_000
    assert memory[:300_000] == data[400_000:]
    assert store.get("k", memoryview(memory), offset=700_000) == 0
    assert store.get("k", memoryview(memory)[:0]) == 0
    assert service.connections == 1


@pytest.mark.req(33)
def test_a_body_cut_off_tells_how_much_is_good(store: S3Store, service: Service) -> None:
    data = b"d" * 900_000
    says = ranged(data)(Asked("GET", "", {}, {"range": "bytes=0-899999"}, b""))
    says.cut_at = 600_000
    service.script = [says]
    memory = bytearray(900_000)
    with memoryview(memory) as view, pytest.raises(TransientError) as caught:
        store.get("k", view)
    assert caught.value.received == 600_000
    assert memory.count(b"d") == 600_000
    memory.append(0)
    with pytest.raises(TransientError):
        store.read("k")


@pytest.mark.req(33)
def test_a_service_that_ignores_ranges_cannot_corrupt(store: S3Store, service: Service) -> None:
    service.script = [Says(200, b"0123456789", {"ETag": ETAG})]
    memory = bytearray(4)
    assert store.get("k", memoryview(memory)) == 4
    assert memory == b"0123"
    with pytest.raises(UnsupportedError, match="ignores ranges"):
        store.get("k", memoryview(memory), offset=4)
    service.script = [Says(206, b"2345", {"ETag": ETAG, "Content-Range": "bytes 2-5/10"})]
    with pytest.raises(UnsupportedError):
        store.get("k", memoryview(memory), offset=4)
    service.script = [Says(200, b"4567", {"ETag": ETAG, "Content-Range": "bytes 4-7/10"})]
    assert store.get("k", memoryview(memory), offset=4) == 4
    assert memory == b"4567"


def test_an_encoded_body_is_handed_over_as_it_lies(store: S3Store, service: Service) -> None:
    service.script = [Says(200, b"not really gzip", {"ETag": ETAG, "Content-Encoding": "gzip"})]
    assert store.read("k") == b"not really gzip"


def test_read_asks_once(store: S3Store, service: Service) -> None:
    service.script = [Says(200, b"whole", {"ETag": ETAG})]
    assert store.read("k") == b"whole"
    assert [asked.method for asked in service.asked] == ["GET"]


def test_stat_tells_only_digests_of_all_bytes(store: S3Store, service: Service) -> None:
    told = {"x-amz-checksum-crc64nvme": crc(b"abc")}
    plain = {"md5": ETAG.strip('"')}
    cases: list[tuple[dict[str, str], dict[str, str]]] = [
        ({}, plain),
        ({"x-amz-server-side-encryption": "AES256"}, plain),
        ({"x-amz-server-side-encryption": "aws:kms"}, {}),
        ({"x-amz-server-side-encryption-customer-algorithm": "AES256"}, {}),
        ({"ETag": '"900150983cd24fb0d6963f7d28e17f72-2"'}, {"md5-of-parts": "900150983cd24fb0d6963f7d28e17f72-2"}),
        ({**told, "x-amz-checksum-type": "FULL_OBJECT"}, {**plain, "crc64nvme": crc_hex(b"abc")}),
        ({**told, "x-amz-checksum-type": "COMPOSITE"}, plain),
        ({"x-amz-checksum-crc64nvme": crc(b"abc") + "-2", "x-amz-checksum-type": "FULL_OBJECT"}, plain),
    ]
    for headers, hashes in cases:
        service.script = [head(3, **headers)]
        assert store.stat("k").hashes == hashes
    assert service.asked[0].headers["x-amz-checksum-mode"] == "ENABLED"


@pytest.mark.req(32)
def test_stat_never_takes_denied_for_missing(store: S3Store, service: Service) -> None:
    service.script = [Says(403)]
    with pytest.raises(DeniedError, match="s3:ListBucket"):
        store.stat("k")
    service.script = [Says(404)]
    with pytest.raises(NotFoundError):
        store.stat("k")


def listing(*keys: str, more: str = "") -> Says:
    items = "".join(f"<Contents><Key>{key}</Key><Size>1</Size><ETag>{ETAG}</ETag></Contents>" for key in keys)
    token = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{more}</NextContinuationToken>" if more else ""
    return Says(200, f"<ListBucketResult><EncodingType>url</EncodingType>{token}{items}</ListBucketResult>".encode())


def test_listing_pages_decodes_and_stops(store: S3Store, service: Service) -> None:
    service.script = [listing("run/d/", "run/d/a", "run/d/a+b", more="t"), listing("run/d/c%01%C3%A9", "run/d/z")]
    found = [stat.key for stat in store.list("d/", limit=4, after="d/")]
    assert found == ["d/a", "d/a b", "d/c\x01é", "d/z"]
    first, second = (asked.query for asked in service.asked)
    assert (first["prefix"], first["start-after"], first["max-keys"]) == (["run/d/"], ["run/d/"], ["4"])
    assert (second["continuation-token"], second["max-keys"]) == (["t"], ["2"])
    service.script = [listing("run/d/a", more="t")]
    asked_before = len(service.asked)
    assert len(list(store.list("d/", limit=1))) == 1
    assert not list(store.list("d/", limit=0))
    assert len(service.asked) == asked_before + 1


@pytest.mark.parametrize("page", [listing("run/a", "run/b", more="t"), listing(more="t"), listing("run/b", "run/a")])
def test_a_listing_that_runs_in_circles_or_out_of_order_ends(page: Says, store: S3Store, service: Service) -> None:
    service.script = [page]
    with pytest.raises(UnsupportedError, match="twice"):
        list(store.list(""))
    assert len(service.asked) <= 2


def test_a_missing_bucket_is_named(store: S3Store, service: Service) -> None:
    service.script = [refusal("NoSuchBucket", 404)]
    with pytest.raises(NotFoundError, match="bucket 'bucket' does not exist"):
        list(store.list(""))


@pytest.mark.req(31)
def test_delete_asks_for_a_thousand_at_a_time(store: S3Store, service: Service) -> None:
    service.script = [Says(200, b"<DeleteResult></DeleteResult>")]
    store.delete(f"k{number}" for number in range(2100))
    assert [asked.body.count(b"<Key>") for asked in service.asked] == [1000, 1000, 100]
    assert all(asked.body.count(b"<Quiet>true</Quiet>") == 1 for asked in service.asked)


def test_keys_refused_one_by_one_raise_what_they_mean(store: S3Store, service: Service) -> None:
    def result(code: str) -> Says:
        error = f"<Error><Key>run/a</Key><Code>{code}</Code><Message>no</Message></Error>"
        return Says(200, f"<DeleteResult>{error}</DeleteResult>".encode())

    service.script = [result("AccessDenied")]
    with pytest.raises(DeniedError, match="s3:DeleteObject") as caught:
        store.delete(["a", "b"])
    assert caught.value.key == "a"
    service.script = [result("SlowDown")]
    with pytest.raises(TransientError):
        store.delete(["a", "b"])
    service.script = [result("NoSuchKey")]
    store.delete(["a", "b"])


@pytest.mark.parametrize("code", ["MissingContentMD5", "InvalidRequest", "NotImplemented"])
def test_without_batches_keys_are_deleted_one_by_one(code: str, store: S3Store, service: Service) -> None:
    def answer(asked: Asked) -> Says:
        return refusal(code, 400) if asked.method == "POST" else refusal("NoSuchKey", 404)

    service.script = [answer]
    store.delete(["a", "b"])
    assert [(asked.method, asked.path) for asked in service.asked[1:]] == [
        ("DELETE", "/bucket/run/a"),
        ("DELETE", "/bucket/run/b"),
    ]


def test_keys_that_xml_cannot_hold_are_deleted_one_by_one(store: S3Store, service: Service) -> None:
    service.script = [Says(200, b"<DeleteResult></DeleteResult>"), Says(204)]
    store.delete(["a", "b\x01c"])
    assert [(asked.method, asked.path) for asked in service.asked] == [
        ("POST", "/bucket"),
        ("DELETE", "/bucket/run/b%01c"),
    ]
