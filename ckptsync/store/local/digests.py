"""What a directory can vouch for: its own files, read and hashed when somebody asks, and not before."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ckptsync.store.base import Tag

_CHUNK_BYTES = 1 << 20
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def version_of(found: os.stat_result) -> Tag:
    """Name a version of a file: a replaced one is another inode, and a reused inode has another time."""
    return Tag(f"{found.st_ino:x}-{found.st_mtime_ns:x}-{found.st_size:x}")


class DigestsOnDemand(Mapping[str, str]):
    """`hashes` of a file. Only a save that continues without its journal asks for them, so nobody else pays for the reading."""

    def __init__(self, path: Path, found: os.stat_result) -> None:
        """Read nothing yet.

        Args:
            path: of the file.
            found: the version whose digests these are.
        """
        self._path = path
        self._version = version_of(found)
        self._md5 = ""

    def __getitem__(self, name: str) -> str:
        """Read the file, the first time; a file that was replaced or cannot be read has no digest (KeyError)."""
        if name != "md5":
            raise KeyError(name)
        if not self._md5:
            try:
                self._md5 = self._read()
            except OSError as error:
                raise KeyError(name) from error
        return self._md5

    def _read(self) -> str:
        """MD5 of the version that is meant.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        digest, buffer = hashlib.md5(usedforsecurity=False), memoryview(bytearray(_CHUNK_BYTES))
        with open(os.open(self._path, _READ), "rb", buffering=0) as file:  # noqa: PTH123  Path.open follows links
            if version_of(os.fstat(file.fileno())) != self._version:
                raise FileNotFoundError(self._path)
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
        return digest.hexdigest()

    def __iter__(self) -> Iterator[str]:
        """Name what there is."""
        return iter(("md5",))

    def __len__(self) -> int:
        """Count it."""
        return 1
