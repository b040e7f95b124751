"""Just enough HTTP/1.1 for object stores: heads are parsed, bodies are dropped, kept or sent without a copy where possible."""

from __future__ import annotations

import mmap
import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import parse_qsl, unquote

MIB = 1 << 20
MOST_HEAD_BYTES = 1 << 16
# Never touched: MSG_TRUNC makes the kernel drop what would be copied here.
VOID = memoryview(mmap.mmap(-1, 64 * MIB))
_REASONS = {100: "Continue", 200: "OK", 204: "No Content", 206: "Partial Content", 308: "Resume Incomplete"}
_AWS_FRAME = re.compile(rb"([0-9a-fA-F]+)(?:;[^\r]*)?\r\n")


class ClosedError(Exception):
    """The client is gone, or speaks something else."""


@dataclass(slots=True)
class Request:
    """The head of a request.

    Attributes:
        method: GET, PUT…
        path: decoded once, with its leading slash.
        raw_path: as it was sent.
        query: of each name the last value.
        headers: names in small letters.
    """

    method: str
    path: str
    raw_path: str
    query: dict[str, str]
    headers: dict[str, str]

    @property
    def length(self) -> int | None:
        """Bytes of the body on the wire; None when they come in chunks."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            return None
        return int(self.headers.get("content-length", "0"))

    @property
    def is_framed(self) -> bool:
        """Whether the body is in the frames of AWS's SDKs, which carry checksums behind it."""
        return self.headers.get("x-amz-content-sha256", "").startswith("STREAMING-")

    @property
    def payload_bytes(self) -> int | None:
        """Bytes without frames; None when that is not told."""
        told = self.headers.get("x-amz-decoded-content-length")
        return int(told) if told else self.length


@dataclass(slots=True)
class Piece:
    """A range of an open file.

    Attributes:
        descriptor: of a blob, or of anonymous memory that closes when nobody refers to it.
        offset: where it begins.
        size: bytes.
        owner: keeps `descriptor` open.
    """

    descriptor: int
    offset: int
    size: int
    owner: object = None


class Memory:
    """Anonymous memory with a descriptor, which `sendfile` can send."""

    def __init__(self, size: int) -> None:
        self.descriptor = os.memfd_create("sink")
        os.ftruncate(self.descriptor, size)
        self.size = size

    def __del__(self) -> None:
        os.close(self.descriptor)

    def piece(self) -> Piece:
        """All of it."""
        return Piece(self.descriptor, 0, self.size, self)


@dataclass(slots=True)
class Traffic:
    """What went through, roughly: threads add without a lock."""

    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(slots=True)
