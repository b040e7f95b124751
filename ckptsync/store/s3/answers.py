"""What an answer of S3 tells: tags, times, ranges, and digests, which we compute alike."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from ckptsync.store.base import Buffer, PartTag, Tag

try:
    from awscrt import checksums
except ImportError:
    checksums = None

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import GetObjectOutputTypeDef

AVAILABLE = checksums is not None
"""Whether CRC64NVME can be computed here."""

_MD5 = re.compile(r"[0-9a-f]{32}")
_MD5_OF_PARTS = re.compile(r"[0-9a-f]{32}-[0-9]+")
_RANGE = re.compile(r"bytes (\d+)-(\d+)")
_CRC64_BYTES = 8
_PARTIAL_CONTENT = 206


def tag_of(answer: Mapping[str, object]) -> Tag:
    """Return an answer's ETag in quotes, which Ceph leaves out in some answers; empty when it tells none."""
    etag = str(answer.get("ETag") or "").strip('"')
    return Tag(f'"{etag}"' if etag else "")


def seconds_of(moment: object) -> float:
    """Turn a service's time into seconds since the epoch."""
    return moment.timestamp() if isinstance(moment, datetime) else 0.0


def answered_s(answer: Mapping[str, object]) -> float:
    """Return when the service answered, by its own clock; 0.0 when it does not tell."""
    meta = answer.get("ResponseMetadata")
    headers = meta.get("HTTPHeaders") if isinstance(meta, Mapping) else None
    date = headers.get("date") if isinstance(headers, Mapping) else None
    try:
        return parsedate_to_datetime(str(date)).timestamp()
    except ValueError:
        return 0.0


def first_byte(answer: GetObjectOutputTypeDef, asked: int) -> int:
    """Return where in the object a body begins: some services send all of it, or a range under status 200."""
    if found := _RANGE.match(str(answer.get("ContentRange") or "")):
        return int(found[1])
    partial = answer["ResponseMetadata"]["HTTPStatusCode"] == _PARTIAL_CONTENT
    return asked if partial else 0


def length(answer: GetObjectOutputTypeDef, most_bytes: int) -> int:
    """Return how many bytes a body brings, at most `most_bytes`; a proxy may send it in chunks, which tell no length."""
    if "ContentLength" in answer:
        return min(answer["ContentLength"], most_bytes)
    found = _RANGE.match(str(answer.get("ContentRange") or ""))
    return min(int(found[2]) - int(found[1]) + 1, most_bytes) if found else most_bytes


def vouched(answer: Mapping[str, object], *, whole: bool = False, md5: bool = True) -> dict[str, str]:
    """Digests an answer tells, in hex by name.

    Args:
        answer: headers or a row of a listing, as the SDK names them.
        whole: it is about an object that may have parts; a digest counts only if it is one of all bytes.
        md5: False where ETags are never MD5s.
    """
    hashes: dict[str, str] = {}
    etag = tag_of(answer).strip('"')
    # Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_Object.html
    plain = answer.get("ServerSideEncryption") in {None, "AES256"} and not answer.get("SSECustomerAlgorithm")
    if md5 and plain and _MD5.fullmatch(etag):
        hashes["md5"] = etag
    if md5 and plain and whole and _MD5_OF_PARTS.fullmatch(etag):
        hashes["md5-of-parts"] = etag
    if (crc := crc_told(answer)) and (not whole or answer.get("ChecksumType") == "FULL_OBJECT"):
        hashes["crc64nvme"] = crc
    return hashes


def crc_of(data: Buffer) -> str:
    """CRC64NVME in hex."""
    return f"{checksums.crc64nvme(data):016x}"


def same_crc(crc: str, chunks: Iterable[Buffer]) -> bool:
    """Whether bytes, cut anyhow, have this CRC64NVME."""
    found = 0
    for chunk in chunks:
        found = checksums.crc64nvme(chunk, found)
    return f"{found:016x}" == crc


def as_header(crc: str) -> str:
    """Write a hex checksum as S3's headers do."""
    return base64.b64encode(bytes.fromhex(crc)).decode()


def crc_told(answer: Mapping[str, object]) -> str:
    """Return the CRC64NVME an answer tells, in hex; empty when none, or when it is one of part checksums."""
    text = str(answer.get("ChecksumCRC64NVME") or "")
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:
        return ""
    return raw.hex() if len(raw) == _CRC64_BYTES else ""


def combined_crc(parts: Sequence[PartTag]) -> str:
    """CRC64NVME in hex of what parts make together; empty when one of theirs is not known."""
    if checksums is None or not all("crc64nvme" in part.hashes for part in parts):
        return ""
    whole = 0
    for part in parts:
        whole = checksums.combine_crc64nvme(whole, int(part.hashes["crc64nvme"], 16), part.size)
    return f"{whole:016x}"


def multipart_etag(parts: Sequence[PartTag]) -> str:
    """ETag S3 gives an object made of parts; empty when a part's tag is no MD5.

    Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
    """
    etags = [part.tag.strip('"') for part in parts]
    if not all(_MD5.fullmatch(etag) for etag in etags):
        return ""
    together = hashlib.md5(b"".join(map(bytes.fromhex, etags)), usedforsecurity=False)
    return f"{together.hexdigest()}-{len(etags)}"
