"""What goes well goes through unchanged."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import tracemalloc

import pytest
from support.tiny_http import Ask, Upstream

from ckptsync.testing.proxy import Proxy, faults

MIB = 1 << 20


def test_requests_and_answers_pass_unchanged_over_one_connection(proxy: Proxy, ask: Ask, upstream: Upstream) -> None:
    content = os.urandom(3 * MIB + 1)
    assert ask("PUT", "/b/k%20x?a=1&b", content, X_Odd="é, ü").status == 200
    assert ask("GET", "/b/k%20x?a=1&b").status == 404  # the tiny server looks at the path alone
    assert ask("PUT", "/b/k", content).status == 200
    assert ask("GET", "/b/k").body == content
    assert ask("HEAD", "/b/k").headers["Content-Length"] == str(len(content))
    assert ask("DELETE", "/b/k").status == 204
    assert ask("GET", "/b/k").status == 404
    first = upstream.seen[0]
    assert (first.method, first.target, first.body) == ("PUT", "/b/k%20x?a=1&b", content)
    assert first.headers["Host"] == proxy.url.removeprefix("http://")  # as signed by the client
    assert first.headers["X-Odd"].encode("latin-1").decode("latin-1") == "é, ü"


def test_the_log_tells_what_passed(proxy: Proxy, ask: Ask) -> None:
    ask("PUT", "/b/k", b"12345")
    ask("GET", "/b/k")
    put, get = proxy.log
    assert (put.number, put.method, put.target, put.changes, put.status) == (1, "PUT", "/b/k", "b/k", 200)
    assert (put.sent, put.received, put.faults) == (5, 0, ())
    assert (get.number, get.sent, get.received, get.changes) == (2, 0, 5, "")
    assert proxy.entries("PUT") == [put]
    assert proxy.entries(target="^/b/") == [put, get]
    proxy.heal()
    assert not proxy.log


@pytest.mark.parametrize("how", ["chunked", "until-close"])
def test_bodies_without_a_length_pass(ask: Ask, upstream: Upstream, how: str) -> None:
    upstream.objects["/k"] = b"0123456789" * 20_000
    assert ask("GET", f"/k?{how}").body == upstream.objects["/k"]
    assert ask("GET", "/k").status == 200


def test_a_chunked_request_passes(connection: http.client.HTTPConnection, upstream: Upstream) -> None:
    pieces = [b"a" * 70_000, b"b", b"c" * 9]
    connection.request("PUT", "/k", iter(pieces), encode_chunked=True)
    assert connection.getresponse().read() == b""
    assert upstream.objects["/k"] == b"".join(pieces)


def _expecting(proxy: Proxy, target: str, size: int) -> socket.socket:
    made = socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), 20)
    made.sendall(f"PUT {target} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {size}\r\n\r\n".encode())
    return made


def test_a_body_waits_for_the_upstreams_leave(proxy: Proxy, upstream: Upstream) -> None:
    with _expecting(proxy, "/k", 5) as client:
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"12345")
        assert client.recv(1000).startswith(b"HTTP/1.1 200")
    assert upstream.objects["/k"] == b"12345"


def test_a_body_sent_without_leave_passes(proxy: Proxy, upstream: Upstream) -> None:
    with _expecting(proxy, "/k", 5) as client:
        client.sendall(b"12345")
        answer = b""
        while b" 200 " not in answer:
            answer += client.recv(1000)
    assert upstream.objects["/k"] == b"12345"


def test_a_refusal_comes_before_the_body(proxy: Proxy, upstream: Upstream) -> None:
    with _expecting(proxy, "/refuse", 5) as client:
        answer = b""
        while piece := client.recv(1000):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 403")
    assert upstream.objects == {}


def test_a_canned_answer_gives_leave_first(proxy: Proxy) -> None:
    proxy.inject(faults.answered(faults.answers.slow_down()))
    with _expecting(proxy, "/k", 5) as client:
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"12345")
        assert client.recv(1000).startswith(b"HTTP/1.1 503")


def test_many_clients_at_once(proxy: Proxy, upstream: Upstream) -> None:
    bodies = {f"/{number}": os.urandom(300_000) for number in range(16)}

    def work(target: str) -> None:
        made = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=20)
        for method in ("PUT", "GET"):
            made.request(method, target, bodies[target] if method == "PUT" else None)
            answer = made.getresponse().read()
        made.close()
        assert answer == bodies[target]

    threads = [threading.Thread(target=work, args=(target,)) for target in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert upstream.objects == bodies
    assert sorted(entry.number for entry in proxy.log) == list(range(1, 33))


def swallow(server: socket.socket, size: int) -> None:
    """Take one request's body and throw it away."""
    taken, _ = server.accept()
    with taken:
        head = b""
        while b"\r\n\r\n" not in head:
            head += taken.recv(1000)
        left = size - len(head.partition(b"\r\n\r\n")[2])
        buffer = bytearray(MIB)
        while left:
            left -= taken.recv_into(buffer, min(left, MIB))
        taken.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def test_a_large_body_is_not_kept() -> None:
    size = 64 * MIB
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        Proxy(f"http://127.0.0.1:{server.getsockname()[1]}") as proxy,
        socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), 20) as client,
    ):
        thread = threading.Thread(target=swallow, args=(server, size))
        thread.start()
        piece = bytes(MIB)
        tracemalloc.start()
        client.sendall(f"PUT /k HTTP/1.1\r\nContent-Length: {size}\r\n\r\n".encode())
        for _ in range(64):
            client.sendall(piece)
        assert client.recv(1000).startswith(b"HTTP/1.1 204")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        thread.join()
    assert peak < 4 * MIB


def test_nothing_is_left_behind(upstream: Upstream) -> None:
    before = threading.active_count()
    proxy = Proxy(upstream.url).start()
    proxy.inject(faults.silence())
    idle = socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), 20)
    silent = socket.create_connection(("127.0.0.1", int(proxy.url.rpartition(":")[2])), 20)
    silent.sendall(b"GET / HTTP/1.1\r\n\r\n")
    while not proxy.log:
        pass
    proxy.stop()
    proxy.stop()
    assert idle.recv(1) == b""
    assert silent.recv(1) == b""
    assert not [thread for thread in threading.enumerate() if thread.name == "ckptsync-proxy"]
    assert threading.active_count() <= before + 2  # the tiny server's own
    for client in (idle, silent):
        client.close()


def test_a_second_start_takes_the_same_port(upstream: Upstream) -> None:
    proxy = Proxy(upstream.url)
    with proxy:
        url = proxy.url
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 20)
    with proxy:
        assert proxy.url == url


def test_an_upstream_that_is_gone_hangs_up(ask: Ask, proxy: Proxy, upstream: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        proxy._upstream = gone.getsockname()
    with pytest.raises(http.client.RemoteDisconnected):
        ask("GET", "/k")
    assert upstream.seen == []


@pytest.mark.parametrize(
    "address", ["https://127.0.0.1:1", "http://example.org:80", "http://127.0.0.1", "127.0.0.1:80"]
)
def test_only_loopback_is_proxied(address: str) -> None:
    with pytest.raises(ValueError, match="must be like"):
        Proxy(address)