class Connection:
    """One client's connection.

    Attributes:
        sock: blocking.
        traffic: shared by all.
        ahead: what was read behind the last head.
    """

    sock: socket.socket
    traffic: Traffic
    ahead: bytearray = field(default_factory=bytearray)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(0)))

    @property
    def scheme(self) -> str:
        """Of the addresses that the client can use."""
        return "https" if isinstance(self.sock, ssl.SSLSocket) else "http"

    def request(self) -> Request | None:
        """Read a head; None when the client has closed."""
        while (end := self.ahead.find(b"\r\n\r\n")) < 0:
            if len(self.ahead) > MOST_HEAD_BYTES:
                raise ClosedError
            if not (more := self.sock.recv(MOST_HEAD_BYTES)):
                return None
            self.ahead += more
        head = self.ahead[:end].decode("latin-1").split("\r\n")
        del self.ahead[: end + 4]
        method, target, _ = head[0].split(" ", 2)
        headers = {}
        for line in head[1:]:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        raw, _, query = target.partition("?")
        self.traffic.requests += 1
        if headers.get("expect", "").lower() == "100-continue":
            self.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        return Request(method, unquote(raw), raw, dict(parse_qsl(query, keep_blank_values=True)), headers)

    def _take(self, size: int) -> bytes:
        """Some of what was read ahead, at most `size` bytes."""
        taken = bytes(self.ahead[:size])
        del self.ahead[:size]
        return taken

    def _line(self) -> bytes:
        """Read to the end of a line; the line without it."""
        while (end := self.ahead.find(b"\r\n")) < 0:
            if not (more := self.sock.recv(MOST_HEAD_BYTES)):
                raise ClosedError
            self.ahead += more
        return self._take(end + 2)[:-2]

    def drop(self, size: int) -> None:
        """Let so many bytes of a body go unseen."""
        left = size - len(self._take(size))
        is_plain = not isinstance(self.sock, ssl.SSLSocket)
        if left and not is_plain and not self.buffer:
            self.buffer = memoryview(bytearray(MIB))
        while left:
            if is_plain:
                got = self.sock.recv_into(VOID, min(left, len(VOID)), socket.MSG_TRUNC | socket.MSG_WAITALL)
            else:
                got = self.sock.recv_into(self.buffer, min(left, MIB))
            if not got:
                raise ClosedError
            left -= got
        self.traffic.bytes_in += size

    def fill(self, view: memoryview) -> None:
        """Read exactly as much of a body as `view` takes."""
        done = len(ahead := self._take(len(view)))
        view[:done] = ahead
        while done < len(view):
            if not (got := self.sock.recv_into(view[done:])):
                raise ClosedError
            done += got
        self.traffic.bytes_in += len(view)

    def read(self, size: int) -> bytearray:
        """Read exactly so many bytes of a body."""
        content = bytearray(size)
        self.fill(memoryview(content))
        return content

    def chunks(self) -> Iterator[int]:
        """Sizes of a chunked body's chunks; the caller takes each chunk before it asks for the next."""
        while size := int(self._line().split(b";")[0], 16):
            yield size
            self._line()
        while self._line():
            pass  # trailers

    def drop_body(self, request: Request) -> int:
        """Drop a whole body; how many bytes of payload it had."""
        if request.length is not None:
            self.drop(request.length)
            return request.payload_bytes or 0
        whole = 0
        for size in self.chunks():
            self.drop(size)
            whole += size
        told = request.payload_bytes
        return whole if told is None else told

    def read_body(self, request: Request) -> bytes:
        """Read a whole body, without frames."""
        if request.length is not None:
            content = self.read(request.length)
        else:
            content = bytearray()
            for size in self.chunks():
                content += self.read(size)
        return unframed(content) if request.is_framed else bytes(content)

    def keep_body(self, request: Request) -> Memory:
        """Read a whole body into memory of its own."""
        if request.length is not None and not request.is_framed:
            memory = Memory(request.length)
            if request.length:
                with mmap.mmap(memory.descriptor, request.length) as mapped, memoryview(mapped) as view:
                    self.fill(view)
            return memory
        return memory_of(self.read_body(request))

    def reply(
        self, status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", *, size: int = -1
    ) -> None:
        """Send an answer; `size` is that of a body which follows, or which a HEAD does not get."""
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Other')}", f"Date: {formatdate(usegmt=True)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        if status != 204:
            lines.append(f"Content-Length: {len(body) if size < 0 else size}")
        self.sock.sendall("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    def send(self, piece: Piece) -> None:
        """Send a range of a file, without a copy where there is no TLS."""
        at, end = piece.offset, piece.offset + piece.size
        is_plain = not isinstance(self.sock, ssl.SSLSocket)
        while at < end:
            if is_plain:
                sent = os.sendfile(self.sock.fileno(), piece.descriptor, at, end - at)
            else:
                self.sock.sendall(data := os.pread(piece.descriptor, min(end - at, MIB // 4), at))
                sent = len(data)
            if not sent:
                raise ClosedError
            at += sent
        self.traffic.bytes_out += piece.size

    def close(self) -> None:
        """Close; safe to call again."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def memory_of(content: bytes) -> Memory:
    """Put bytes into memory that has a descriptor."""
    memory, done = Memory(len(content)), 0
    while done < len(content):
        done += os.pwrite(memory.descriptor, content[done:], done)
    return memory


def unframed(content: bytes | bytearray) -> bytes:
    """Take AWS's frames off a body: each is a size in hex, a line end, the bytes, a line end; trailers follow the empty one."""
    payload, at = bytearray(), 0
    while (found := _AWS_FRAME.match(content, at)) and (size := int(found[1], 16)):
        payload += content[found.end() : found.end() + size]
        at = found.end() + size + 2
    return bytes(payload)


def bounds(request: Request, size: int) -> tuple[int, int] | None:
    """Begin and end of the range asked for; None for the whole; an empty range when it cannot be had."""
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not found or not (found[1] or found[2]):
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size
    begin = int(found[1])
    return (begin, min(size, int(found[2]) + 1 if found[2] else size)) if begin < size else (0, 0)
