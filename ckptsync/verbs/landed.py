"""What this machine remembers of its restores: which snapshot stands at a target.

Retention may delete that snapshot while its copy stands here. Without the memory the next restore would take the copy for content
that is nowhere else, and keep it aside, each time anew. Losing the memory costs disk space only.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from ckptsync.errors import ManifestError
from ckptsync.snapshot.manifest import Manifest, decode, encode


def note_landed(state: Path, target: Path, manifest: Manifest) -> None:
    """Remember what stands at a target from now on; where that cannot be written it is not remembered."""
    place = _place(state, target)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        half = place.with_suffix(f".{os.getpid()}")
        half.write_bytes(encode(manifest))
        half.replace(place)


def landed(state: Path, target: Path) -> Manifest | None:
    """Return the snapshot that was restored to a target last; None when none is remembered. Believe no more than its digests."""
    try:
        return decode(_place(state, target).read_bytes())
    except (OSError, ManifestError):
        return None


def _place(state: Path, target: Path) -> Path:
    """Where the memory of a target lies."""
    name = hashlib.blake2b(os.fsencode(target.absolute()), digest_size=16).hexdigest()
    return state / "restores" / f"{name}.json"
