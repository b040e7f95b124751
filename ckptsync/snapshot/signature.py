"""Signatures of manifests: Ed25519 (RFC 8032), so that a run can refuse what its owner did not commit.

See docs/design/format.md, which this file implements. The only file that knows `cryptography`, which is imported on use.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec
from blake3 import blake3

from ckptsync.errors import ConfigError, ManifestError

DOMAIN = b"ckptsync signature of a manifest"
ID_DIGITS = 16
_SIGNATURE_BYTES = 64


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands in the envelope.

    Attributes:
        key: id of the public key, 16 hex digits.
        value: the signature, 128 hex digits.
    """

    key: str
    value: str


_decoder = msgspec.json.Decoder(Signature)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that signatures are checked with.

    Attributes:
        id: first 16 hex digits of BLAKE3 of `raw`.
        raw: its 32 bytes.
    """

    id: str
    raw: bytes


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key, out of the reach of messages.

    Attributes:
        public: its other half.
        sign: turns a message into 64 bytes.
    """

    public: PublicKey
    sign: Callable[[bytes], bytes] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Which keys a run is written and read with.

    Attributes:
        signer: signs what is committed; None signs nothing.
        required: a manifest must bear the signature of one of them; none means that signatures are not looked at.
    """

    signer: Signer | None = None
    required: tuple[PublicKey, ...] = ()

    def check_can_commit(self) -> None:
        """Make sure that what is committed can be read back.

        Raises:
            ConfigError: a signature is required, and ours is missing or of another key.
        """
        if not self.required:
            return
        if self.signer is None:
            raise ConfigError(
                "signing.require is set and signing.key is not, so that nobody could restore what is saved; set signing.key"
            )
        if self.signer.public not in self.required:
            raise ConfigError(
                f"signing.key is the key {self.signer.public.id}, which is none of signing.require ({_ids(self.required)}), "
                "so that nobody could restore what is saved; add its public half to signing.require"
            )


NO_KEYS = Keys()


def message(name: str, version: int, body: bytes | memoryview) -> bytes:
    """Return what is signed: nothing that was signed for another purpose, format or version can be taken for it.

    Args:
        name: of the format.
        version: of the format.
        body: exact bytes of the value of `manifest`.
    """
    return b"%s\n%s\n%d\n%s" % (DOMAIN, name.encode(), version, body)


def signed(signer: Signer, name: str, version: int, body: bytes) -> Signature:
    """Sign a manifest; arguments are those of `message`."""
    return Signature(key=signer.public.id, value=signer.sign(message(name, version, body)).hex())


def check_signature(
    raw: bytes | None, required: tuple[PublicKey, ...], name: str, version: int, body: bytes | memoryview
) -> None:
    """Refuse a manifest that none of the required keys signed. Nothing is required when there are none.

    Args:
        raw: the envelope's member, as JSON; None when it has none.
        required: keys that may have signed.
        name: as for `message`.
        version: as for `message`.
        body: as for `message`.

    Raises:
        ManifestError: not signed, signed by another key, or the signature is not that of this manifest.
    """
    if not required:
        return
    if raw is None:
        raise ManifestError(f"manifest is not signed, and signing.require asks for a signature by {_ids(required)}")
    try:
        signature = _decoder.decode(raw)
        value = bytes.fromhex(signature.value)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise ManifestError("manifest bears a signature that cannot be understood") from error
    key = next((key for key in required if key.id == signature.key), None)
    if key is None:
        raise ManifestError(
            f"manifest is signed by {signature.key[:ID_DIGITS]!r}, and signing.require asks for a signature by {_ids(required)}"
        )
    if len(value) != _SIGNATURE_BYTES or not _is_valid(key, value, message(name, version, body)):
        raise ManifestError(f"manifest was altered: the signature by {key.id} does not match")


def _is_valid(key: PublicKey, value: bytes, signed_message: bytes) -> bool:
    """Whether a key signed a message."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415  an extra

    try:
        Ed25519PublicKey.from_public_bytes(key.raw).verify(value, signed_message)
    except (InvalidSignature, ValueError):
        return False
    return True


def private_key(pem: bytes, where: str) -> Signer:
    """Read a private key.

    Args:
        pem: PKCS #8 in PEM, as `openssl genpkey -algorithm ed25519` writes it.
        where: its path, for messages, which never hold any of its content.

    Raises:
        ConfigError: it is no private Ed25519 key, it is encrypted, or `cryptography` is not installed.
    """
    if b"-----BEGIN PUBLIC KEY-----" in pem:
        raise ConfigError(f"signing.key {where} is a public key; name the private one")
    if b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in pem:
        raise ConfigError(f"signing.key {where} is encrypted; name a key without a passphrase")
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415  an extra
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415  an extra

    try:
        found = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, Ed25519PrivateKey):
        raise ConfigError(
            f"signing.key {where} holds no private Ed25519 key in PEM; make one with `openssl genpkey -algorithm ed25519`"
        )
    return Signer(_public(found.public_key().public_bytes_raw()), found.sign)


def public_key(pem: bytes, where: str) -> PublicKey:
    """Read a public key.

    Args:
        pem: SubjectPublicKeyInfo in PEM, as `openssl pkey -pubout` writes it.
        where: its path, for messages.

    Raises:
        ConfigError: it is no public Ed25519 key, or `cryptography` is not installed.
    """
    if b"PRIVATE KEY-----" in pem:
        raise ConfigError(
            f"signing.require {where} holds a private key; name its public half, which `openssl pkey -pubout` writes"
        )
    _need_cryptography()
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415  an extra
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415  an extra
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415  an extra

    try:
        found = load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        found = None
    if not isinstance(found, Ed25519PublicKey):
        raise ConfigError(
            f"signing.require {where} holds no public Ed25519 key in PEM; `openssl pkey -pubout` writes one from a private key"
        )
    return _public(found.public_bytes_raw())


def _need_cryptography() -> None:
    """Say what to install when it is missing."""
    try:
        import cryptography  # noqa: F401, PLC0415  an extra; it is only looked for
    except ImportError as error:
        raise ConfigError("signing needs the package cryptography: pip install 'ckptsync[sign]'") from error


def _public(raw: bytes) -> PublicKey:
    """Name a public key."""
    return PublicKey(blake3(raw).hexdigest()[:ID_DIGITS], raw)


def _ids(keys: tuple[PublicKey, ...]) -> str:
    """Their ids, for a sentence."""
    return " or ".join(key.id for key in keys)
