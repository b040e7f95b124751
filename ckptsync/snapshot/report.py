"""What one rank has brought to a snapshot, as a value, and its bytes.

See docs/design/format.md, which this file implements. A report is to its rank what a manifest is to a run, and is as strictly
read: it becomes part of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from ckptsync.errors import IncompleteError, ManifestError
from ckptsync.snapshot.cost import Cost
from ckptsync.snapshot.digest import part_digest
from ckptsync.snapshot.envelope import UNREADABLE, seal, unseal
from ckptsync.snapshot.layout import SnapshotId, check_path, data_key, parse_snapshot_id
from ckptsync.snapshot.manifest import Entry, FileEntry, Provenance, Writer
from ckptsync.snapshot.signature import PublicKey, Signer

FORMAT, VERSION = "ckptsync-report", 1


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The files of one rank, all of them in the bucket.

    Attributes:
        snapshot: the attempt they belong to, `epoch-step-nonce`.
        rank: 0 to `world` less 1.
        world: number of ranks.
        writer: who brought them.
        created: RFC 3339, UTC, by the writer's clock.
        entries: files, links and directories, sorted by path.
        metrics: as in a manifest.
        meta: as in a manifest.
        parent: as in a manifest.
        provenance: as in a manifest.
        cost: of this rank.
    """

    snapshot: str
    rank: Annotated[int, Meta(ge=0)]
    world: Annotated[int, Meta(ge=1)]
    writer: Writer
    created: str
    entries: tuple[Entry, ...]
    metrics: dict[str, float | None] = {}
    meta: dict[str, str] = {}
    parent: str = ""
    provenance: Provenance = Provenance()
    cost: Cost = Cost()

    @property
    def id(self) -> SnapshotId:
        """The attempt, taken apart."""
        found = parse_snapshot_id(self.snapshot)
        if found is None:
            raise ManifestError(f"{self.snapshot!r} is not a snapshot id")
        return found


_decoder = msgspec.json.Decoder(Report)


def encode_report(report: Report, signer: Signer | None = None) -> bytes:
    """Return the report as canonical JSON: keys sorted, no spaces, UTF-8. Equal reports give equal bytes."""
    return seal(FORMAT, VERSION, msgspec.json.encode(report, order="sorted"), signer)


def decode_report(
    data: bytes, snapshot: SnapshotId, rank: int, world: int, required: tuple[PublicKey, ...] = ()
) -> Report:
    """Read a report, believing nothing.

    Args:
        data: the object's content.
        snapshot: the attempt its key named.
        rank: the rank its key named.
        world: the number of ranks its key named.
        required: keys of which one must have signed it; none means that a signature is not looked at.

    Raises:
        ManifestError: damaged, not signed as required, or it names objects outside its attempt; the sentence says which.
    """
    body, _ = unseal(data, FORMAT, VERSION, required)
    try:
        report = _decoder.decode(body)
    except UNREADABLE as error:
        raise ManifestError(f"report of rank {rank} cannot be understood: {error}") from error
    if (report.id, report.rank, report.world) != (snapshot, rank, world):
        raise ManifestError(f"another report stands under the key of rank {rank} of {world} of {snapshot}")
    for entry in report.entries:
        check_path(entry.path)
        if isinstance(entry, FileEntry) and entry.key != data_key(snapshot, entry.path):
            raise ManifestError(f"report of rank {rank} names {entry.key!r} for {entry.path}, which is not its place")
        if isinstance(entry, FileEntry) and entry.packing:
            raise ManifestError(f"report of rank {rank} has a packed file, {entry.path}; ranks do not pack")
    return report


def same_work(one: Report, other: Report) -> bool:
    """Tell whether two reports of a rank say the same but for the circumstances, as after a restart."""
    return [_content(entry) for entry in one.entries] == [_content(entry) for entry in other.entries]


def merged(reports: Sequence[Report]) -> tuple[Entry, ...]:
    """Join what all ranks brought into one tree, sorted by path; a file that several have alike is in it once.

    Raises:
        IncompleteError: two ranks have different things under the same name.
    """
    found: dict[str, tuple[Entry, int]] = {}
    for report in sorted(reports, key=lambda report: report.rank):
        for entry in report.entries:
            first, rank = found.setdefault(entry.path, (entry, report.rank))
            if _content(first) != _content(entry):
                raise IncompleteError(
                    f"{entry.path} differs between rank {rank} and rank {report.rank}; let each rank save its own files "
                    "below a folder of its own (--under)"
                )
    return tuple(found[path][0] for path in sorted(found))


def commit_id_of(reports: Sequence[Report]) -> str:
    """Make the commit id of the snapshot that all ranks' reports make, 32 hex digits: whoever commits it, it is the same."""
    ordered = sorted(reports, key=lambda report: report.rank)
    return part_digest(b"".join(encode_report(report) for report in ordered))[:32]


def _content(entry: Entry) -> tuple[object, ...]:
    """What must be the same where two ranks have a path."""
    if isinstance(entry, FileEntry):
        cut = entry.part_bytes if len(entry.parts) > 1 else 0  # of a single part it says nothing
        return "file", entry.path, entry.size, cut, entry.parts
    return (type(entry).__name__, entry.path, getattr(entry, "target", ""))
