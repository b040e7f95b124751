"""What files hold, read once for as long as they stay as they are."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar, cast

from ckptsync.errors import DiskError, SourceChangedError
from ckptsync.transfer.source import Identity, SourceFile

T = TypeVar("T")
_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
"""Neither waits for a pipe nor follows a link that has taken the file's place."""


class UnreadableError(Exception):
    """A file cannot be read now, or has changed since it was found; says which and why. Never leaves this room."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that is open for reading.

    Attributes:
        descriptor: of it.
        size: bytes.
    """

    descriptor: int
    size: int

    def read(self, offset: int, count: int) -> bytes:
        """Return up to `count` bytes from an offset on; fewer where the file ends."""
        pieces: list[bytes] = []
        while count > 0 and (piece := os.pread(self.descriptor, count, offset)):
            pieces.append(piece)
            offset, count = offset + len(piece), count - len(piece)
        return b"".join(pieces)


Read = Callable[[Opened], T]


class Contents:
    """Remembers what was read of each file until the file changes."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._known: dict[tuple[str, Read[object]], tuple[Identity, object]] = {}

    def of(self, file: SourceFile, read: Read[T]) -> T:
        """Return what `read` makes of a file.

        Args:
            file: as it was found.
            read: a function of a module, so that it is the same the next time.

        Raises:
            UnreadableError: it cannot be read, or is no longer as it was found.
        """
        key = (file.path, cast("Read[object]", read))
        known = self._known.get(key)
        if known is not None and known[0] == file.identity:
            return cast("T", known[1])
        value = _read(file, read)
        self._known[key] = (file.identity, value)
        return value

    def forget(self, paths: Collection[str]) -> None:
        """Forget what was read of files other than these."""
        self._known = {key: known for key, known in self._known.items() if key[0] in paths}


def _read(file: SourceFile, read: Read[T]) -> T:
    """Open a file, read it, and make sure that it stayed as it was."""
    try:
        descriptor = os.open(file.location, _OPEN)
    except OSError as error:
        raise UnreadableError(f"{file.path} cannot be read: {error.strerror}") from error
    try:
        if not file.is_still(os.fstat(descriptor)):
            raise UnreadableError(f"{file.path} is being written to")
        value = read(Opened(descriptor, file.size))
        if not file.is_still(os.fstat(descriptor)):
            raise UnreadableError(f"{file.path} is being written to")
    except OSError as error:
        raise UnreadableError(f"{file.path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    return value


@contextmanager
def told() -> Iterator[None]:
    """Turn the error of this room into those that callers know.

    Raises:
        SourceChangedError: a file is being written to.
        DiskError: one cannot be read.
    """
    try:
        yield
    except UnreadableError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error.__cause__, FileNotFoundError):
            raise DiskError(str(error)) from error
        raise SourceChangedError(str(error)) from error
