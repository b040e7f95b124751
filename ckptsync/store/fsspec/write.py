"""Whole files, on file systems where a file can be seen half-written."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any


def write_aside(fs: Any, path: str, aside: str, write: Callable[[str], None]) -> None:
    """Make a file that appears at `path` only when it is whole; missing folders are made.

    Args:
        fs: an fsspec file system.
        path: where it is to appear; what is there is replaced.
        aside: where it is written first, on the same file system; nothing stays there.
        write: makes the file at the path it is given.

    Raises:
        IsADirectoryError: a folder bears the name; a move would go into it.
    """
    fs.makedirs(_parent(aside), exist_ok=True)
    fs.makedirs(_parent(path), exist_ok=True)
    try:
        write(aside)
        _replace(fs, aside, path)
    except BaseException:
        with suppress(Exception):
            fs.rm_file(aside)
        raise


def stream(fs: Any, path: str, write: Callable[[Any], None]) -> None:
    """Let `write` fill a file opened at `path`; one that failed is discarded before it is closed, which would publish it."""
    file = fs.open(path, "wb")
    try:
        write(file)
    except BaseException:
        discard(file)
        raise
    file.close()


def discard(file: Any) -> None:
    """Drop a file opened for writing, so that not even its finaliser publishes it."""
    with suppress(Exception):
        file.discard()
    try:
        file.closed = True
    except AttributeError:  # a plain file, which is there already
        file.close()


def _replace(fs: Any, aside: str, path: str) -> None:
    """Move over whatever file is there."""
    if fs.isdir(path):
        raise IsADirectoryError(path)
    with suppress(FileExistsError):
        _move(fs, aside, path)
    # some refuse to move over a file; HDFS does not even say so
    if fs.exists(aside):
        with suppress(FileNotFoundError):
            fs.rm_file(path)
        _move(fs, aside, path)


def _move(fs: Any, source: str, target: str) -> None:
    """Rename where the file system can, else copy and delete: its own `mv` would read `*` and `[` as patterns."""
    if type(fs).mv.__qualname__ == "AbstractFileSystem.mv":
        fs.cp_file(source, target)
        fs.rm_file(source)
    else:
        fs.mv(source, target)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]
