"""Which files this process has open, named, since a count changes with whatever other tests left to the garbage collector."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def open_files() -> list[Path]:
    """What this process has open now; a pipe is `pipe:[number]`."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile by another thread, or the listing's own
            found.append(descriptor.readlink())
    return found


def open_below(folder: Path) -> list[Path]:
    """The files below `folder` that this process has open now."""
    return [path for path in open_files() if path.is_relative_to(folder)]
