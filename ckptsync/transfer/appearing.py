"""A file that appears under its name whole and durable, or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ckptsync.errors import ConfigError
from ckptsync.transfer.target import disk_errors, sync_folder

_TRIES_APART = 8


@contextmanager
def appearing(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write to; when the `with` block ends well it takes the place of what is at `path`, else it is gone.

    A process that is killed meanwhile leaves a hidden file beside `path`, named after it and ending in `.part`.

    Raises:
        ConfigError: `path` is a folder, or lies in none.
        DiskError: the disk is full or read-only.
    """
    if path.is_dir() or not path.name:
        raise ConfigError(f"{path} is a directory; name a file")
    if not path.parent.is_dir():
        raise ConfigError(f"{path.parent} is no directory; {path.name} cannot be written there")
    unfinished = path.with_name(f".{path.name[:200]}.{secrets.token_hex(_TRIES_APART)}.part")
    with disk_errors(path):
        try:
            with unfinished.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
