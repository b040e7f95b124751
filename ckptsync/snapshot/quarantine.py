"""Why a snapshot is not to be trusted, as a value, and its bytes.

See docs/design/format.md, which this file implements. The object's key alone decides that a snapshot is quarantined; what it holds
is for people.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from ckptsync.errors import ManifestError
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Writer

MAX_QUARANTINE_BYTES = 1 << 20
MAX_BAD = 20
"""So many bad parts are named; the rest is counted."""

_Natural = Annotated[int, Meta(ge=0)]


class Quarantine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A finding against a snapshot.

    Attributes:
        snapshot: its id.
        reason: a sentence.
        created: RFC 3339, UTC, by the finder's clock; for people, nothing is ordered by it.
        writer: who found it.
        bad: path, 1-based part (0 means the whole object) and reason of the first 20 bad parts.
        bad_count: how many there are in all.
        check: what found it: `content` is a reading of its parts, which a later one may lift; `validation` a check of the owner's, which
            no reading of parts says anything about.
    """

    snapshot: str
    reason: str
    created: str
    writer: Writer
    bad: tuple[tuple[str, _Natural, str], ...] = ()
    bad_count: _Natural = 0
    check: Literal["content", "validation"] = "content"


_quarantines = msgspec.json.Decoder(Quarantine)  # made once: msgspec must not learn a type on two threads at a time


def encode_quarantine(quarantine: Quarantine) -> bytes:
    """Return the record as canonical JSON. Equal records give equal bytes."""
    return msgspec.json.encode(quarantine, order="sorted")


def decode_quarantine(data: bytes, snapshot: SnapshotId) -> Quarantine:
    """Read a record, believing nothing.

    Args:
        data: the object's content.
        snapshot: the id its key named; another one inside is refused.

    Raises:
        ManifestError: damaged, or of another snapshot.
    """
    try:
        found = _quarantines.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"the quarantine record of {snapshot} is damaged: {error}") from error
    if found.snapshot != str(snapshot):
        raise ManifestError(f"the quarantine record of {found.snapshot!r} stands under the key of {snapshot}")
    return found
