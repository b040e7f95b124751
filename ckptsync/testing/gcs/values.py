"""What a bucket holds, as values: objects, drafts of them, preconditions, pages."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ckptsync.testing.gcs.payload import Payload, combine_crc32c, crc32c, encode_crc32c, encode_md5, md5
from ckptsync.testing.gcs.wire import GcsError, bad_hash, condition_failed, invalid, not_modified

MAX_NAME_BYTES = 1024
MAX_COMPOSE_SOURCES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    """One live object.

    Attributes:
        bucket: its bucket.
        name: its name.
        generation: grows with every object the server makes.
        metageneration: 1 at birth, one more with every metadata update.
        payload: the bytes.
        size: how many those are.
        crc32c: of the whole.
        md5: of the whole; None for composite and multipart objects, as at Google.
        component_count: None unless composed.
        attributes: writable metadata by the JSON API's names.
        created_s: seconds since the Unix epoch.
        updated_s: seconds since the Unix epoch.
    """

    bucket: str
    name: str
    generation: int
    metageneration: int = 1
    payload: Payload
    size: int
    crc32c: int
    md5: bytes | None
    component_count: int | None = None
    attributes: Mapping[str, Any]
    created_s: float
    updated_s: float

    @property
    def etag(self) -> str:
        """Opaque; changes with the bytes and with the metadata."""
        return base64.b64encode(f"{self.generation}/{self.metageneration}".encode()).decode()

    @property
    def hashes(self) -> str:
        """The `x-goog-hash` header."""
        known = [f"crc32c={encode_crc32c(self.crc32c)}"]
        if self.md5 is not None:
            known.append(f"md5={encode_md5(self.md5)}")
        return ",".join(known)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An object about to be made: what `StoredObject` has, less what the commit decides."""

    payload: Payload
    crc32c: int
    md5: bytes | None = None
    component_count: int | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def hashed(
        cls, payload: Payload, attributes: Mapping[str, Any], expected: Mapping[str, str], *, md5s: bool
    ) -> Draft:
        """Hash the bytes and compare with what the client says they are.

        Raises:
            GcsError: 400, they differ.
        """
        value = crc32c(payload)
        digest = md5(payload) if md5s or "md5" in expected else None
        compare_hashes(expected, value, digest)
        return cls(payload=payload, crc32c=value, md5=digest, attributes=attributes)


def compare_hashes(expected: Mapping[str, str], value: int, digest: bytes | None) -> None:
    """Refuse bytes that are not those the client hashed.

    Raises:
        GcsError: 400.
    """
    computed = {"crc32c": encode_crc32c(value)}
    if digest is not None:
        computed["md5"] = encode_md5(digest)
    for algorithm, given in expected.items():
        if given != computed.get(algorithm, given):
            raise bad_hash(algorithm, given, computed[algorithm])


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Preconditions of one request; None where it names none. A generation of 0 stands for no object."""

    generation: int | None = None
    not_generation: int | None = None
    metageneration: int | None = None
    not_metageneration: int | None = None

    def check(self, live: StoredObject | None, *, reading: bool = False) -> None:
        """Let the request through or not.

        Raises:
            GcsError: 412, or 304 when a read asks for something newer and there is none.
        """
        generation = live.generation if live else 0
        metageneration = live.metageneration if live else None
        if self.generation is not None and self.generation != generation:
            raise condition_failed("ifGenerationMatch")
        if self.metageneration is not None and self.metageneration != metageneration:
            raise condition_failed("ifMetagenerationMatch")
        if self.not_generation is not None and self.not_generation == generation:
            raise not_modified() if reading else condition_failed("ifGenerationNotMatch")
        if self.not_metageneration is not None and self.not_metageneration == metageneration:
            raise not_modified() if reading else condition_failed("ifMetagenerationNotMatch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """One page of a listing.

    Attributes:
        objects: in the order of their names' UTF-8 bytes.
        prefixes: what the delimiter folded.
        resume: name the next page starts at, inclusive; None on the last page.
    """

    objects: Sequence[StoredObject]
    prefixes: Sequence[str]
    resume: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which names a listing wants; `start` inclusive, `end` exclusive, both UTF-8."""

    prefix: bytes = b""
    delimiter: bytes = b""
    start: bytes = b""
    end: bytes | None = None


def check_source_count(count: int) -> None:
    """Raise GcsError 400 unless a compose names 1 to 32 sources."""
    if count == 0:
        raise invalid("You must provide at least one source component.")
    if count > MAX_COMPOSE_SOURCES:
        raise invalid(f"The number of source components provided ({count}) exceeds the maximum ({MAX_COMPOSE_SOURCES})")


def compose(sources: Sequence[StoredObject], attributes: Mapping[str, Any]) -> Draft:
    """Put objects behind one another without reading them."""
    value = 0
    for source in sources:
        value = combine_crc32c(value, source.crc32c, source.size)
    return Draft(
        payload=Payload.join(source.payload for source in sources),
        crc32c=value,
        component_count=sum(source.component_count or 1 for source in sources),
        attributes=attributes,
    )


def check_name(name: str) -> None:
    """Raise GcsError 400 for a name the service does not take."""
    if not name:
        raise GcsError(400, "required", "InvalidArgument", "Required")
    if len(name.encode()) > MAX_NAME_BYTES:
        raise invalid(
            f"The maximum object length is {MAX_NAME_BYTES} characters, but got a name with {len(name)} characters."
        )
    if name in {".", ".."} or "\r" in name or "\n" in name or name.startswith(".well-known/acme-challenge/"):
        raise invalid(f"Disallowed object name: {name!r}", code="InvalidObjectName")
