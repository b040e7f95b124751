"""How a record stands in its object: with its format, its version, and a digest that shows damage."""

from __future__ import annotations

import msgspec

from ckptsync.errors import ManifestError, VersionError
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.signature import PublicKey, Signer, check_signature, signed

MAX_MANIFEST_BYTES = 512 << 20

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not what they should be."""


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """What every version has: it is read first, because a later one may have other members."""

    format: str
    version: int


class _Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the object: the record, its digest and perhaps a signature, in canonical JSON."""

    blake3: str
    format: str
    manifest: msgspec.Raw
    signature: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    version: int


# Here and wherever records are decoded the decoder is made with its module: msgspec works out a type when it first meets it, and
# crashes the process when several threads do so at once (seen with 0.22).
_head, _decoder = msgspec.json.Decoder(_Head), msgspec.json.Decoder(_Envelope)


def seal(name: str, version: int, body: bytes, signer: Signer | None = None) -> bytes:
    """Return the content of the object that holds a record.

    Args:
        name: of its format.
        version: of its format.
        body: the record as canonical JSON.
        signer: signs it; None leaves it unsigned.
    """
    envelope = _Envelope(
        blake3=part_digest(body),
        format=name,
        manifest=msgspec.Raw(body),
        signature=msgspec.Raw(msgspec.json.encode(signed(signer, name, version, body))) if signer else msgspec.UNSET,
        version=version,
    )
    return msgspec.json.encode(envelope, order="sorted")


def unseal(data: bytes, name: str, newest: int, required: tuple[PublicKey, ...] = ()) -> tuple[memoryview, int]:
    """Return the record in an object's content and the version of its format, believing nothing.

    The record is a view: a manifest may have hundreds of MiB.

    Args:
        data: the object's content.
        name: the format it must have.
        newest: the latest version of that which is understood; those before it, from 1 on, are as well.
        required: keys of which one must have signed it; none means that a signature is not looked at.

    Raises:
        VersionError: of a later version.
        ManifestError: damaged, of another format or version, not signed as required, or too large.
    """
    what = name.removeprefix("ckptsync-")
    if len(data) > MAX_MANIFEST_BYTES:
        raise ManifestError(f"{what} of {len(data)} bytes is larger than {MAX_MANIFEST_BYTES}")
    try:
        head = _head.decode(data)
        version = head.version
        if head.format != name or not 1 <= version <= newest:
            kind = VersionError if head.format == name and version > newest else ManifestError
            raise kind(
                f"{what} is of format {head.format!r} version {version}; "
                f"this ckptsync reads {name!r} version {newest}: install a newer ckptsync"
            )
        envelope = _decoder.decode(data)
    except UNREADABLE as error:
        raise ManifestError(f"{what} is damaged: {error}") from error
    body = memoryview(envelope.manifest)
    if part_digest(body) != envelope.blake3:
        raise ManifestError(f"{what} is damaged: its digest does not match")
    signature = None if envelope.signature is msgspec.UNSET else bytes(envelope.signature)
    check_signature(signature, required, name, version, body)
    return body, version
