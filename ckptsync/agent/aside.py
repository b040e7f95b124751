"""Puts aside what the next training would wrongly take for its newest checkpoint: what was left half written, or was overtaken elsewhere."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from ckptsync.errors import DiskError
from ckptsync.transfer.source import SourceTree
from ckptsync.transfer.target import must_stay


def put_aside(directory: Path, tree: SourceTree, paths: Collection[str]) -> Path | None:
    """Move some files out of a directory, folders with all that is in them where they hold nothing else. Safe to call again.

    Args:
        directory: to which nobody writes.
        tree: what is in it.
        paths: of the files, relative to it.

    Returns:
        Where that is now, beside the directory, or hidden in it, with another ending, where nothing can be beside it; None when
        there was nothing.

    Raises:
        DiskError: something cannot be moved.
    """
    moved = sorted(_moved(tree, paths))
    if not moved:
        return None
    above, stem = (
        (directory, ".unfinished") if must_stay(directory) else (directory.parent, f"{directory.name}.unfinished")
    )
    number = 1
    while os.path.lexists(aside := above / f"{stem}-{number}"):
        number += 1
    for path in moved:
        try:
            (aside / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).rename(aside / path)
            if above == directory:
                _hide(aside / path)
        except OSError as error:
            raise DiskError(
                f"cannot move {directory / path}, which the training would take for its newest checkpoint, to {aside}: {error.strerror}"
            ) from error
    return aside


def _hide(moved: Path) -> None:
    """Give files an ending by which nobody takes them for checkpoints who looks into every folder."""
    for file in [moved] if moved.is_file() else [path for path in moved.rglob("*") if path.is_file()]:
        file.rename(file.with_name(f"{file.name}.unfinished"))


def _moved(tree: SourceTree, paths: Collection[str]) -> Iterator[str]:
    """The files, or for those of a folder that has no others the uppermost such folder."""
    others = {file.path for file in tree.files}.difference(paths)
    mixed = {str(folder) for path in others for folder in PurePosixPath(path).parents}
    found: set[str] = set()
    for path in paths:
        folders = [str(folder) for folder in reversed(PurePosixPath(path).parents) if str(folder) != "."]
        found.add(next((folder for folder in folders if folder not in mixed), path))
    yield from found
