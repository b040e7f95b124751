"""A folder of a snapshot, seen as if it were a snapshot of its own."""

from __future__ import annotations

from msgspec.structs import replace

from ckptsync.snapshot.manifest import DirectoryEntry, Entry, FileEntry, Manifest


def below(manifest: Manifest, folder: str) -> Manifest | None:
    """Return what lies below a folder of a snapshot, with paths relative to it; None when nothing does.

    A folder that the snapshot does not name itself, and in which a single file lies, is that file (see `SourceTree.below`).

    Args:
        manifest: of the whole snapshot.
        folder: its path in it; empty for all of it.
    """
    if not folder:
        return manifest
    prefix = f"{folder}/"
    root = next(
        (entry for entry in manifest.entries if isinstance(entry, DirectoryEntry) and entry.path == folder), None
    )
    entries: tuple[Entry, ...] = tuple(
        replace(entry, path=entry.path.removeprefix(prefix))
        for entry in manifest.entries
        if entry.path.startswith(prefix)
    )
    if root is not None:
        return replace(manifest, kind="directory", mode=root.mode, entries=entries)
    if len(entries) == 1 and isinstance(entries[0], FileEntry) and "/" not in entries[0].path:
        return replace(manifest, kind="file", mode=0o755, entries=entries)
    return replace(manifest, kind="directory", mode=0o755, entries=entries) if entries else None
