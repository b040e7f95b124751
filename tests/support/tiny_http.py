"""A tiny HTTP server that keeps what it is sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Seen:
    """A request as the server saw it."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Upstream:
    """What the server has, and what it saw."""

    url: str = ""
    objects: dict[str, bytes] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)


@dataclass
class Got:
    """An answer as a client got it."""

    status: int
    headers: Mapping[str, str]
    body: bytes


Ask = Callable[..., Got]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        super().__init__(("127.0.0.1", 0), _Handler)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def serve(self) -> None:
        body = self.read_chunked() if self.headers.get("Transfer-Encoding") else self.read_counted()
        self.server.upstream.seen.append(Seen(self.command, self.path, dict(self.headers), body))
        if self.command == "PUT":
            self.server.upstream.objects[self.path] = body
            self.answer(200, b"")
        elif self.command == "DELETE":
            self.server.upstream.objects.pop(self.path, None)
            self.send_response(204)
            self.end_headers()
        else:
            self.give()

    def give(self) -> None:
        path, _, how = self.path.partition("?")
        if how == "chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Trailer", "x-sum")
            self.end_headers()
            for piece in (self.server.upstream.objects[path][:7], self.server.upstream.objects[path][7:]):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\nx-sum: 1\r\n\r\n")
        elif how == "until-close":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(self.server.upstream.objects[path])
            self.close_connection = True
        elif path in self.server.upstream.objects:
            self.answer(200, self.server.upstream.objects[path])
        else:
            self.answer(404, b"not there")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def read_counted(self) -> bytes:
        wanted = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(wanted)
        if len(body) < wanted:
            raise ConnectionError("the client hung up")
        return body

    def read_chunked(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def handle_expect_100(self) -> bool:
        if "refuse" in self.path:
            self.close_connection = True
            self.answer(403, b"no")
            return False
        return super().handle_expect_100()

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@contextmanager
def tiny_server() -> Iterator[Upstream]:
    """Serve until the block ends."""
    found = Upstream()
    with _Server(found) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield found
        server.shutdown()
        thread.join()
