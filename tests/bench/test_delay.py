"""The delayed way delays, both ways and the first byte of a connection once more, and changes nothing."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from support.descriptors import open_files

from bench.delay import HOST, serve

DELAY_S = 0.05


@pytest.fixture
def far() -> Iterator[tuple[socket.socket, float]]:
    """A client's end of a delayed connection to a service that sends back what it gets, and when it was opened."""
    with socket.create_server((HOST, 0)) as service, socket.create_server((HOST, 0)) as front:

        def echo() -> None:
            with service.accept()[0] as peer:
                while data := peer.recv(1 << 16):
                    peer.sendall(data)

        def join() -> None:
            serve(front.accept()[0], service.getsockname()[1], DELAY_S)

        threads = [threading.Thread(target=work) for work in (echo, join)]
        for thread in threads:
            thread.start()
        opened_s = time.monotonic()
        with socket.create_connection(front.getsockname()) as client:
            yield client, opened_s
        for thread in threads:
            thread.join(timeout=30)


def test_bytes_arrive_later_and_whole(far: tuple[socket.socket, float]) -> None:
    client, begun_s = far
    waits_s = []
    for size in (1, 1, 3_000_000):
        sent = os.urandom(size)
        sender = threading.Thread(target=client.sendall, args=(sent,))
        sender.start()
        received = bytearray()
        while len(received) < size:
            received += client.recv(1 << 16)
        sender.join()
        assert received == sent
        waits_s.append(time.monotonic() - begun_s)
        begun_s = time.monotonic()
    assert waits_s[0] >= 4 * DELAY_S
    assert all(wait_s >= 2 * DELAY_S for wait_s in waits_s)


def test_a_connection_that_ended_leaves_no_pipe_open() -> None:
    before = pipes()
    with socket.create_server((HOST, 0)) as service, socket.create_server((HOST, 0)) as front:
        joined = threading.Thread(target=lambda: serve(front.accept()[0], service.getsockname()[1], 0.0))
        joined.start()
        with socket.create_connection(front.getsockname()) as client, service.accept()[0] as peer:
            client.sendall(b"x")
            assert peer.recv(1) == b"x"
            assert len(pipes() - before) >= 2
        joined.join(timeout=30)
    assert pipes() - before == set()


def pipes() -> set[str]:
    """Pipes that this process has open."""
    return {str(path) for path in open_files() if str(path).startswith("pipe:")}
