"""The XML that Google Cloud Storage's multipart uploads are spoken in.

Source: https://cloud.google.com/storage/docs/xml-api/post-object-multipart, …/post-object-complete, …/get-object-multipart,
…/get-bucket-uploads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar
from xml.etree import ElementTree as ET

from ckptsync.store.base import PartTag, Stat, Tag, Upload
from ckptsync.store.gcs.crc32c import combine

NOT_XML = (ET.ParseError, LookupError, ValueError)
"""What the parser raises; the latter two for encodings that are none, or none of text."""
_MAX_DIGITS = 19
_MD5 = re.compile(r'"(?P<hex>[0-9a-f]{32})"')

T = TypeVar("T")


class MalformedError(ValueError):
    """The answer is not the XML the documentation promises; another try may get it whole."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a listing.

    Attributes:
        entries: what it lists.
        following: query parameters that ask for the next page; empty on the last.
    """

    entries: list[T]
    following: dict[str, str]


def part_etag(text: str) -> Tag:
    """Bring an ETag into one form, so that a part's tag is the same from its upload and from a listing."""
    return Tag(f'"{text.strip().strip(chr(34))}"')


def part_hashes(etag: Tag) -> dict[str, str]:
    """Return the MD5 an ETag stands for, if it has that form (it has not with a customer-managed key)."""
    return {"md5": found["hex"]} if (found := _MD5.fullmatch(etag)) else {}


def completion(parts: Iterable[PartTag]) -> bytes:
    """Write the body that finishes an upload."""
    root = ET.Element("CompleteMultipartUpload")
    for part in parts:
        element = ET.SubElement(root, "Part")
        ET.SubElement(element, "PartNumber").text = str(part.number)
        ET.SubElement(element, "ETag").text = part.tag
    return ET.tostring(root)


def assembled(found: Stat, parts: Sequence[PartTag]) -> bool:
    """Tell whether an object can be what these parts make, by size and, where every part's is known, CRC32C."""
    if found.size != sum(part.size for part in parts):
        return False
    pieces = [(int(part.hashes["crc32c"], 16), part.size) for part in parts if "crc32c" in part.hashes]
    if len(pieces) < len(parts) or "crc32c" not in found.hashes:
        return True
    return found.hashes["crc32c"] == f"{combine(pieces):08x}"


def upload_id(body: bytes) -> str:
    """Read the answer to the start of an upload.

    Raises:
        MalformedError: it names no id.
    """
    return _text(_parse(body, "InitiateMultipartUploadResult"), "UploadId")


def is_error(body: bytes) -> bool:
    """Tell whether a body is an error, which may stand behind a status 200 when finishing took long."""
    try:
        _parse(body, "Error")
    except MalformedError:
        return False
    return True


def parts_page(body: bytes) -> Page[PartTag]:
    """Read one page of an upload's parts.

    Raises:
        MalformedError: it is none.
    """
    root = _parse(body, "ListPartsResult")
    parts = []
    for element in root.iterfind("{*}Part"):
        etag = part_etag(_text(element, "ETag"))
        number, size = _number(element, "PartNumber"), _number(element, "Size")
        parts.append(PartTag(number=number, size=size, tag=etag, hashes=part_hashes(etag)))
    if not _truncated(root):
        return Page(parts, {})
    return Page(parts, {"part-number-marker": _text(root, "NextPartNumberMarker")})


def uploads_page(body: bytes) -> Page[Upload]:
    """Read one page of a bucket's unfinished uploads, with whole object names as keys.

    Raises:
        MalformedError: it is none.
    """
    root = _parse(body, "ListMultipartUploadsResult")
    uploads = [
        Upload(key=_text(element, "Key"), id=_text(element, "UploadId"), begun_s=_begun_s(element))
        for element in root.iterfind("{*}Upload")
    ]
    if not _truncated(root):
        return Page(uploads, {})
    markers = {"key-marker": _text(root, "NextKeyMarker"), "upload-id-marker": _text(root, "NextUploadIdMarker")}
    return Page(uploads, markers)


def _parse(body: bytes, name: str) -> ET.Element:
    """Parse a document whose root must be `name`, in whatever namespace."""
    try:
        root = ET.fromstring(body)  # noqa: S314  the service's own answer
    except NOT_XML as error:
        raise MalformedError(f"not XML: {error}") from error
    if root.tag.rpartition("}")[2] != name:
        raise MalformedError(f"the answer is {root.tag}, not {name}")
    return root


def _text(element: ET.Element, name: str) -> str:
    """Text of a child that must be there."""
    if not (text := element.findtext(f"{{*}}{name}")):
        raise MalformedError(f"{element.tag} has no {name}")
    return text


def _number(element: ET.Element, name: str) -> int:
    """Number in a child that must be there."""
    text = _text(element, name)
    if not text.isdecimal() or len(text) > _MAX_DIGITS:
        raise MalformedError(f"{name} is {text[:40]!r}, not a number")
    return int(text)


def _truncated(root: ET.Element) -> bool:
    """Tell whether another page follows."""
    return (root.findtext("{*}IsTruncated") or "").strip().lower() == "true"


def _begun_s(element: ET.Element) -> float:
    """When an upload began; 0.0 when that is not told."""
    try:
        return datetime.fromisoformat(element.findtext("{*}Initiated") or "").timestamp()
    except ValueError:
        return 0.0
