"""One request over a connection that is open already, over real sockets."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3
from support.slow_server import Caller, Serve, SlowServer
from urllib3.exceptions import InvalidHeader

from ckptsync.store.exchange import Answer, exchange
from ckptsync.store.pace import Pace, paced, receive

PACE = Pace(8 << 10, 0.2)
SILENCE_S = 0.5
Opened = Callable[..., Any]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """A pool with one connection, over which one request was answered."""
    servers: list[SlowServer] = []
    pools: list[Any] = []

    def open_pool(serve: Serve) -> Any:
        def serve_second(caller: Caller) -> None:
            if b"GET /first" in caller.head:
                caller.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")
            else:
                serve(caller)

        servers.append(SlowServer(serve_second))
        makers = paced({"http": urllib3.HTTPConnectionPool}, PACE)
        host, _, port = servers[-1].url.removeprefix("http://").partition(":")
        pool = makers["http"](host, int(port), maxsize=1, timeout=SILENCE_S, retries=False)
        assert pool.urlopen("GET", "/first").data == b"OK"
        pools.append(pool)
        return pool

    yield open_pool
    for pool in pools:
        pool.close()
    for server in servers:
        server.close()


def says(answer: bytes) -> Serve:
    return lambda caller: caller.sock.sendall(answer)


def ask(pool: Any, method: str = "GET", body: bytes = b"") -> Answer:
    answer = exchange(pool, method, "/second", {"Host": "h", "Content-Length": str(len(body))}, body)
    assert answer is not None
    return answer


def read(answer: Answer) -> bytes:
    content = answer.read()
    answer.release_conn()
    return content


def is_open(pool: Any) -> bool:
    connection = pool._get_conn()
    pool._put_conn(connection)
    return connection.sock is not None


def socket_of(pool: Any) -> Any:
    connection = pool._get_conn()
    pool._put_conn(connection)
    return connection.sock._sock


PLAIN = b'HTTP/1.1 200 OK\r\nETag:  "e" \r\nX-Said: gr\xf6\xdfer\r\nContent-Length: 7\r\n\r\ncontent'


@pytest.mark.parametrize(
    ("answer", "content", "goes_on"),
    [
        (PLAIN, b"content", True),
        (b"HTTP/1.1 404\r\nContent-Length: 2\r\n\r\nno", b"no", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + PLAIN, b"content", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ncon\r\n4\r\ntent\r\n0\r\n\r\n", b"content", True),
        (b"HTTP/1.1 200 OK\r\nX: a\r\nX: b\r\nContent-Length: 7\r\n\r\ncontent", b"content", True),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 7\r\n\r\ncontent", b"content", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nContent-Length: 9\r\n\r\ncontent", b"content", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nc\r\n0\r\n\r\n", b"c", True),
        (b"HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n\r\n", b"", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: Close\r\n\r\ncontent", b"content", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\ncontent", b"content", False),
    ],
)
def test_an_answer_is_read_as_it_is_framed(opened: Opened, answer: bytes, content: bytes, *, goes_on: bool) -> None:
    pool = opened(says(answer))
    for _ in range(2 if goes_on else 1):
        found = ask(pool)
        assert found.status == int(answer.rpartition(b"HTTP/")[2][4:7])
        assert read(found) == content
    assert is_open(pool) is goes_on
    assert pool.num_connections == 1


def test_a_head_is_told_as_the_standard_library_tells_it(opened: Opened) -> None:
    plain, halves = ask(opened(says(PLAIN))), ask(opened(lambda caller: caller.drip(PLAIN, step=40, every_s=0.05)))
    assert plain.headers == {"etag": '"e"', "x-said": "größer", "content-length": "7"}
    assert plain.headers.keys() == halves.headers.keys()
    assert {name: value.strip() for name, value in halves.headers.items()} == plain.headers
    for answer in (plain, halves):
        assert (answer.status, read(answer)) == (200, b"content")


def test_an_answer_to_head_has_no_body(opened: Opened) -> None:
    pool = opened(says(PLAIN.removesuffix(b"content")))
    for _ in range(2):
        answer = ask(pool, "HEAD")
        assert (answer.headers["content-length"], read(answer)) == ("7", b"")
    assert is_open(pool)


def test_content_comes_into_the_callers_memory(opened: Opened) -> None:
    content = bytes(range(256)) * 4096

    def serve(caller: Caller) -> None:
        caller.sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content) + content)

    pool, into = opened(serve), bytearray(len(content))
    for _ in range(2):
        assert receive(ask(pool), memoryview(into), PACE).count == len(content)
        assert into == content
    assert is_open(pool)


@pytest.mark.parametrize("end", ["left", "closed", "dropped"])
def test_an_answer_that_is_not_read_costs_its_connection(opened: Opened, end: str) -> None:
    pool = opened(says(PLAIN))
    sock, answer = socket_of(pool), ask(pool)
    if end == "closed":
        answer.close()
    elif end == "left":
        answer.release_conn()
    if end == "dropped":
        del answer
    assert sock.fileno() == -1
    assert not is_open(pool)
    assert pool.pool.qsize() == 1


def test_a_body_that_is_cut_off_is_no_whole_one(opened: Opened) -> None:
    def serve(caller: Caller) -> None:
        caller.sock.sendall(PLAIN[:-3])
        caller.sock.close()

    answer = ask(opened(serve))
    with pytest.raises(http.client.IncompleteRead):
        answer.read()
    answer.close()


def test_nothing_is_sent_where_no_connection_is_idle(opened: Opened) -> None:
    seen: list[bytes] = []
    pool = opened(lambda caller: seen.append(caller.head))
    held = pool._get_conn()
    assert exchange(pool, "GET", "/second", {}, b"") is None
    held.close()
    pool.close()
    assert exchange(pool, "GET", "/second", {}, b"") is None
    assert not seen


def test_what_the_service_has_closed_is_not_used(opened: Opened) -> None:
    pool = opened(says(PLAIN))
    held = pool._get_conn()
    held.sock.shutdown(2)
    pool._put_conn(held)
    assert exchange(pool, "GET", "/second", {}, b"") is None


def test_a_refusal_that_comes_before_the_body_is_heard(opened: Opened) -> None:
    pool = opened(says(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 2\r\n\r\nno"))
    held = pool._get_conn()

    def breaks(*_: object) -> None:
        sent(b"GET /second HTTP/1.1\r\n\r\n")
        raise BrokenPipeError

    sent, held.sock.sendall = held.sock.sendall, breaks
    pool._put_conn(held)
    answer = ask(pool, "PUT", b"body")
    assert (answer.status, read(answer)) == (503, b"no")
    assert not is_open(pool)


@pytest.mark.parametrize(
    "serve", [lambda caller: caller.sock.close(), says(b"SSH-2.0-OpenSSH\r\n"), Caller.say_nothing]
)
def test_no_answer_costs_the_connection(opened: Opened, serve: Serve) -> None:
    pool, began_s = opened(serve), time.monotonic()
    sock = socket_of(pool)
    with pytest.raises((OSError, http.client.HTTPException)) as caught:
        ask(pool)
    assert sock.fileno() == -1, caught  # which holds on to what was there
    assert not is_open(pool)
    assert pool.pool.qsize() == 1
    assert time.monotonic() - began_s < SILENCE_S * 4


@pytest.mark.req(10)
def test_a_head_that_drips_is_given_up(opened: Opened) -> None:
    pool = opened(lambda caller: caller.drip(PLAIN * 9, step=1, every_s=0.05))
    with pytest.raises(TimeoutError, match="head of the answer"):
        ask(pool)


def test_what_comes_behind_the_head_may_take_longer(opened: Opened) -> None:
    def serve(caller: Caller) -> None:
        caller.sock.sendall(PLAIN[:-7])
        caller.drip(b"content", step=1, every_s=SILENCE_S / 4)

    assert read(ask(opened(serve))) == b"content"


@pytest.mark.parametrize("value", ["a\nb: c", "a\rb", "a\r\n\r\nb", "☃"])
def test_no_header_ends_early(opened: Opened, value: str) -> None:
    pool = opened(says(PLAIN))
    with pytest.raises(InvalidHeader):
        exchange(pool, "GET", "/second", {"If-Match": value}, b"")
    assert is_open(pool)


def test_what_a_pool_trusts_may_be_told_after_the_first_try() -> None:
    """The SDK does so before it sends: a connection made earlier would not know."""
    pool: Any = urllib3.HTTPSConnectionPool("127.0.0.1", 9, maxsize=1)
    assert exchange(pool, "GET", "/", {}, b"") is None
    pool.ca_certs = "/of/the/service.pem"
    assert pool._get_conn().ca_certs == "/of/the/service.pem"
