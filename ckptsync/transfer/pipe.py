"""What a helper process and its parent tell each other: batches of records, each behind its length."""

from __future__ import annotations

from typing import IO, TypeVar

import msgspec

from ckptsync.events import Event, Kind
from ckptsync.options import Config
from ckptsync.snapshot.manifest import FileEntry

T = TypeVar("T")

_LENGTH_BYTES = 4


class Send(msgspec.Struct, frozen=True, tag="send"):
    """A file that is to be sent.

    Attributes:
        path: in the snapshot.
        location: on this machine; bytes, since it need not be text.
        identity: as first seen: device, inode, size, times.
        mode: permission bits.
        previous: as the snapshot before has it.
    """

    path: str
    location: bytes
    identity: tuple[int, int, int, int, int]
    mode: int
    previous: FileEntry | None


class Fetch(msgspec.Struct, frozen=True, tag="fetch"):
    """A file that is to be fetched."""

    entry: FileEntry

    @property
    def path(self) -> str:
        """In the snapshot."""
        return self.entry.path


Job = Send | Fetch


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a helper is told first.

    Attributes:
        url: of the run.
        config: the options in force.
        snapshot: the attempt that files are sent for; empty when they are fetched.
        shared: other ranks may write the same keys.
        folder: where files are fetched to.
    """

    url: str
    config: Config
    snapshot: str = ""
    shared: bool = False
    folder: bytes = b""


class Told(msgspec.Struct, frozen=True, tag="event"):
    """An event."""

    kind: Kind
    bytes: int
    count: int
    path: str
    message: str

    @property
    def event(self) -> Event:
        """As observers know it."""
        return Event(kind=self.kind, bytes=self.bytes, count=self.count, path=self.path, message=self.message)


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A job that is done; the file's entry."""

    entry: FileEntry


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """A job that is handed back."""

    path: str


Report = Told | Done | Failed


def write(stream: IO[bytes], batch: object) -> None:
    """Send one batch.

    Raises:
        OSError: nobody is there any more.
    """
    content = msgspec.msgpack.encode(batch)
    stream.write(len(content).to_bytes(_LENGTH_BYTES, "big") + content)
    stream.flush()


def read(stream: IO[bytes], kind: type[T]) -> T:
    """Wait for one batch.

    Raises:
        EOFError: the other side has ended.
        msgspec.DecodeError: it sent something else.
    """
    return msgspec.msgpack.decode(_exactly(stream, int.from_bytes(_exactly(stream, _LENGTH_BYTES), "big")), type=kind)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError("the other side has ended")
    return content
