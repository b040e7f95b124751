"""HTTP/1.1 as it travels: heads that are passed on unchanged, bodies that are passed on piece by piece.

Source: https://www.rfc-editor.org/rfc/rfc9112 (framing of messages)
"""

from __future__ import annotations

import fcntl
import select
import socket
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

PIECE_BYTES = 64 << 10
MAX_HEAD_BYTES = 64 << 10

ARRIVAL_S = 2.0
POLL_S = 0.001

_INT = bytes(4)
_NO_CONTENT = 204
_NOT_MODIFIED = 304
_SUCCESS = 200
_LINGER_FOREVER_NEVER = struct.pack("ii", 1, 0)  # closing sends RST and drops what was not sent yet


class BrokenOffError(Exception):
    """The peer hung up, or what it said is no HTTP/1.1."""


@dataclass(frozen=True, slots=True)
class Head:
    """A start line and its header fields, in order and to the letter."""

    start: str
    fields: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """Return a field's value, empty when there is none; the first of several."""
        return next((value for key, value in self.fields if key.lower() == name.lower()), "")

    def without(self, *names: str) -> Head:
        """Leave fields out."""
        dropped = {name.lower() for name in names}
        return replace(self, fields=tuple(field for field in self.fields if field[0].lower() not in dropped))

    @property
    def method(self) -> str:
        """Of a request."""
        return self.start.split(" ", 1)[0]

    @property
    def target(self) -> str:
        """Path and query of a request."""
        return self.start.split(" ")[1]

    @property
    def status(self) -> int:
        """Of an answer."""
        return int(self.start.split(" ")[1])

    @property
    def closes(self) -> bool:
        """Whether the connection ends after this message."""
        return self.get("connection").lower() == "close" or "HTTP/1.0" in self.start

    def encode(self) -> bytes:
        """Write it as it travels."""
        lines = [self.start, *(f"{name}: {value}" for name, value in self.fields)]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


class Peer:
    """One end of a connection, with what was received and not used yet. For one thread."""

    def __init__(self, connection: socket.socket) -> None:
        """Take over a connected socket."""
        self.socket = connection
        self._held = b""
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def read(self, most: int) -> bytes:
        """Return the next bytes, at least one.

        Raises:
            BrokenOffError: no more will come.
        """
        if self._held:
            piece, self._held = self._held[:most], self._held[most:]
            return piece
        try:
            piece = self.socket.recv(most)
        except OSError as error:
            raise BrokenOffError(str(error)) from error
        if not piece:
            raise BrokenOffError("the peer hung up")
        return piece

    def read_line(self) -> bytes:
        """Return the next line with its end."""
        while b"\n" not in self._held:
            if len(self._held) > MAX_HEAD_BYTES:
                raise BrokenOffError("a line does not end")
            held, self._held = self._held, b""
            self._held = held + self.read(PIECE_BYTES)
        line, newline, self._held = self._held.partition(b"\n")
        return line + newline

    def read_head(self) -> Head:
        """Return the next message's head.

        Raises:
            BrokenOffError: the peer hung up, also between two messages, or this is no head.
        """
        lines: list[str] = []
        size = 0
        while line := self.read_line().rstrip(b"\r\n"):
            size += len(line)
            if size > MAX_HEAD_BYTES:
                raise BrokenOffError("a head does not end")
            lines.append(line.decode("latin-1"))
        if not lines or lines[0].count(" ") < 1:
            raise BrokenOffError("no HTTP/1.1")
        pairs = (line.partition(":") for line in lines[1:])
        return Head(lines[0], tuple((name, value.strip()) for name, _, value in pairs))

    def peek(self, most: int) -> bytes:
        """Return what comes next, at most so many bytes, and leave it there; waits for them."""
        with suppress(BrokenOffError):
            while len(self._held) < most:
                held, self._held = self._held, b""
                try:
                    self._held = held + self.read(PIECE_BYTES)
                except BrokenOffError:
                    self._held = held
                    raise
        return self._held[:most]

    def send(self, data: bytes) -> None:
        """Send all of it.

        Raises:
            BrokenOffError: the peer takes no more.
        """
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise BrokenOffError(str(error)) from error

    @property
    def has_more(self) -> bool:
        """Whether reading would not wait; true also when the peer hung up."""
        return bool(self._held) or bool(select.select([self.socket], [], [], 0)[0])

    def wait_gone(self) -> None:
        """Wait until the peer hung up, reading nothing."""
        watched = select.poll()
        # POLLRDHUP is Linux's; elsewhere only the end of the whole proxy is noticed
        watched.register(self.socket, getattr(select, "POLLRDHUP", 0) | select.POLLHUP)
        watched.poll()

    def hang_up(self, *, reset: bool = False) -> None:
        """Close: in order, or with `reset` by RST, once what was sent has arrived. Safe to call again."""
        with suppress(OSError):
            if reset:
                with suppress(OSError):  # elsewhere than on Linux a socket may not tell
                    self._await_arrival()
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_FOREVER_NEVER)
            else:
                self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _await_arrival(self) -> None:
        """Wait until the peer's kernel has everything that was sent, but not for ever: an RST drops what is under way."""
        until_s = time.monotonic() + ARRIVAL_S
        while time.monotonic() < until_s:
            left = fcntl.ioctl(self.socket, termios.TIOCOUTQ, _INT)  # on Linux: bytes the other side did not confirm
            if left == _INT:
                return
            time.sleep(POLL_S)


