"""What moving the bytes costs at least: sockets, a file or memory, and, in one variant, the hash. Nothing is checked or retried."""

from __future__ import annotations

import mmap
import os
import socket
import ssl
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from blake3 import blake3
from meter import Job, Move, main

PART_BYTES, WORKERS = 16 << 20, 4
MIB = 1 << 20


class Line:
    """One connection, kept open, with a buffer of its own."""

    def __init__(self, job: Job) -> None:
        parts = urlsplit(job.endpoint)
        sock = socket.create_connection((parts.hostname, parts.port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if job.authority:
            context = ssl.create_default_context(cafile=job.authority)
            sock = context.wrap_socket(sock, server_hostname=parts.hostname)
        self.sock = sock
        self.buffer = memoryview(mmap.mmap(-1, PART_BYTES))
        self.buffer[:: mmap.PAGESIZE] = bytes(len(self.buffer) // mmap.PAGESIZE)

    def ask(self, method: str, target: str, headers: str, body: memoryview | None = None) -> memoryview:
        """Send a request, read the answer's head into the buffer's end; what came behind it."""
        self.sock.sendall(f"{method} {target} HTTP/1.1\r\nHost: x\r\nAuthorization: none\r\n{headers}\r\n\r\n".encode())
        if body is not None:
            self.sock.sendall(body)
        head = bytearray()
        while (end := head.find(b"\r\n\r\n")) < 0:
            head += self.sock.recv(4096)
        assert head.startswith(b"HTTP/1.1 20"), head[:200]
        return memoryview(head)[end + 4 :]

    def receive(self, view: memoryview, ahead: memoryview) -> None:
        """Fill `view`, which begins with what was read ahead."""
        done = len(ahead)
        view[:done] = ahead
        while done < len(view):
            done += self.sock.recv_into(view[done : done + MIB])


def connect(job: Job) -> tuple[Move, Move]:
    """Open one connection for each worker."""
    lines = [Line(job) for _ in range(WORKERS)]
    in_memory, hashed = "memory" in job.variant, "blake3" in job.variant
    base = f"/{job.bucket}/"
    blob = memoryview(mmap.mmap(os.open(job.blob, os.O_RDONLY), 0, prot=mmap.PROT_READ))

    def put(key: str, path: Path) -> None:
        size, descriptor = path.stat().st_size, os.open(path, os.O_RDONLY)

        def part(line: Line, start: int) -> None:
            length = min(PART_BYTES, size - start)
            if in_memory and size == job.size:
                view = blob[start : start + length]
            else:
                view = line.buffer[:length]
                os.preadv(descriptor, [view], start)
            if hashed:
                blake3(view).digest()
            line.ask("PUT", f"{base}{key}", f"Content-Length: {length}", view)

        spread(lines, part, size)
        os.close(descriptor)

    def get(key: str, path: Path) -> None:
        size = 4096 if path.name.startswith("warm") else job.size
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)

        def part(line: Line, start: int) -> None:
            view = line.buffer[: min(PART_BYTES, size - start)]
            ahead = line.ask("GET", f"{base}{key}", f"Range: bytes={start}-{start + len(view) - 1}")
            line.receive(view, ahead)
            if hashed:
                blake3(view).digest()
            if not in_memory:
                os.pwrite(descriptor, view, start)

        spread(lines, part, size)
        os.close(descriptor)

    return put, get


def spread(lines: list[Line], part: Callable[[Line, int], None], size: int) -> None:
    """Let every line work through its share of the parts."""

    def work(number: int) -> None:
        for start in range(number * PART_BYTES, size, len(lines) * PART_BYTES):
            part(lines[number], start)

    with ThreadPoolExecutor(len(lines)) as pool:
        list(pool.map(work, range(len(lines))))


main(connect)
