"""What an attempt may write: put down before any data, so that nothing it leaves behind is ever nameless.

See docs/design/format.md, which this file implements. Decoding trusts nothing: a journal from a stranger can name no objects
outside its own attempt's folder, because it holds paths and the keys are made here.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from ckptsync.errors import ConfigError, ManifestError
from ckptsync.snapshot.cost import Natural
from ckptsync.snapshot.envelope import UNREADABLE
from ckptsync.snapshot.layout import SnapshotId, check_path, data_key, parse_snapshot_id
from ckptsync.snapshot.manifest import MAX_ENTRIES, Writer

MAX_ATTEMPT_BYTES = 1 << 28


class Attempt(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One try to save one step, or one rank's share in it, from before its first byte to the end of its snapshot.

    Attributes:
        snapshot: id of the attempt, which is that of the snapshot when it is committed.
        files: path and size in bytes of every file it may write below its data folder; empty when it writes none.
        created: RFC 3339, UTC, by the writer's clock; for people, nothing is ordered by it.
        writer: who attempts it.
        rank: whose share it is; None when there is a single writer.
    """

    snapshot: str
    files: tuple[tuple[str, Natural], ...]
    created: str
    writer: Writer
    rank: Annotated[int, Meta(ge=0)] | None = None

    @property
    def id(self) -> SnapshotId:
        """The id, taken apart."""
        found = parse_snapshot_id(self.snapshot)
        if found is None:
            raise ManifestError(f"{self.snapshot!r} is not a snapshot id")
        return found

    @property
    def keys(self) -> frozenset[str]:
        """Every object it may write."""
        return frozenset(data_key(self.id, path) for path, _ in self.files)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files)


_decoder = msgspec.json.Decoder(Attempt)


def encode_attempt(attempt: Attempt) -> bytes:
    """Return the journal as canonical JSON: keys sorted, no spaces, UTF-8. Equal attempts give equal bytes."""
    return msgspec.json.encode(attempt, order="sorted")


def decode_attempt(data: bytes, snapshot: SnapshotId | None = None) -> Attempt:
    """Read a journal, believing nothing.

    Args:
        data: the object's content.
        snapshot: the id its key named; another one inside is refused.

    Raises:
        ManifestError: damaged, too large, or with unsafe or repeated paths; the sentence says which.
    """
    if len(data) > MAX_ATTEMPT_BYTES:
        raise ManifestError(f"journal of {len(data)} bytes is larger than {MAX_ATTEMPT_BYTES}")
    if data.count(b"[") > 2 * MAX_ENTRIES:  # a name may hold a bracket, a file must
        raise ManifestError(f"journal names more than {MAX_ENTRIES} files")
    try:
        attempt = _decoder.decode(data)
    except UNREADABLE as error:
        raise ManifestError(f"journal is damaged: {error}") from error
    if len(attempt.files) > MAX_ENTRIES:
        raise ManifestError(f"journal names {len(attempt.files)} files, more than {MAX_ENTRIES}")
    if snapshot is not None and attempt.snapshot != str(snapshot):
        raise ManifestError(f"journal of {attempt.snapshot} stands under the key of {snapshot}")
    seen: set[str] = set()
    for path, _ in attempt.files:
        if check_path(path) in seen:
            raise ManifestError(f"path {path!r} stands twice in the journal")
        seen.add(path)
        try:
            data_key(attempt.id, path)
        except ConfigError as error:
            raise ManifestError(f"journal of {attempt.snapshot} cannot be used: {error}") from error
    return attempt
