"""A loopback S3 whose every answer the test writes itself."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from awscrt import checksums

from ckptsync.options import Http
from ckptsync.store.s3 import S3Store

Open = Callable[..., S3Store]
ETAG = '"900150983cd24fb0d6963f7d28e17f72"'
HTTP = Http(connect_timeout_s=5, read_timeout_s=5)


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes


@dataclass
class Says:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None  # close the connection after so many bytes of the body


Answer = Callable[[Asked], Says]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: a client that hangs up is what some tests are about."""


class Service:
    """Answers each request with the next of `script`, the last one for ever."""

    def __init__(self) -> None:
        self.script: list[Says | Answer] = []
        self.asked: list[Asked] = []
        self.connections = 0
        service, lock = self, threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 10

            def setup(self) -> None:
                service.connections += 1
                super().setup()

            def answer(self) -> None:
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                query = parse_qs(parts.query, keep_blank_values=True)
                asked = Asked(self.command, parts.path, query, headers, body)
                with lock:
                    service.asked.append(asked)
                    says = service.script.pop(0) if len(service.script) > 1 else service.script[0]
                if callable(says):
                    says = says(asked)
                self.send_response(says.status)
                for name, value in {"Content-Length": str(len(says.body)), **says.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(says.body[: says.cut_at])
                self.close_connection = says.cut_at is not None

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer  # noqa: N815  named by the base class

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def refusal(code: str, status: int, message: str = "no", **headers: str) -> Says:
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Says(status, body.encode(), {"x-amz-request-id": "R1", **headers})


def crc(data: bytes) -> str:
    return base64.b64encode(checksums.crc64nvme(data).to_bytes(8, "big")).decode()


def crc_hex(data: bytes) -> str:
    return f"{checksums.crc64nvme(data):016x}"


def head(size: int, **headers: str) -> Says:
    return Says(headers={"Content-Length": str(size), "ETag": ETAG, **headers})
