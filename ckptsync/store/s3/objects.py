"""Whole objects in an S3 bucket: the verbs that are one request each."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

from ckptsync.errors import (
    ConfigError,
    ConflictError,
    IntegrityError,
    NotFoundError,
    StoreError,
    TransientError,
    UnsupportedError,
)
from ckptsync.options import S3, Http
from ckptsync.store.bandwidth import Bandwidth
from ckptsync.store.base import Buffer, Stat, Store, Tag, Traits
from ckptsync.store.pace import Pace
from ckptsync.store.s3 import answers, errors
from ckptsync.store.s3.client import Connection, UploadBody, is_amazon

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import (
        CopyObjectRequestTypeDef,
        GetObjectOutputTypeDef,
        GetObjectRequestTypeDef,
        HeadObjectRequestTypeDef,
        ListObjectsV2RequestTypeDef,
        ObjectIdentifierTypeDef,
        PutObjectOutputTypeDef,
        PutObjectRequestTypeDef,
    )

_log = logging.getLogger("ckptsync")
T = TypeVar("T")

# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html
TRAITS = Traits(min_part_bytes=5 << 20, max_part_bytes=5 << 30, max_parts=10_000, max_put_bytes=5 << 30)
PAGE = 1000

# Source: https://www.w3.org/TR/xml/#charsets
_NOT_IN_XML = re.compile("[\x00-\x08\x0b-\x1f\ufffe\uffff]")
_NO_BATCHES = frozenset({"MissingContentMD5", "InvalidRequest", "NotImplemented", "MethodNotAllowed", "MalformedXML"})


class S3Objects(Store):
    """The verbs over whole objects, and what every verb shares."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        options: S3,
        http: Http,
        *,
        connections: int,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        """Keep the settings.

        Args:
            bucket: its name.
            prefix: what all keys are below, without slashes at its ends; may be empty.
            options: of the service.
            http: time limits.
            connections: requests that may be under way at once.
            bandwidth: caps what bodies bring and take; None for no cap.

        Raises:
            ConfigError: checksums are demanded and the library for them is not installed.
        """
        self.url = f"s3://{bucket}/{prefix}".rstrip("/")
        self.traits = TRAITS
        self._bucket = bucket
        self._base = f"{prefix}/" if prefix else ""
        self._strict = options.checksum == "crc64nvme"
        self._checksums = options.checksum != "none" and answers.AVAILABLE
        self._md5 = not bucket.endswith("--x-s3")  # ETags of directory buckets are random
        self._unchecked: set[str] = set()  # uploads that were begun without checksums
        self._connection = Connection(bucket, options, http, connections=connections, pace=Pace.of(http, bandwidth))
        if not answers.AVAILABLE and self._strict:
            raise ConfigError("checksum=crc64nvme needs awscrt: pip install 'ckptsync[s3]'")
        if not answers.AVAILABLE and options.checksum == "auto":
            _log.debug("%s: parts are sent without checksums because awscrt is not installed", self.url)

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        """Create or replace an object in one request; see `Store.put`."""
        size = memoryview(data).nbytes
        crc = answers.crc_of(data) if self._checksums else ""
        params: PutObjectRequestTypeDef = {"Bucket": self._bucket, "Key": self._base + key}
        if if_absent:
            params["IfNoneMatch"] = "*"

        def send(checked: bool) -> PutObjectOutputTypeDef:  # noqa: FBT001  called by _offer alone
            with UploadBody(data) as body:
                sent: PutObjectRequestTypeDef = {**params, "Body": body}
                if checked:
                    sent["ChecksumCRC64NVME"] = answers.as_header(crc)
                return self._connection.call("put", key, lambda client: client.put_object(**sent))

        answer = self._offer(send)
        self._compare_echo(answer, crc, "put", key)
        return Stat(
            key=key,
            size=size,
            tag=answers.tag_of(answer),
            modified_s=answers.answered_s(answer),
            hashes=answers.vouched(answer, md5=self._md5),
        )

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        """Read bytes straight into the caller's memory; see `Store.get`."""
        if not into.nbytes:
            return 0
        params: GetObjectRequestTypeDef = {
            "Bucket": self._bucket,
            "Key": self._base + key,
            "Range": f"bytes={offset}-{offset + into.nbytes - 1}",
        }
        if tag:
            params["IfMatch"] = tag
        try:
            answer = self._connection.call("get", key, lambda client: client.get_object(**params))
        except StoreError as error:
            if errors.code_of(error) in {"InvalidRange", "416"}:
                return 0
            raise
        if answers.first_byte(answer, offset) != offset:
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
            tag=answers.tag_of(answer),
            modified_s=answers.seconds_of(answer.get("LastModified")),
            hashes=answers.vouched(answer, whole=True, md5=self._md5),
        )

    def vouches(self, hashes: Mapping[str, str], chunks: Iterable[Buffer]) -> bool:
        """Tell whether CRC64NVME or MD5 prove that the service holds these bytes; see `Store.vouches`."""
        if answers.AVAILABLE and (crc := hashes.get("crc64nvme")):
            return answers.same_crc(crc, chunks)
        return super().vouches(hashes, chunks)

    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        """Objects below a prefix; see `Store.list`. The SDK asks for encoded keys by itself and decodes them."""
        left, last = limit, after
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
                if key <= last:
                    raise UnsupportedError(
                        f"{self.url}: the service lists keys out of order or twice", op="list", key=prefix
                    )
                yield Stat(
                    key=key,
                    size=item["Size"],
                    tag=answers.tag_of(item),
                    modified_s=answers.seconds_of(item.get("LastModified")),
                )
                last = key
                if left is not None and (left := left - 1) <= 0:
                    return
            if not (page.get("IsTruncated") and (token := page.get("NextContinuationToken"))):
                return
            if token == params.get("ContinuationToken"):
                raise UnsupportedError(f"{self.url}: the service lists a page twice", op="list", key=prefix)
            params["ContinuationToken"] = token

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, a thousand at a time; see `Store.delete`."""
        pending = iter(keys)
        while batch := [*islice(pending, PAGE)]:
            unwritable = [key for key in batch if _NOT_IN_XML.search(key)]
            writable = [key for key in batch if not _NOT_IN_XML.search(key)]
            try:
                if writable:
                    self._delete_batch(writable)
            except StoreError as error:
                if errors.code_of(error) not in _NO_BATCHES:
                    raise
                unwritable = batch
            for key in unwritable:
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
                request = errors.Request("delete", refused.get("Key", "").removeprefix(self._base), self._bucket)
                raise errors.refused_key(code, refused.get("Message", ""), request)

    def _delete_one(self, key: str) -> None:
        """Delete one object."""
        try:
            self._connection.call(
                "delete", key, lambda client: client.delete_object(Bucket=self._bucket, Key=self._base + key)
            )
        except NotFoundError as error:
            if errors.code_of(error) == "NoSuchBucket":
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

        def send(client: S3Client) -> bool:
            enforced = is_amazon(client)
            if tag and not enforced:  # nothing shall appear that was made of another version
                head = client.head_object(Bucket=self._bucket, Key=self._base + source)
                self._compare_source(source, answers.tag_of(head), tag, "copy", key)
            client.copy_object(**params)
            return enforced

        if not self._connection.call("copy", key, send) and tag:
            self._compare_source(source, self.stat(source).tag, tag, "copy", key)
        return self.stat(key)

    def _compare_source(self, source: str, found: Tag, wanted: Tag, op: str, key: str) -> None:
        """See that a copy is made of the version asked for: some services take the condition and ignore it.

        A source that is unchanged after a copy was unchanged during it.
        """
        if found.strip('"') != wanted.strip('"'):
            raise ConflictError(f"{self.url}: {source!r} is no longer the version to be copied", op=op, key=key)

    def close(self) -> None:
        """Let go of connections. Safe to call again."""
        self._connection.close()

    def _receive(self, op: str, key: str, answer: GetObjectOutputTypeDef, into: memoryview) -> int:
        """Fill `into` from an answer's body as far as it goes."""
        wanted = answers.length(answer, into.nbytes)
        with into.cast("B") as view, view[:wanted] as window:
            count = self._connection.receive(op, key, answer["Body"], window)
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
            if self._strict or not errors.refuses_checksum(error):
                raise
        answer = send(False)
        if upload_id:
            self._unchecked.add(upload_id)
        else:
            self._checksums = False
            _log.debug("%s: the service takes no checksums; parts are sent without", self.url)
        return answer

    def _compare_echo(self, answer: Mapping[str, object], crc: str, op: str, key: str) -> None:
        """Compare the checksum the service tells of a body with the one that was sent."""
        told = answers.crc_told(answer)
        if self._strict and not told and op == "put":
            told = self.stat(key).hashes.get("crc64nvme", "")
        if crc and told and told != crc:
            raise IntegrityError(
                f"{self.url}: the service received other bytes than were sent: CRC64NVME {told}, not {crc} "
                f"(during {op}, key {key!r})"
            )
        if crc and self._strict and not told:
            raise UnsupportedError(
                f"{self.url}: the service does not confirm CRC64NVME; set checksum to auto or none", op=op, key=key
            )
