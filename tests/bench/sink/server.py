"""The sink as a process: a thread for each connection, in plain HTTP and, when asked, in TLS beside it."""

from __future__ import annotations

import argparse
import json
import resource
import socket
import ssl
import sys
import threading
from contextlib import suppress
from pathlib import Path

from bench.sink import json_api, xml_api
from bench.sink.state import State
from bench.sink.wire import ClosedError, Connection, Request, Traffic

HOST = "127.0.0.1"
BACKLOG = 512


class Sink:
    """Listens on loopback until the process ends.

    Attributes:
        state: what it holds.
        traffic: what went through.
    """

    def __init__(self, blob: Path) -> None:
        self.state = State(blob)
        self.traffic = Traffic()
        self._listeners: list[socket.socket] = []

    def listen(self, tls: ssl.SSLContext | None = None) -> int:
        """Begin to accept connections; the port."""
        listener = socket.create_server((HOST, 0), backlog=BACKLOG)
        self._listeners.append(listener)
        threading.Thread(target=self._accept, args=(listener, tls), daemon=True).start()
        port: int = listener.getsockname()[1]
        return port

    def _accept(self, listener: socket.socket, tls: ssl.SSLContext | None) -> None:
        with suppress(OSError):  # closed
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._serve, args=(sock, tls), daemon=True).start()

    def close(self) -> None:
        """Accept no more connections; those that are open end with their clients."""
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _serve(self, sock: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Answer the requests of one connection."""
        with suppress(OSError, ClosedError):
            wire = Connection(tls.wrap_socket(sock, server_side=True) if tls else sock, self.traffic)
            try:
                while (request := wire.request()) is not None:
                    self._answer(wire, request)
                    if request.headers.get("connection", "").lower() == "close":
                        break
            finally:
                wire.close()

    def _answer(self, wire: Connection, request: Request) -> None:
        if request.path.startswith("/-/"):
            self._control(wire, request)
        elif json_api.is_json(request.path):
            json_api.handle(self.state, wire, request)
        else:
            xml_api.handle(self.state, wire, request)

    def _control(self, wire: Connection, request: Request) -> None:
        """What the harness asks: `/-/usage`, and `/-/reset` to forget all objects."""
        wire.drop_body(request)
        if request.path == "/-/reset":
            self.state.reset()
        used = resource.getrusage(resource.RUSAGE_SELF)
        told = {
            "cpu_s": used.ru_utime + used.ru_stime,
            "peak_rss_bytes": used.ru_maxrss * 1024,
            "requests": self.traffic.requests,
            "bytes_in": self.traffic.bytes_in,
            "bytes_out": self.traffic.bytes_out,
        }
        wire.reply(200, {"Content-Type": "application/json"}, json.dumps(told).encode())


def main() -> None:
    """Serve until standard input ends, which it does when whoever started us is gone."""
    parser = argparse.ArgumentParser(prog="python -m bench.sink", description=__doc__)
    parser.add_argument("blob", type=Path, help="the file of which clients upload copies")
    parser.add_argument("--certificate", type=Path, help="PEM of a certificate and its key: serve TLS too")
    options = parser.parse_args()
    sink = Sink(options.blob)
    ports = {"http": sink.listen()}
    if options.certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(options.certificate)
        ports["https"] = sink.listen(tls)
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()
