"""HTTP/1.1 for the loopback server: bodies received into memory of their own, answers sent from views."""

from __future__ import annotations

import secrets
import socket
import socketserver
import threading
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from ckptsync.testing.gcs import json_api, json_upload, xml_api
from ckptsync.testing.gcs.payload import SEGMENT_BYTES, Payload, allocate
from ckptsync.testing.gcs.uploads import MAX_PART_BYTES
from ckptsync.testing.gcs.wire import (
    CLIENT_CLOSED,
    Fault,
    GcsError,
    Kind,
    Request,
    Response,
    Target,
    error_response,
    invalid,
)

IDLE_S = 60.0
STOP_S = 10.0
ONE_SEND_BYTES = 64 << 10
MAX_OBJECT_BYTES = 5 << 40
CRLF_BYTES = 2

BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})


class Answering(Protocol):
    """What stands behind the HTTP layer."""

    root: Path | None

    def respond(self, request: Request) -> tuple[Response, Fault | None]:
        """Answer a whole request."""
        ...

    def receive_broken(self, request: Request) -> None:
        """Note a request whose body broke off."""
        ...


def _route(method: str, path: str, query: Mapping[str, list[str]], headers: Mapping[str, str]) -> Target:
    if path.startswith(("/upload/storage/v1/", "/resumable/upload/storage/v1/")):
        return json_upload.route(method, path, query, headers)
    if path.startswith(("/storage/v1/", "/download/storage/v1/", "/batch/storage/v1")):
        return json_api.route(method, path, query)
    return xml_api.route(method, path, query)


class Listener(socketserver.ThreadingTCPServer):
    """Accepts connections, and knows which are open."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], gcs: Answering) -> None:
        self.gcs = gcs
        self._open: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note the connection before its thread starts."""
        with self._changed:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection; its thread is about to end."""
        super().shutdown_request(request)
        with self._changed:
            self._open.discard(request)
            self._changed.notify_all()

    def hang_up(self) -> None:
        """Close what is open and wait until the threads have let go."""
        with self._changed:
            for connection in self._open:
                _shut(connection)
            self._changed.wait_for(lambda: not self._open, timeout=STOP_S)


class _Handler(BaseHTTPRequestHandler):
    """One connection: reads requests, sends answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_S
    server: Listener

    def _serve(self) -> None:
        """Read a body into memory of its own, have it answered, send the answer."""
        parts = urlsplit(self.path)
        query = parse_qs(parts.query, keep_blank_values=True)
        headers = {name.lower(): ",".join(self.headers.get_all(name, [])) for name in self.headers}
        target = _route(self.command, parts.path, query, headers)
        try:
            body, complete = self._read_body(headers, target)
        except GcsError as error:
            self.close_connection = True  # the body is still on its way, and unread
            self._send(error_response(error, target), None)
            return
        request = Request(
            method=self.command,
            path=parts.path,
            query=query,
            headers=headers,
            target=target,
            body=body,
            complete=complete,
        )
        if complete:
            self._send(*self.server.gcs.respond(request))
        else:
            self.close_connection = True
            self.server.gcs.receive_broken(request)

    def handle_one_request(self) -> None:
        """Serve one request; a client that was killed between two is no error."""
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = _serve  # noqa: N815  names http.server looks for

    def _read_body(self, headers: Mapping[str, str], target: Target) -> tuple[Payload, bool]:
        """Read what the client announced; False when it hung up before the end.

        Raises:
            GcsError: 400, 411 or 503, it will not be read to its end.
        """
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return self._read_chunked()
        length = headers.get("content-length")
        if length is None and self.command in {"PUT", "POST", "PATCH"}:
            raise GcsError(411, "lengthRequired", "MissingContentLength", "A Content-Length header is required.")
        if length is not None and not (length.isascii() and length.isdigit()):
            raise invalid(f"Invalid Content-Length: {length!r}")
        size_bytes = int(length or 0)
        if size_bytes > (MAX_PART_BYTES if target.kind is Kind.PARTS_PUT else MAX_OBJECT_BYTES):
            raise invalid("Your proposed upload is larger than the maximum object size.", code="EntityTooLarge")
        return self._read(size_bytes)

    def _read(self, size_bytes: int) -> tuple[Payload, bool]:
        segments: list[memoryview] = []
        for start in range(0, size_bytes, SEGMENT_BYTES):
            try:
                view = allocate(min(SEGMENT_BYTES, size_bytes - start), self.server.gcs.root)
            except OSError as error:
                message = f"The loopback server cannot store a body of {size_bytes} bytes: {error}"
                raise GcsError(503, "backendError", "ServiceUnavailable", message) from error
            filled = self._fill(view)
            segments.append(view[:filled])
            if filled < len(view):
                return Payload(segments), False
        return Payload(segments), True

    def _fill(self, view: memoryview) -> int:
        """Receive until the view is full or the client is gone; how far it got."""
        filled = 0
        while filled < len(view):
            try:
                count = self.rfile.readinto1(view[filled:])
            except OSError:
                break
            if not count:
                break
            filled += count
        return filled

    def _read_chunked(self) -> tuple[Payload, bool]:
        payloads: list[Payload] = []
        while True:
            try:
                size_bytes = int(self.rfile.readline(1024).split(b";")[0], 16)
            except (OSError, ValueError):
                return Payload.join(payloads), False
            payload, complete = self._read(size_bytes)
            payloads.append(payload)
            ending = self._fill(memoryview(bytearray(2)))
            if not complete or ending < CRLF_BYTES or not size_bytes:
                return Payload.join(payloads), complete and ending == CRLF_BYTES

    def _send(self, response: Response, fault: Fault | None) -> None:
        """Put an answer on the wire, or hang up as the fault says."""
        if fault is not None and fault.drop:
            self.close_connection = True
            _shut(self.connection)
            return
        body = response.body
        headers = {
            "Date": formatdate(usegmt=True),
            "Server": "UploadServer",
            "X-GUploader-UploadID": secrets.token_urlsafe(24),
            **response.headers,
        }
        if response.status not in BODILESS:
            headers["Content-Length"] = str(body.size)
        if self.close_connection:
            headers["Connection"] = "close"
        if self.command == "HEAD":
            body = Payload()
        if fault is not None and fault.cut_bytes is not None:
            self.close_connection = True
            body = body.slice(0, fault.cut_bytes)
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"HTTP/1.1 {response.status} {_phrase(response.status)}\r\n{lines}\r\n".encode()
        try:
            self._send_all(head, body)
        except OSError:
            self.close_connection = True

    def _send_all(self, head: bytes, body: Payload) -> None:
        if body.size <= ONE_SEND_BYTES:
            self.connection.sendall(head + bytes(body))
            return
        self.connection.sendall(head)
        for segment in body.segments:
            self.connection.sendall(segment)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class's name
        """Say nothing: `GcsServer.requests` is the log."""


def _phrase(status: int) -> str:
    if status == CLIENT_CLOSED:
        return "Client Closed Request"
    return HTTPStatus(status).phrase if status != HTTPStatus.PERMANENT_REDIRECT else "Resume Incomplete"


def _shut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
