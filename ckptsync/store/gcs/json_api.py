"""Values of the JSON API of Google Cloud Storage.

Source: https://cloud.google.com/storage/docs/json_api/v1/objects (64-bit numbers are strings there).
"""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from ckptsync.store.base import Stat, Tag

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FIELDS = "name,size,generation,updated,crc32c,md5Hash"


class Resource(msgspec.Struct, frozen=True):
    """An object's metadata, as far as `FIELDS` asks for it."""

    name: str
    size: Annotated[int, Meta(ge=0)]
    generation: int
    updated: Annotated[datetime, Meta(tz=True)]
    crc32c: str = ""
    md5: str = msgspec.field(default="", name="md5Hash")

    def stat(self, key: str) -> Stat:
        """Tell it in our own words, under the key relative to the run."""
        return Stat(
            key=key,
            size=self.size,
            tag=Tag(str(self.generation)),
            modified_s=(self.updated - _EPOCH).total_seconds(),
            hashes=_hex({"crc32c": self.crc32c, "md5": self.md5}),
        )


class Listing(msgspec.Struct, frozen=True):
    """One page of objects."""

    items: list[Resource] = []
    next_page: str = msgspec.field(default="", name="nextPageToken")


class Rewrite(msgspec.Struct, frozen=True):
    """The state of a copy: done, with the new object; or the token to go on with."""

    done: bool
    token: str = msgspec.field(default="", name="rewriteToken")
    resource: Resource | None = None


_resources = msgspec.json.Decoder(Resource, strict=False)  # not strict: 64-bit numbers are strings
_listings = msgspec.json.Decoder(Listing, strict=False)
_rewrites = msgspec.json.Decoder(Rewrite, strict=False)

# each raises msgspec.DecodeError when the answer is not what the documentation promises
read_resource = _resources.decode
read_listing = _listings.decode
read_rewrite = _rewrites.decode


def framed(*, name: str, crc32c: str, content_type: str) -> tuple[str, bytes, bytes]:
    """Wrap content and its metadata for an upload in one request.

    Args:
        name: of the object.
        crc32c: of the content, in base64; the service refuses other content.
        content_type: of the content.

    Returns:
        Content-Type of the request, and what goes before and behind the content.
        Source: https://cloud.google.com/storage/docs/uploading-objects#uploading-an-object (JSON API, multipart).
    """
    metadata = msgspec.json.encode({"name": name, "crc32c": crc32c, "contentType": content_type})
    boundary = secrets.token_hex(16)
    head = b"\r\n".join(
        (
            f"--{boundary}".encode(),
            b"Content-Type: application/json; charset=UTF-8",
            b"",
            metadata,
            f"--{boundary}".encode(),
            f"Content-Type: {content_type}".encode(),
            b"",
            b"",
        )
    )
    return f"multipart/related; boundary={boundary}", head, f"\r\n--{boundary}--\r\n".encode()


def header_hashes(header: str) -> dict[str, str]:
    """Read `x-goog-hash`, as in `crc32c=n03x6A==,md5=Ojk9c3dhfxgoKVVHYwFbHQ==`, into lower-case hex by algorithm."""
    pairs = (entry.strip().partition("=") for entry in header.split(","))
    return _hex({name: value for name, _, value in pairs})


def crc32c_base64(crc: int) -> str:
    """Write a CRC32C the way the service does."""
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def _hex(hashes: Mapping[str, str]) -> dict[str, str]:
    """Base64 to lower-case hex, less what is empty or no base64."""
    found = {}
    for name, text in hashes.items():
        try:
            found[name] = base64.b64decode(text, validate=True).hex()
        except (binascii.Error, ValueError):
            continue
    return {name: digest for name, digest in found.items() if digest}
