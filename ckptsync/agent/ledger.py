"""What this machine remembers of the checkpoints it committed, so that none is committed twice and only durable ones are deleted.

One file beside the journals, replaced whole. Losing it costs an upload of what is in the bucket already. The bucket has the last word: at the
start, what it does not have any more is forgotten.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection
from pathlib import Path

import msgspec

from ckptsync.readiness.base import Ready
from ckptsync.snapshot.manifest import LinkEntry, Manifest
from ckptsync.transfer.source import SourceTree

_KEPT = 1000


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that is in the bucket.

    Attributes:
        mark: what tells it from all others, as `mark_of` makes it.
        step: training step.
        snapshot: id.
    """

    mark: str
    step: int
    snapshot: str


_decoder = msgspec.json.Decoder(tuple[Entry, ...])


def mark_of(name: str, tree: SourceTree) -> str:
    """What changes when any file of a checkpoint does: names, sizes and times, hashed."""
    hashed = hashlib.blake2b(os.fsencode(name), digest_size=16)
    for file in tree.files:
        hashed.update(f"\n{file.path}\0{file.size}\0{file.identity.mtime_ns}".encode())
    for link in tree.links:
        hashed.update(f"\n{link.path}\0{link.target}".encode())
    return hashed.hexdigest()


def is_in(manifest: Manifest, tree: SourceTree, ready: Ready) -> bool:
    """Whether a snapshot has every file of a checkpoint, with the same size and time; a restore keeps times.

    Args:
        manifest: of the snapshot.
        tree: the checkpoint's files alone.
        ready: the checkpoint.
    """
    there = {file.path: (file.size, file.mtime_ns) for file in manifest.files}
    links = {(link.path, link.target) for link in manifest.entries if isinstance(link, LinkEntry)}
    return all(
        there.get(file.path) == (file.size, file.identity.mtime_ns)
        for file in tree.files
        if file.path not in ready.replaced
    ) and all((link.path, link.target) in links for link in tree.links)


def ledger_path(state: Path, run: str, directory: Path) -> Path:
    """Where the ledger of a run and directory lies."""
    named = f"{run}\n{directory.absolute()}".encode("utf-8", "surrogateescape")
    return state / "agent" / f"{hashlib.blake2b(named, digest_size=16).hexdigest()}.json"


class Ledger:
    """Checkpoints that are durable, by their marks. Safe for many threads."""

    def __init__(self, location: Path) -> None:
        """Read what is there; what cannot be read is empty."""
        self._location = location
        self._lock = threading.Lock()
        try:
            entries = _decoder.decode(location.read_bytes())
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            entries = ()
        self._entries = {entry.mark: entry for entry in entries}
        self._checked = False

    def __contains__(self, mark: str) -> bool:
        """Whether a checkpoint is durable for sure; of none until `keep` was called."""
        with self._lock:
            return self._checked and mark in self._entries

    def __len__(self) -> int:
        with self._lock:
            return len(self._entries)

    def add(self, *entries: Entry) -> bool:
        """Remember checkpoints; whether they will be remembered by the next process, too. Safe to call again."""
        with self._lock:
            for entry in entries:
                self._entries.pop(entry.mark, None)
                self._entries[entry.mark] = entry
            while len(self._entries) > _KEPT:
                del self._entries[next(iter(self._entries))]
            return self._write()

    def keep(self, snapshots: Collection[str]) -> None:
        """Forget what is in none of these snapshots: it was deleted from the bucket, or found damaged there."""
        with self._lock:
            self._checked = True
            left = {mark: entry for mark, entry in self._entries.items() if entry.snapshot in snapshots}
            if len(left) < len(self._entries):
                self._entries = left
                self._write()

    def _write(self) -> bool:
        """Replace the file; whether that was possible. The lock is held."""
        half = self._location.with_suffix(f".{os.getpid()}")
        try:
            self._location.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            half.write_bytes(msgspec.json.encode(tuple(self._entries.values())))
            half.replace(self._location)
        except OSError:
            return False
        return True
