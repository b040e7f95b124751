"""Amazon S3 and what speaks its protocol, through boto3's low-level client."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote_plus

from ckptsync.config import S3, Http
from ckptsync.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    StoreError,
    TransientError,
    UnsupportedError,
)
from ckptsync.store import s3_digests
from ckptsync.store.base import Buffer, PartTag, Stat, Store, Tag, Traits, Upload

try:
    from ckptsync.store import s3_errors
    from ckptsync.store.s3_client import Connection, UploadBody, is_amazon
except ImportError as error:
    raise ConfigError("s3:// needs boto3: pip install 'ckptsync[s3]'") from error
if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        AbortMultipartUploadRequestTypeDef,
        CompleteMultipartUploadOutputTypeDef,
        CompleteMultipartUploadRequestTypeDef,
        CopyObjectRequestTypeDef,
        CreateMultipartUploadOutputTypeDef,
        CreateMultipartUploadRequestTypeDef,
        GetObjectOutputTypeDef,
        GetObjectRequestTypeDef,
        HeadObjectRequestTypeDef,
        ListMultipartUploadsRequestTypeDef,
        ListObjectsV2RequestTypeDef,
        ListPartsRequestTypeDef,
        ObjectIdentifierTypeDef,
        PutObjectOutputTypeDef,
        PutObjectRequestTypeDef,
        UploadPartCopyRequestTypeDef,
        UploadPartOutputTypeDef,
        UploadPartRequestTypeDef,
    )

_log = logging.getLogger("ckptsync")
T = TypeVar("T")
Answer = Mapping[str, object]

# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
TRAITS = Traits(min_part_bytes=5 << 20, max_part_bytes=5 << 30, max_parts=10_000, max_put_bytes=5 << 30)
PAGE = 1000
ABORT_ATTEMPTS = 5
# Below this a copy is cheaper than the pause in which the service is asked whether it wants the body at all.
SMALL_BODY_BYTES = 256 << 10
# Amazon takes a copy range only from a source larger than this.
RANGE_COPY_BYTES = 5 << 20

_RANGE = re.compile(r"bytes (\d+)-")
_NO_BATCHES = frozenset({"MissingContentMD5", "InvalidRequest", "NotImplemented", "MethodNotAllowed", "MalformedXML"})
_WRONG_WHOLE = frozenset({"BadDigest", "XAmzContentChecksumMismatch"})


class S3Store(Store):
    """A run in an S3 bucket. Nothing is asked of the service before the first verb.

    Bodies are never copied, and carry a CRC64NVME that is compared with what the service stored. Requests are tried
    once; `Retrying` tries again.
    """

    def __init__(self, bucket: str, prefix: str, options: S3, http: Http, *, connections: int) -> None:
        """Keep the settings.

        Args:
            bucket: its name.
            prefix: what all keys are below, without slashes at its ends; may be empty.
            options: of the service.
            http: time limits.
            connections: requests that may be under way at once.

        Raises:
            ConfigError: checksums are demanded and the library for them is not installed.
        """
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.traits = TRAITS
        self._bucket = bucket
        self._base = f"{prefix}/" if prefix else ""
        self._strict = options.checksum == "crc64nvme"
        self._checksums = options.checksum != "none" and s3_digests.AVAILABLE
        self._md5 = not bucket.endswith("--x-s3")  # ETags of directory buckets are random
        self._unchecked: set[str] = set()  # uploads that were begun without checksums
        self._connection = Connection(bucket, options, http, connections=connections)
        if not s3_digests.AVAILABLE and self._strict:
            raise ConfigError("checksum=crc64nvme needs awscrt: pip install 'ckptsync[s3]'")
        if not s3_digests.AVAILABLE and options.checksum == "auto":
            _log.debug("%s: parts are sent without checksums because awscrt is not installed", self.url)

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        """Create or replace an object in one request; see `Store.put`."""
        size = memoryview(data).nbytes
        crc = s3_digests.crc_of(data) if self._checksums else ""
        params: PutObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._base + key}
        if if_absent:
            params["IfNoneMatch"] = "*"

        def send(checked: bool) -> PutObjectOutputTypeDef:  # noqa: FBT001  called by _offer alone
            with UploadBody(data) as body:
                sent: PutObjectRequestTypeDef = {**params, "Body": bytes(data) if size <= SMALL_BODY_BYTES else body}
                if checked:
                    sent["ChecksumCRC64NVME"] = s3_digests.as_header(crc)
                return self._connection.call("put", key, lambda client: client.put_object(**sent))

        answer = self._offer(send)
        self._compare_echo(answer, crc, "put", key)
        return Stat(
            key=key,
            size=size,
            tag=_tag(answer),
            modified_s=_answered_s(answer),
            hashes=s3_digests.vouched(answer, md5=self._md5),
        )

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        """Read bytes straight into the caller's memory; see `Store.get`."""
        into = into.cast("B")
        if not into:
            return 0
        params: GetObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._base + key,
            "Range": f"bytes={offset}-{offset + len(into) - 1}",
        }
        if tag:
            params["IfMatch"] = tag
        try:
            answer = self._connection.call("get", key, lambda client: client.get_object(**params))
        except StoreError as error:
            if s3_errors.code_of(error) in {"InvalidRange", "416"}:
                return 0
            raise
        if _first_byte(answer, offset) != offset:
            answer["Body"].close()
            raise UnsupportedError(f"{self.url}: the service ignores ranges", op="get", key=key)
        return self._receive("get", key, answer, into)

    def read(self, key: str) -> bytes:
        """Return a small object whole, in one request; see `Store.read`."""
        params: GetObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._base + key}
        answer = self._connection.call("read", key, lambda client: client.get_object(**params))
        content = bytearray(answer["ContentLength"])
        self._receive("read", key, answer, memoryview(content))
        return bytes(content)

    def stat(self, key: str) -> Stat:
        """Tell size, tag and hashes of one object; see `Store.stat`."""
        params: HeadObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._base + key}
        if self._checksums:
            params["ChecksumMode"] = "ENABLED"
        answer = self._connection.call("stat", key, lambda client: client.head_object(**params))
        return Stat(
            key=key,
            size=answer["ContentLength"],
            tag=_tag(answer),
            modified_s=_seconds(answer.get("LastModified")),
            hashes=s3_digests.vouched(answer, whole=True, md5=self._md5),
        )

    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        """Objects below a prefix; see `Store.list`. The SDK asks for encoded keys by itself and decodes them."""
        left = limit
        params: ListObjectsV2RequestTypeDef = {"Bucket": self._bucket, "Prefix": self._base + prefix}
        if after:
            params["StartAfter"] = self._base + after
        while left is None or left > 0:
            params["MaxKeys"] = PAGE if left is None else min(left, PAGE)
            page = self._connection.call("list", prefix, lambda client: client.list_objects_v2(**params))
            for item in page.get("Contents", ()):
                key = item["Key"].removeprefix(self._base)
                if not key or key <= after:
                    continue
                yield Stat(key=key, size=item["Size"], tag=_tag(item), modified_s=_seconds(item.get("LastModified")))
                if left is not None and (left := left - 1) <= 0:
                    return
            if not (page.get("IsTruncated") and page.get("NextContinuationToken")):
                return
            params["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand at a time; see `Store.delete`."""
        pending = iter(keys)
        while batch := [*islice(pending, PAGE)]:
            try:
                self._delete_batch(batch)
            except StoreError as error:
                if s3_errors.code_of(error) not in _NO_BATCHES:
                    raise
                for key in batch:
                    self._delete_one(key)

    def _delete_batch(self, batch: Sequence[str]) -> None:
        """Delete up to a thousand objects in one request."""
        named = batch[0] if len(batch) == 1 else ""
        objects: list[ObjectIdentifierTypeDef] = [{"Key": self._base + key} for key in batch]
        answer = self._connection.call(
            "delete",
            named,
            lambda client: client.delete_objects(Bucket=self._bucket, Delete={"Objects": objects, "Quiet": True}),
        )
        for refused in answer.get("Errors", ()):
            if (code := refused.get("Code", "")) != "NoSuchKey":
                request = s3_errors.Request("delete", refused.get("Key", "").removeprefix(self._base), self._bucket)
                raise s3_errors.refused_key(code, refused.get("Message", ""), request)

    def _delete_one(self, key: str) -> None:
        """Delete one object."""
        try:
            self._connection.call(
                "delete", key, lambda client: client.delete_object(Bucket=self._bucket, Key=self._base + key)
            )
        except NotFoundError as error:
            if s3_errors.code_of(error) == "NoSuchBucket":
                raise

    def copy(self, source: str, key: str, *, tag: Tag | None = None) -> Stat:
        """Duplicate a whole object on the server; see `Store.copy`."""
        params: CopyObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._base + key,
            "CopySource": {"Bucket": self._bucket, "Key": self._base + source},
        }
        if tag:
            params["CopySourceIfMatch"] = tag
        self._connection.call("copy", key, lambda client: client.copy_object(**params))
        return self.stat(key)

    def begin(self, key: str) -> Upload:
        """Open a multipart upload; see `Store.begin`."""

        def send(checked: bool) -> CreateMultipartUploadOutputTypeDef:  # noqa: FBT001  called by _offer alone
            params: CreateMultipartUploadRequestTypeDef = {"Bucket": self._bucket, "Key": self._base + key}
            if checked:
                params["ChecksumAlgorithm"] = "CRC64NVME"
                params["ChecksumType"] = "FULL_OBJECT"
            return self._connection.call("begin", key, lambda client: client.create_multipart_upload(**params))

        answer = self._offer(send)
        return Upload(key=key, id=answer["UploadId"], begun_s=_answered_s(answer))

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        """Send one part; see `Store.put_part`."""
        crc = s3_digests.crc_of(data) if self._checksums else ""
        params: UploadPartRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._base + upload.key,
            "UploadId": upload.id,
            "PartNumber": number,
        }

        def send(checked: bool) -> UploadPartOutputTypeDef:  # noqa: FBT001  called by _offer alone
            with UploadBody(data) as body:
                sent: UploadPartRequestTypeDef = {**params, "Body": body}
                if checked:
                    sent["ChecksumCRC64NVME"] = s3_digests.as_header(crc)
                return self._connection.call("put_part", upload.key, lambda client: client.upload_part(**sent))

        answer = self._offer(send, upload.id)
        self._compare_echo(answer, crc, "put_part", upload.key)
        return PartTag(
            number=number,
            size=memoryview(data).nbytes,
            tag=_tag(answer),
            hashes=s3_digests.vouched(answer, md5=self._md5),
        )

    def copy_part(
        self, upload: Upload, number: int, source: str, offset: int, size: int, *, tag: Tag | None = None
    ) -> PartTag:
        """Make a part from a range of another object; see `Store.copy_part`."""
        params: UploadPartCopyRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._base + upload.key,
            "UploadId": upload.id,
            "PartNumber": number,
            "CopySource": {"Bucket": self._bucket, "Key": self._base + source},
        }
        if tag:
            params["CopySourceIfMatch"] = tag
        if offset or size > RANGE_COPY_BYTES or self.stat(source).size != size:
            params["CopySourceRange"] = f"bytes={offset}-{offset + size - 1}"
        answer = self._connection.call("copy_part", upload.key, lambda client: client.upload_part_copy(**params))
        result: Answer = {**answer, **answer["CopyPartResult"]}
        return PartTag(number=number, size=size, tag=_tag(result), hashes=s3_digests.vouched(result, md5=self._md5))

    def parts(self, upload: Upload) -> dict[int, PartTag]:
        """Parts the service holds for an upload; see `Store.parts`.

        A part's MD5 is told only where no better digest is: under SSE-KMS the ETag it is taken from is none.
        """
        found: dict[int, PartTag] = {}
        params: ListPartsRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._base + upload.key,
            "UploadId": upload.id,
        }
        while True:
            page = self._connection.call("parts", upload.key, lambda client: client.list_parts(**params))
            for item in page.get("Parts", ()):
                number, hashes = item["PartNumber"], s3_digests.vouched(item, md5=self._md5)
                if len(hashes) > 1:
                    del hashes["md5"]
                found[number] = PartTag(number=number, size=item["Size"], tag=_tag(item), hashes=hashes)
            marker = int(page.get("NextPartNumberMarker") or 0)
            if not page.get("IsTruncated") or marker <= params.get("PartNumberMarker", 0):
                return found
            params["PartNumberMarker"] = marker

    def finish(self, upload: Upload, parts: Iterable[PartTag]) -> Stat:
        """Make the object appear from these parts and compare it with them; see `Store.finish`."""
        ordered = sorted(parts, key=lambda part: part.number)
        size, crc = sum(part.size for part in ordered), s3_digests.combined_crc(ordered)
        params: CompleteMultipartUploadRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._base + upload.key,
            "UploadId": upload.id,
            "MultipartUpload": {"Parts": [{"PartNumber": part.number, "ETag": part.tag} for part in ordered]},
            "MpuObjectSize": size,
        }

        def send(client: S3Client) -> CompleteMultipartUploadOutputTypeDef:
            if crc and is_amazon(client):  # others take the right one for wrong
                params["ChecksumCRC64NVME"] = s3_digests.as_header(crc)
                params["ChecksumType"] = "FULL_OBJECT"
            return client.complete_multipart_upload(**params)

        try:
            answer = self._connection.call("finish", upload.key, send)
        except NotFoundError as gone:
            return self._settle(upload, ordered, gone)
        except StoreError as error:
            if s3_errors.code_of(error) in _WRONG_WHOLE or "mp-object-size" in str(error):
                raise IntegrityError(f"{self.url}: {upload.key!r} is not what its parts make: {error}") from error
            raise
        stat = self.stat(upload.key)
        if (told := _tag(answer)) and told.strip('"') != stat.tag.strip('"'):
            raise ConflictError(
                f"{self.url}: the object was replaced right after it appeared", op="finish", key=upload.key
            )
        if stat.size != size:
            raise IntegrityError(f"{self.url}: {upload.key!r} has {stat.size} bytes, its parts had {size}")
        for hashes in (s3_digests.vouched(answer, whole=True, md5=self._md5), stat.hashes):
            if crc and hashes.get("crc64nvme", crc) != crc:
                raise IntegrityError(
                    f"{self.url}: {upload.key!r} has CRC64NVME {hashes['crc64nvme']}, its parts make {crc}"
                )
        return stat

    def _settle(self, upload: Upload, parts: Sequence[PartTag], gone: NotFoundError) -> Stat:
        """Decide about an upload that is gone: finished by a try whose answer was lost, or aborted."""
        try:
            stat = self.stat(upload.key)
        except NotFoundError:
            raise gone from None
        crc = s3_digests.combined_crc(parts)
        same_crc = crc and stat.hashes.get("crc64nvme") == crc
        same_etag = (etag := s3_digests.multipart_etag(parts)) and stat.tag.strip('"') == etag
        if (same_crc or same_etag) and stat.size == sum(part.size for part in parts):
            return stat
        raise gone

    def abort(self, upload: Upload) -> None:
        """Drop an upload; see `Store.abort`. Asked until no part is left, as parts under way may land behind it.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
        """
        at: AbortMultipartUploadRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._base + upload.key,
            "UploadId": upload.id,
        }
        for _ in range(ABORT_ATTEMPTS):
            try:
                self._connection.call("abort", upload.key, lambda client: client.abort_multipart_upload(**at))
                self._connection.call("parts", upload.key, lambda client: client.list_parts(**at))
            except NotFoundError:
                return
            except DeniedError as error:
                if error.op == "parts":
                    return
                raise
        raise TransientError(f"{self.url}: parts keep arriving for an aborted upload", op="abort", key=upload.key)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Unfinished uploads below a prefix; see `Store.uploads`."""
        params: ListMultipartUploadsRequestTypeDef = {
            "Bucket": self._bucket,
            "Prefix": self._base + prefix,
            "EncodingType": "url",
        }
        while True:
            page = self._connection.call("uploads", prefix, lambda client: client.list_multipart_uploads(**params))
            decode: Callable[[str], str] = unquote_plus if page.get("EncodingType") == "url" else str
            for item in page.get("Uploads", ()):
                key = decode(item["Key"]).removeprefix(self._base)
                yield Upload(key=key, id=item["UploadId"], begun_s=_seconds(item.get("Initiated")))
            if not (page.get("IsTruncated") and page.get("NextKeyMarker")):
                return
            params["KeyMarker"] = decode(page["NextKeyMarker"])
            params["UploadIdMarker"] = page["NextUploadIdMarker"]

    def close(self) -> None:
        """Let go of connections. Safe to call again."""
        self._connection.close()

    def _receive(self, op: str, key: str, answer: GetObjectOutputTypeDef, into: memoryview) -> int:
        """Fill `into` from an answer's body as far as it goes."""
        wanted = min(len(into), answer["ContentLength"])
        count = self._connection.receive(op, key, answer["Body"], into[:wanted])
        if count < wanted:
            raise TransientError(
                f"{self.url}: the body ended after {count} of {wanted} bytes", op=op, key=key, received=count
            )
        return count

    def _offer(self, send: Callable[[bool], T], upload_id: str = "") -> T:
        """Send with a checksum, and again without where `auto` meets a service or an upload that takes none."""
        if not self._checksums or upload_id in self._unchecked:
            return send(False)
        try:
            return send(True)
        except StoreError as error:
            if self._strict or not s3_errors.refuses_checksum(error):
                raise
        answer = send(False)
        if upload_id:
            self._unchecked.add(upload_id)
        else:
            self._checksums = False
            _log.debug("%s: the service takes no checksums; parts are sent without", self.url)
        return answer

    def _compare_echo(self, answer: Answer, crc: str, op: str, key: str) -> None:
        """Compare the checksum the service tells of a body with the one that was sent."""
        told = s3_digests.crc_told(answer)
        if crc and told and told != crc:
            raise IntegrityError(
                f"{self.url}: the service received other bytes than were sent: CRC64NVME {told}, not {crc} "
                f"(during {op}, key {key!r})"
            )
        if crc and self._strict and not told:
            raise UnsupportedError(
                f"{self.url}: the service does not confirm CRC64NVME; set checksum to auto or none", op=op, key=key
            )


def _tag(answer: Answer) -> Tag:
    """Return an answer's ETag, in the quotes it came with."""
    return Tag(str(answer.get("ETag") or ""))


def _seconds(moment: object) -> float:
    """Turn a service's time into seconds since the epoch."""
    return moment.timestamp() if isinstance(moment, datetime) else 0.0


def _answered_s(answer: Answer) -> float:
    """Return when the service answered, by its own clock; 0.0 when it does not tell."""
    meta = answer.get("ResponseMetadata")
    headers = meta.get("HTTPHeaders") if isinstance(meta, Mapping) else None
    date = headers.get("date") if isinstance(headers, Mapping) else None
    try:
        return parsedate_to_datetime(str(date)).timestamp()
    except ValueError:
        return 0.0


def _first_byte(answer: GetObjectOutputTypeDef, asked: int) -> int:
    """Return where in the object a body begins: some services send all of it, or a range under status 200."""
    if found := _RANGE.match(str(answer.get("ContentRange") or "")):
        return int(found[1])
    partial = answer["ResponseMetadata"]["HTTPStatusCode"] == 206  # noqa: PLR2004  Partial Content
    return asked if partial else 0
