"""A loopback server that answers, or does not, as slowly as a test wants."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

Serve = Callable[["Caller"], None]
LISTEN_BYTES = 4 << 10  # of the receive buffer, so that what is not read soon blocks the sender


class Caller:
    """One request on one connection."""

    def __init__(self, server: SlowServer, sock: socket.socket, head: bytes) -> None:
        self.server, self.sock, self.head = server, sock, head

    def header(self, name: str) -> str:
        lines = self.head.decode("latin-1").split("\r\n")
        return next((line.partition(": ")[2] for line in lines if line.lower().startswith(f"{name.lower()}: ")), "")

    def drip(self, data: bytes, *, step: int, every_s: float) -> None:
        """Send a few bytes at a time, until the client hangs up."""
        for start in range(0, len(data), step):
            self.sock.sendall(data[start : start + step])
            if self.server.stopped.wait(every_s):
                return

    def swallow(self, *, step: int, every_s: float) -> None:
        """Read a few bytes at a time, until the client hangs up."""
        while self.sock.recv(step) and not self.server.stopped.wait(every_s):
            pass

    def say_nothing(self) -> None:
        """Wait until the client hangs up; what it sends is read."""
        while self.sock.recv(1 << 16):
            pass


class SlowServer:
    """Serves each connection in a thread: reads a request's head, then `serve` does what it wants."""

    def __init__(self, serve: Serve) -> None:
        self.serve = serve
        self.stopped = threading.Event()
        self.heads: list[bytes] = []
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, LISTEN_BYTES)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(16)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self.stopped.is_set():
                sock, _ = self._listener.accept()
                self._open.append(sock)
                thread = threading.Thread(target=self._talk, args=(sock,))
                self._threads.append(thread)
                thread.start()

    def _talk(self, sock: socket.socket) -> None:
        with sock, suppress(OSError):
            while not self.stopped.is_set():
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    if not (byte := sock.recv(1)):
                        return
                    head += byte
                self.heads.append(head)
                self.serve(Caller(self, sock, head))

    def close(self) -> None:
        self.stopped.set()
        for sock in [self._listener, *self._open]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()