class Body:
    """The body of one message, read once: payload first, then it can be written in the same framing.

    Attributes:
        left: bytes of a body of known length that were not read yet; None when its length is not known.
        trailer: what stood behind a chunked body's last chunk.
    """

    def __init__(self, peer: Peer, *, length: int | None = 0, chunked: bool = False) -> None:
        """Begin at the message's first byte behind its head; a length of None reads until the peer hangs up."""
        self._peer = peer
        self.left = None if chunked else length
        self.chunked = chunked
        self.trailer = b""

    @property
    def until_close(self) -> bool:
        """Whether only the end of the connection ends the body."""
        return self.left is None and not self.chunked

    def pieces(self) -> Iterator[bytes]:
        """Yield the payload.

        Raises:
            BrokenOffError: the peer hung up before its end.
        """
        if self.chunked:
            yield from self._chunks()
            return
        while self.left is None or self.left > 0:
            try:
                piece = self._peer.read(PIECE_BYTES if self.left is None else min(PIECE_BYTES, self.left))
            except BrokenOffError:
                if self.left is None:
                    return
                raise
            if self.left is not None:
                self.left -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        """Payload of a chunked body; keeps what stands behind it."""
        while True:
            try:
                left = int(self._peer.read_line().split(b";")[0], 16)
            except ValueError as error:
                raise BrokenOffError("no chunk begins here") from error
            if not left:
                break
            while left:
                piece = self._peer.read(min(PIECE_BYTES, left))
                left -= len(piece)
                yield piece
            self._peer.read_line()
        while (line := self._peer.read_line()).strip():
            self.trailer += line

    def framed(self, piece: bytes) -> bytes:
        """Write a piece as the message's framing wants it; an empty one stays nothing."""
        return b"%x\r\n%s\r\n" % (len(piece), piece) if self.chunked and piece else piece

    def ending(self) -> bytes:
        """Write what follows the last piece."""
        return b"0\r\n" + self.trailer + b"\r\n" if self.chunked else b""


def request_body(peer: Peer, head: Head) -> Body:
    """Body that follows a request's head."""
    if "chunked" in head.get("transfer-encoding").lower():
        return Body(peer, chunked=True)
    return Body(peer, length=_length(head) or 0)


def answer_body(peer: Peer, head: Head, method: str) -> Body:
    """Body that follows an answer's head; HEAD, 204 and 304 have none."""
    if method == "HEAD" or head.status in {_NO_CONTENT, _NOT_MODIFIED} or head.status < _SUCCESS:
        return Body(peer)
    if "chunked" in head.get("transfer-encoding").lower():
        return Body(peer, chunked=True)
    return Body(peer, length=_length(head))


def _length(head: Head) -> int | None:
    """Content-Length; None when there is none."""
    text = head.get("content-length")
    if text and not text.isdecimal():
        raise BrokenOffError("no length")
    return int(text) if text else None
