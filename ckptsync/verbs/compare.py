"""Whether what is on the disk is what a manifest says: by content, never by times alone."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from ckptsync.snapshot.digest import part_hasher, part_span
from ckptsync.snapshot.manifest import DirectoryEntry, Entry, FileEntry, LinkEntry, Manifest

_WINDOW_BYTES = 4 << 20
"""So much of a file is in memory while it is compared, whatever its parts."""


def _found(folder: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder, with relative paths."""
    stack = [(folder, "")]
    while stack:
        place, prefix = stack.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                yield f"{prefix}{entry.name}", entry
                if entry.is_dir(follow_symlinks=False):
                    stack.append((Path(entry.path), f"{prefix}{entry.name}/"))


def _split(folder: Path) -> tuple[dict[str, Path], set[str]]:
    """What is below a folder, with relative paths: all that is no folder, and the folders."""
    rest: dict[str, Path] = {}
    folders: set[str] = set()
    for path, entry in _found(folder):
        if entry.is_dir(follow_symlinks=False):
            folders.add(path)
        else:
            rest[path] = Path(entry.path)
    return rest, folders


def matches(folder: Path, entries: Sequence[Entry], *, beside: bool = False) -> bool:
    """Tell whether a folder holds exactly these entries, permission bits included. Sizes are compared first, so a mismatch is found cheaply.

    Args:
        folder: what to look at.
        entries: what should be there, besides the folders they lie in.
        beside: do not mind other things that stand at the top of the folder.
    """
    expected = {entry.path: entry for entry in entries if not isinstance(entry, DirectoryEntry)}
    expected_folders = {entry.path for entry in entries if isinstance(entry, DirectoryEntry)}
    expected_folders |= {str(parent) for entry in entries for parent in Path(entry.path).parents} - {"."}
    try:
        there, folders = _split(folder)
        if beside:
            tops = {entry.path.partition("/")[0] for entry in entries}
            there = {path: found for path, found in there.items() if path.partition("/")[0] in tops}
            folders = {path for path in folders if path.partition("/")[0] in tops}
        if there.keys() != expected.keys() or folders != expected_folders:
            return False
        return (
            all(_same_size(there[path], entry) for path, entry in expected.items())
            and all(_same_mode(folder / entry.path, entry) for entry in entries)
            and all(_same(folder / path, entry) for path, entry in expected.items())
        )
    except OSError:
        return False


def holds_only(path: Path, manifest: Manifest, place: str = "") -> bool:
    """Tell whether all there is at and below `path` is in the snapshot with the same content.

    Args:
        path: a file, link or folder.
        manifest: the snapshot.
        place: where in the snapshot `path` belongs; empty for its root.
    """
    expected = {entry.path: entry for entry in manifest.entries}
    try:
        if path.is_symlink() or not path.is_dir():
            return place in expected and _same_size(path, expected[place]) and _same(path, expected[place])
        there = {f"{place}/{name}" if place else name: found for name, found in _split(path)[0].items()}
        return (
            there.keys() <= expected.keys()
            and all(_same_size(found, expected[name]) for name, found in there.items())
            and all(_same(found, expected[name]) for name, found in there.items())
        )
    except OSError:
        return False


def _same_size(found: Path, entry: Entry) -> bool:
    """The cheap half of the comparison."""
    if isinstance(entry, FileEntry):
        return found.is_file() and not found.is_symlink() and found.stat().st_size == entry.size
    return isinstance(entry, LinkEntry) and found.is_symlink()


def _same_mode(location: Path, entry: Entry) -> bool:
    """Whether permission bits are those a restore would set."""
    return isinstance(entry, LinkEntry) or (location.stat().st_mode ^ entry.mode) & 0o777 == 0


def _same(location: Path, entry: Entry) -> bool:
    """The dear half: content or target."""
    if isinstance(entry, LinkEntry):
        return str(location.readlink()) == entry.target
    if not isinstance(entry, FileEntry):
        return location.is_dir()
    return same_content(location, entry)


def same_content(location: Path, entry: FileEntry) -> bool:
    """Read a file once and tell whether every part has the digest the manifest gives.

    Raises:
        OSError: it cannot be read.
    """
    content = memoryview(bytearray(min(entry.part_bytes, entry.size, _WINDOW_BYTES)))
    with location.open("rb", buffering=0) as file:
        for number, digest in enumerate(entry.parts, 1):
            left, hasher = part_span(number, entry.size, entry.part_bytes)[1], part_hasher()
            while left and (count := file.readinto(content[: min(left, len(content))])):
                hasher.update(content[:count])
                left -= count
            if left or hasher.hexdigest() != digest:
                return False
        return not file.read(1)
