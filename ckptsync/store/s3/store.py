"""Amazon S3 and what speaks its protocol, through boto3's low-level client."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

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
from ckptsync.store.base import Buffer, PartTag, Stat, Tag, Upload
from ckptsync.store.s3 import answers

try:
    from ckptsync.store.s3 import errors
    from ckptsync.store.s3.client import UploadBody, is_amazon
    from ckptsync.store.s3.objects import S3Objects
except ModuleNotFoundError as error:
    raise ConfigError("s3:// needs boto3: pip install 'ckptsync[s3]'") from error

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        CompleteMultipartUploadOutputTypeDef,
        CompleteMultipartUploadRequestTypeDef,
        CreateMultipartUploadOutputTypeDef,
        CreateMultipartUploadRequestTypeDef,
        ListMultipartUploadsRequestTypeDef,
        ListPartsRequestTypeDef,
        UploadPartCopyOutputTypeDef,
        UploadPartCopyRequestTypeDef,
        UploadPartOutputTypeDef,
        UploadPartRequestTypeDef,
    )

ABORT_ATTEMPTS = 5
# Amazon takes a copy range only from a source larger than this.
RANGE_COPY_BYTES = 5 << 20
_WRONG_WHOLE = frozenset({"BadDigest", "XAmzContentChecksumMismatch"})


class S3Store(S3Objects):
    """A run in an S3 bucket. Nothing is asked of the service before the first verb.

    Bodies are never copied, and carry a CRC64NVME that is compared with what the service stored. Requests are tried
    once; `Retrying` tries again.
    """

    def begin(self, key: str) -> Upload:
        """Open a multipart upload; see `Store.begin`."""

        def send(checked: bool) -> CreateMultipartUploadOutputTypeDef:  # noqa: FBT001  called by _offer alone
            params: CreateMultipartUploadRequestTypeDef = {"Bucket": self._bucket, "Key": self._base + key}
            if checked:
                params["ChecksumAlgorithm"] = "CRC64NVME"
                params["ChecksumType"] = "FULL_OBJECT"
            return self._connection.call("begin", key, lambda client: client.create_multipart_upload(**params))

        answer = self._offer(send)
        return Upload(key=key, id=answer["UploadId"], begun_s=answers.answered_s(answer))

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        """Send one part; see `Store.put_part`."""
        self._check_number(number)
        crc = answers.crc_of(data) if self._checksums else ""
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
                    sent["ChecksumCRC64NVME"] = answers.as_header(crc)
                return self._connection.call("put_part", upload.key, lambda client: client.upload_part(**sent))

        answer = self._offer(send, upload.id)
        self._compare_echo(answer, crc, "put_part", upload.key)
        return PartTag(
            number=number,
            size=memoryview(data).nbytes,
            tag=answers.tag_of(answer),
            hashes=answers.vouched(answer, md5=self._md5),
        )

    def copy_part(
        self, upload: Upload, number: int, source: str, offset: int, size: int, *, tag: Tag | None = None
    ) -> PartTag:
        """Make a part from a range of another object; see `Store.copy_part`."""
        self._check_number(number)
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

        def send(client: S3Client) -> tuple[UploadPartCopyOutputTypeDef, bool]:
            return client.upload_part_copy(**params), is_amazon(client)

        answer, enforced = self._connection.call("copy_part", upload.key, send)
        if tag and not enforced:
            self._compare_source(source, self.stat(source).tag, tag, "copy_part", upload.key)
        result: Mapping[str, object] = {**answer, **answer["CopyPartResult"]}
        return PartTag(
            number=number, size=size, tag=answers.tag_of(result), hashes=answers.vouched(result, md5=self._md5)
        )

    def _check_number(self, number: int) -> None:
        """Refuse part numbers S3 does not have; some services take them and fail at the end."""
        if not 1 <= number <= self.traits.max_parts:
            raise ConfigError(f"{self.url}: part number {number} is not between 1 and {self.traits.max_parts}")

    def parts(self, upload: Upload) -> dict[int, PartTag]:
        """Parts the service holds for an upload; see `Store.parts`.

        A part's MD5 is told only where no better digest is: under SSE-KMS the ETag it is taken from is none.
        """
        found: dict[int, PartTag] = {}
        params = self._of(upload)
        while True:
            page = self._connection.call("parts", upload.key, lambda client: client.list_parts(**params))
            for item in page.get("Parts", ()):
                number, hashes = item["PartNumber"], answers.vouched(item, md5=self._md5)
                if len(hashes) > 1:
                    del hashes["md5"]
                found[number] = PartTag(number=number, size=item["Size"], tag=answers.tag_of(item), hashes=hashes)
            marker = int(page.get("NextPartNumberMarker") or 0)
            if not page.get("IsTruncated") or marker <= params.get("PartNumberMarker", 0):
                return found
            params["PartNumberMarker"] = marker

    def finish(self, upload: Upload, parts: Iterable[PartTag]) -> Stat:
        """Make the object appear from these parts and compare it with them; see `Store.finish`."""
        ordered = sorted(parts, key=lambda part: part.number)
        size, crc = sum(part.size for part in ordered), answers.combined_crc(ordered)
        params: CompleteMultipartUploadRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._base + upload.key,
            "UploadId": upload.id,
            "MultipartUpload": {"Parts": [{"PartNumber": part.number, "ETag": part.tag} for part in ordered]},
            "MpuObjectSize": size,
        }

        def send(client: S3Client) -> CompleteMultipartUploadOutputTypeDef:
            if crc and is_amazon(client):  # others take the right one for wrong
                params["ChecksumCRC64NVME"] = answers.as_header(crc)
                params["ChecksumType"] = "FULL_OBJECT"
            return client.complete_multipart_upload(**params)

        try:
            answer = self._connection.call("finish", upload.key, send)
        except NotFoundError as error:
            return self._settle(upload, ordered, error)
        except StoreError as error:
            if errors.code_of(error) == "InternalError" and self._is_gone(upload, unseen=False):  # so says Ceph
                return self._settle(upload, ordered, error)
            if errors.code_of(error) in _WRONG_WHOLE or "mp-object-size" in str(error):
                raise IntegrityError(f"{self.url}: {upload.key!r} is not what its parts make: {error}") from error
            raise
        return self._verify(upload.key, answer, ordered, crc)

    def _verify(
        self, key: str, answer: CompleteMultipartUploadOutputTypeDef, parts: Sequence[PartTag], crc: str
    ) -> Stat:
        """Compare the object that has just appeared with what its parts make."""
        stat, size = self.stat(key), sum(part.size for part in parts)
        if (tag := answers.tag_of(answer)) and tag != stat.tag:
            raise ConflictError(f"{self.url}: the object was replaced right after it appeared", op="finish", key=key)
        if stat.size != size:
            raise IntegrityError(f"{self.url}: {key!r} has {stat.size} bytes, its parts had {size}")
        for hashes in (answers.vouched(answer, whole=True), stat.hashes):
            if crc and hashes.get("crc64nvme", crc) != crc:
                raise IntegrityError(f"{self.url}: {key!r} has CRC64NVME {hashes['crc64nvme']}, its parts make {crc}")
        # who finished first may have named other parts, and some services answer the second alike
        etag = answers.multipart_etag(parts)
        if etag and stat.hashes.get("md5-of-parts", etag) != etag:
            raise IntegrityError(f"{self.url}: {key!r} has ETag {stat.tag}, its parts make {etag}")
        return stat

    def _settle(self, upload: Upload, parts: Sequence[PartTag], cause: StoreError) -> Stat:
        """Decide about an upload that is gone: finished by a try whose answer was lost, or aborted."""
        gone = NotFoundError(
            f"{self.url}: the upload is gone and no object made of its parts is there", op="finish", key=upload.key
        )
        try:
            stat = self.stat(upload.key)
        except NotFoundError:
            raise gone from cause
        crc, etag = answers.combined_crc(parts), answers.multipart_etag(parts)
        same = (crc and stat.hashes.get("crc64nvme") == crc) or (etag and stat.tag.strip('"') == etag)
        if not same or stat.size != sum(part.size for part in parts):
            raise gone from cause
        return stat

    def _is_gone(self, upload: Upload, *, unseen: bool) -> bool:
        """Whether the service no longer knows an upload; `unseen` when it may not be asked."""
        params = self._of(upload)
        try:
            self._connection.call("parts", upload.key, lambda client: client.list_parts(**params))
        except NotFoundError:
            return True
        except DeniedError:
            return unseen
        return False

    def _of(self, upload: Upload) -> ListPartsRequestTypeDef:
        """Name an upload."""
        return {"Bucket": self._bucket, "Key": self._base + upload.key, "UploadId": upload.id}

    def abort(self, upload: Upload) -> None:
        """Drop an upload; see `Store.abort`. Asked until no part is left, as parts under way may land behind it.

        Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_AbortMultipartUpload.html
        """

        def drop(client: S3Client) -> None:
            client.abort_multipart_upload(Bucket=self._bucket, Key=self._base + upload.key, UploadId=upload.id)

        for _ in range(ABORT_ATTEMPTS):
            try:
                self._connection.call("abort", upload.key, drop)
            except NotFoundError:
                return
            if self._is_gone(upload, unseen=True):
                return
        raise TransientError(f"{self.url}: parts keep arriving for an aborted upload", op="abort", key=upload.key)

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """Unfinished uploads below a prefix; see `Store.uploads`.

        Keys are asked for as they are, for services disagree on how they encode them and whether they tell. Only where
        one cannot be written in XML are they asked for encoded.
        """
        params: ListMultipartUploadsRequestTypeDef = {"Bucket": self._bucket, "Prefix": self._base + prefix}
        while True:
            try:
                page = self._connection.call("uploads", prefix, lambda client: client.list_multipart_uploads(**params))
            except TransientError as error:
                if "EncodingType" in params or not errors.is_garbled(error):
                    raise
                params["EncodingType"] = "url"
                continue
            decode: Callable[[str], str] = unquote_plus if page.get("EncodingType") == "url" else str
            for item in page.get("Uploads", ()):
                key = decode(item["Key"]).removeprefix(self._base)
                yield Upload(key=key, id=item["UploadId"], begun_s=answers.seconds_of(item.get("Initiated")))
            if not (page.get("IsTruncated") and page.get("NextKeyMarker")):
                return
            marker = decode(page["NextKeyMarker"]), page["NextUploadIdMarker"]
            if marker == (params.get("KeyMarker"), params.get("UploadIdMarker")):
                raise UnsupportedError(f"{self.url}: the service lists a page twice", op="uploads", key=prefix)
            params["KeyMarker"], params["UploadIdMarker"] = marker
