"""A way to a port of this machine that takes its time: bytes arrive so much later, at whatever rate they were sent.

They wait in pipes, into and out of which the kernel moves them without a copy, so that the proxy costs less than what it stands in
front of. Connections take two more delays before their first byte arrives, as the handshake would. What is not modelled: loss,
slow start. A connection has at most `PIPES` MiB under way in each direction; then it waits, as TCP's window would make it.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass

HOST = "127.0.0.1"
PIPES = 32
PIPE_BYTES = 1 << 20
Pipe = tuple[int, int]


@dataclass(slots=True)
class _Waiting:
    """Bytes under way.

    Attributes:
        due_s: when they arrive.
        pipe: where they wait; None for the end of the stream.
        size: how many.
    """

    due_s: float
    pipe: Pipe | None
    size: int


class OneWay:
    """One direction of one connection: a thread that takes bytes, one that hands them on when they are due."""

    def __init__(self, source: socket.socket, target: socket.socket, delay_s: float, opening_s: float) -> None:
        self.source = source
        self.target = target
        self.delay_s = delay_s
        self.not_before_s = time.monotonic() + opening_s
        self.pipes: list[Pipe] = []
        self.free: list[Pipe] = []
        self.under_way: deque[_Waiting] = deque()
        self.changed = threading.Condition()

    def start(self) -> list[threading.Thread]:
        """Begin; the threads."""
        threads = [threading.Thread(target=work, daemon=True) for work in (self._take, self._hand_on)]
        for thread in threads:
            thread.start()
        return threads

    def _pipe(self) -> Pipe:
        """An empty pipe; waits for one when there are enough."""
        with self.changed:
            self.changed.wait_for(lambda: self.free or len(self.pipes) < PIPES)
            if self.free:
                return self.free.pop()
            self.pipes.append(pipe := os.pipe())
        fcntl.fcntl(pipe[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        return pipe

    def _take(self) -> None:
        """Take what comes, as much as a pipe holds each time."""
        size = 1
        while size:
            pipe = self._pipe()
            try:
                size = os.splice(self.source.fileno(), pipe[1], PIPE_BYTES)
            except OSError:
                size = 0
            now_s = max(time.monotonic(), self.not_before_s)
            with self.changed:
                self.under_way.append(_Waiting(now_s + self.delay_s, pipe if size else None, size))
                self.changed.notify_all()

    def _hand_on(self) -> None:
        """Hand on what is due, until the stream ends or nobody takes it."""
        with suppress(OSError):
            while (waiting := self._next()).pipe is not None:
                left = waiting.size
                while left:
                    left -= os.splice(waiting.pipe[0], self.target.fileno(), left)
                with self.changed:
                    self.free.append(waiting.pipe)
                    self.changed.notify_all()
        for sock, how in ((self.target, socket.SHUT_WR), (self.source, socket.SHUT_RD)):
            with suppress(OSError):
                sock.shutdown(how)

    def _next(self) -> _Waiting:
        """What arrives next, when it does."""
        with self.changed:
            self.changed.wait_for(lambda: self.under_way)
            waiting = self.under_way.popleft()
        if (pause_s := waiting.due_s - time.monotonic()) > 0:
            time.sleep(pause_s)
        return waiting

    def close(self) -> None:
        """Let go of the pipes."""
        for descriptor in (descriptor for pipe in self.pipes for descriptor in pipe):
            os.close(descriptor)


def serve(client: socket.socket, port: int, delay_s: float) -> None:
    """Join one client with the service until both have closed."""
    with client, socket.create_connection((HOST, port)) as service:
        for sock in (client, service):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ways = [OneWay(client, service, delay_s, 2 * delay_s), OneWay(service, client, delay_s, 0.0)]
        for thread in [thread for way in ways for thread in way.start()]:
            thread.join()
        for way in ways:
            way.close()


def main() -> None:
    """`python -m bench.delay PORT SECONDS`: serve until standard input ends."""
    port, delay_s = int(sys.argv[1]), float(sys.argv[2])
    listener = socket.create_server((HOST, 0), backlog=512)

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client, port, delay_s), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdout.write(json.dumps({"tcp": listener.getsockname()[1]}) + "\n")
    sys.stdout.flush()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main()
