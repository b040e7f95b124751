"""What changed between two snapshots."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from ckptsync.snapshot.manifest import DirectoryEntry, Entry, FileEntry, LinkEntry, Manifest

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diff:
    """Paths by what became of them, each sorted, and what is said of the snapshots where it differs.

    Attributes:
        added: only in the second snapshot.
        removed: only in the first.
        changed: in both, with other content, target or kind.
        unchanged: in both, the same.
        bytes_changed: bytes of the second snapshot's parts that the first has not at the same place.
        metrics: name to (first, second); None where a side lacks it.
        meta: the same of free text.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    unchanged: tuple[str, ...]
    bytes_changed: int
    metrics: dict[str, tuple[float | None, float | None]]
    meta: dict[str, tuple[str | None, str | None]]


def diff(first: Manifest, second: Manifest) -> Diff:
    """Compare two snapshots by content; modes and times do not count."""
    before = {entry.path: entry for entry in first.entries}
    after = {entry.path: entry for entry in second.entries}
    both = sorted(before.keys() & after.keys())
    changed = tuple(path for path in both if not _same(before[path], after[path]))
    return Diff(
        added=tuple(sorted(after.keys() - before.keys())),
        removed=tuple(sorted(before.keys() - after.keys())),
        changed=changed,
        unchanged=tuple(path for path in both if path not in set(changed)),
        bytes_changed=sum(_changed_bytes(before.get(file.path), file) for file in second.files),
        metrics=_differing(first.metrics, second.metrics),
        meta=_differing(first.meta, second.meta),
    )


def _differing(
    first: Mapping[str, _T | None], second: Mapping[str, _T | None]
) -> dict[str, tuple[_T | None, _T | None]]:
    """Values by name that are not the same on both sides."""
    pairs = {name: (first.get(name), second.get(name)) for name in sorted(first.keys() | second.keys())}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _same(one: Entry, other: Entry) -> bool:
    """Whether two entries hold the same."""
    if isinstance(one, FileEntry) and isinstance(other, FileEntry):
        return (one.size, one.parts) == (other.size, other.parts)
    if isinstance(one, LinkEntry) and isinstance(other, LinkEntry):
        return one.target == other.target
    return isinstance(one, DirectoryEntry) and isinstance(other, DirectoryEntry)


def _changed_bytes(before: Entry | None, after: FileEntry) -> int:
    """Bytes of `after` whose parts are not in `before` at the same place."""
    if not isinstance(before, FileEntry) or before.part_bytes != after.part_bytes:
        return after.size
    return sum(
        min(after.part_bytes, after.size - index * after.part_bytes)
        for index, part in enumerate(after.parts)
        if index >= len(before.parts) or before.parts[index] != part
    )
