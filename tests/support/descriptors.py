"""Which files this process has open, named, since a count changes with whatever other tests left to the garbage collector."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def open_below(folder: Path) -> list[Path]:
    """The files below `folder` that this process has open now."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile by another thread, or the listing's own
            found.append(descriptor.readlink())
    return [path for path in found if path.is_relative_to(folder)]
