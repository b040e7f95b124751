"""What must hold in a bucket at any moment, and after everything was cleaned up."""

from __future__ import annotations

import shutil
from pathlib import Path

from support.tree import fingerprint

from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.digest import part_digest, part_span
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import FileEntry, Manifest
from ckptsync.verbs.gc import collect
from ckptsync.verbs.restore import restore

from .beds import BEST, IMPORTED, Bed, Verified


def committed(run: Run) -> dict[SnapshotId, Manifest]:
    """Every manifest there is; one that does not decode is a failure."""
    return {listed.id: run.catalog.load(listed) for listed in run.catalog.listed()}


def check_whole(run: Run, known: set[Verified]) -> dict[SnapshotId, Manifest]:
    """Everything that any committed manifest names is there and is what was committed.

    Args:
        run: where.
        known: versions of objects that were read before and found good; grows.
    """
    found = committed(run)
    there = {stat.key: stat for stat in run.store.list("")}
    for manifest in found.values():
        for file in manifest.files:
            assert file.key in there, f"{file.key} of {manifest.snapshot} is missing"
            assert there[file.key].size == file.size, f"{file.key} of {manifest.snapshot} has another size"
            version = file.key, there[file.key].tag, file.parts
            if version not in known:
                _check_bytes(file, run.store.read(file.key))
                known.add(version)
    return found


def _check_bytes(file: FileEntry, content: bytes) -> None:
    for number, digest in enumerate(file.parts, 1):
        offset, size = part_span(number, file.size, file.part_bytes)
        assert part_digest(content[offset : offset + size]) == digest, f"{file.key} holds other bytes"


def check_restores(bed: Bed, allowed: list[dict[str, str]], *, over: Path | None = None) -> None:
    """A restore gives one of these trees to the letter.

    Args:
        bed: where.
        allowed: fingerprints.
        over: what stands at the target before; None for nothing.
    """
    place = bed.place()
    if over:
        shutil.copytree(over, place, symlinks=True)
    restore(bed.plain, place)
    assert fingerprint(place) in allowed, "a restore gives neither the old nor the new tree"


def check_clean(bed: Bed) -> None:
    """After a gc without grace, the bucket holds what committed manifests name and their records, and nothing else."""
    bed.age()
    collect(bed.plain, None, grace_s=0, dry_run=False)
    manifests = check_whole(bed.plain, bed.verified)
    data = {file.key for manifest in manifests.values() for file in manifest.files}
    records = {layout.manifest_key(one) for one in manifests}
    records |= {layout.journal_key(one, 0 if manifest.ranks else None) for one, manifest in manifests.items()}
    there = {found.key for found in bed.inner.list("")}
    assert records <= there, f"missing: {records - there}"
    named = data | records | _borrowed(manifests)
    strange = {key for key in there - named if not _is_record(key, manifests.keys())}
    assert not strange, f"left behind: {strange}"
    left = list(bed.inner.uploads("")) if bed.ledger.traits.multipart else []
    assert not left, f"uploads left behind: {left}"


def _borrowed(manifests: dict[SnapshotId, Manifest]) -> set[str]:
    """Records of attempts whose data a later snapshot names, and markers between two that are committed."""
    keys: set[str] = set()
    for later, manifest in manifests.items():
        keys |= {layout.adoption_key(earlier, later) for earlier in manifests}
        owners = {layout.parse_snapshot_id(file.key.split("/")[1]) for file in manifest.files}
        for owner in owners - {None, later}:
            assert owner is not None
            keys |= {layout.adoption_key(owner, later), layout.journal_key(owner), layout.condemned_key(owner)}
    return keys


def _is_record(key: str, there: set[SnapshotId]) -> bool:
    """Whether an object stands for itself."""
    folder = key.partition("/")[0] + "/"
    if folder == layout.PINS:
        return layout.parse_snapshot_id(key.removeprefix(layout.PINS)) in there
    if folder == layout.RANKS:  # what large files must hold stays with the snapshot
        return layout.is_content_key(key) and layout.attempt_of_report_folder(key) in there
    if folder == layout.LEASES:  # of a reader that was killed; it dies of age
        return layout.snapshot_of_lease_key(key) in there
    return folder in {layout.WRITERS, layout.LAUNCHES, f"{IMPORTED}/"} or key.startswith(f"{layout.ALIASES}{BEST}/")
