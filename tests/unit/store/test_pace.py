"""What happens on a connection that is too slow, over real sockets."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.slow_server import Caller, Serve, SlowServer

from ckptsync.errors import StoreError, TransientError
from ckptsync.options import S3, Gcs, Http, Retry
from ckptsync.store import pace
from ckptsync.store.bandwidth import Bandwidth
from ckptsync.store.base import Store, Tag, Upload
from ckptsync.store.gcs import GcsStore
from ckptsync.store.retry import Retrying
from ckptsync.store.s3 import S3Store
from ckptsync.testing.clock import FakeClock

HTTP = Http(connect_timeout_s=30, read_timeout_s=0.5, stall_timeout_s=0.2, stall_bytes=8 << 10)
LEAST_BYTES_PER_S = HTTP.stall_bytes / HTTP.stall_timeout_s
PATIENCE_S = 3.0
"""More than any request below may take, much less than each would."""
CONTENT = os.urandom(1 << 20)
SENT = 32 << 20
"""Of an upload: more than the buffers of a loopback connection take."""
UPLOAD = Upload(key="k", id="u")

Serving = Callable[[Serve], SlowServer]
Open = Callable[..., Store]


ANY_TAG = Tag("7")
"""A version on either service."""


@pytest.fixture
def serving() -> Iterator[Serving]:
    servers: list[SlowServer] = []

    def start(serve: Serve) -> SlowServer:
        servers.append(SlowServer(serve))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture(params=["s3", "gcs"])
def open_store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    opened: list[Store] = []

    def make(server: SlowServer, http: Http = HTTP, bandwidth: Bandwidth | None = None) -> Store:
        if request.param == "s3":
            options = S3(endpoint_url=server.url, region="r", checksum="none")
            opened.append(S3Store("bkt", "run", options, http, connections=4, bandwidth=bandwidth))
        else:
            anonymous = Gcs(endpoint_url=server.url, anonymous=True)
            opened.append(GcsStore("bkt", "run", anonymous, http, connections=4, bandwidth=bandwidth))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    began_s = time.monotonic()
    yield
    assert time.monotonic() - began_s < PATIENCE_S * 2


def head(size: int, status: str = "200 OK", **headers: str) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {size}",
        'ETag: "e"',
        "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def ranged(caller: Caller) -> tuple[bytes, bytes]:
    """Head and body of the range asked for."""
    first, last = (int(text) for text in caller.header("Range").removeprefix("bytes=").split("-"))
    body = CONTENT[first : last + 1]
    return head(len(body), "206 Partial Content", Content_Range=f"bytes {first}-{last}/{len(CONTENT)}"), body


def dripping(caller: Caller) -> None:
    """Bring 1 kB a second of the range asked for."""
    answer, body = ranged(caller)
    caller.sock.sendall(answer)
    caller.drip(body, step=50, every_s=0.05)


def fetch(store: Store, into: bytearray) -> TransientError:
    with pytest.raises(TransientError) as caught:
        store.get("k", memoryview(into), tag=ANY_TAG)
    return caught.value


@pytest.mark.req(10)
def test_content_that_drips_is_given_up(serving: Serving, open_store: Open) -> None:
    store, into = open_store(serving(dripping)), bytearray(len(CONTENT))
    error = fetch(store, into)
    assert "fewer than 8192 bytes came in 0.2 s" in str(error)
    assert 0 < error.received < HTTP.stall_bytes
    assert into[: error.received] == CONTENT[: error.received]


@pytest.mark.req(10)
def test_no_byte_that_came_before_a_drip_is_lost(serving: Serving, open_store: Open) -> None:
    fast = 700_000

    def serve(caller: Caller) -> None:
        answer, body = ranged(caller)
        caller.sock.sendall(answer + body[:fast])
        caller.drip(body[fast:], step=50, every_s=0.05)

    into = bytearray(len(CONTENT))
    error = fetch(open_store(serving(serve)), into)
    assert fast < error.received < fast + HTTP.stall_bytes
    assert into[: error.received] == CONTENT[: error.received]


@pytest.mark.req(10)
def test_content_that_stops_is_given_up(serving: Serving, open_store: Open) -> None:
    def serve(caller: Caller) -> None:
        answer, body = ranged(caller)
        caller.sock.sendall(answer + body[:400_000])
        caller.say_nothing()

    into = bytearray(len(CONTENT))
    error = fetch(open_store(serving(serve)), into)
    assert error.received == 400_000
    assert into[:400_000] == CONTENT[:400_000]


def test_a_connection_whose_content_came_whole_serves_again(serving: Serving, open_store: Open) -> None:
    def serve(caller: Caller) -> None:
        callers.append(caller.sock)
        caller.sock.sendall(b"".join(ranged(caller)))

    callers: list[object] = []
    store, into = open_store(serving(serve)), bytearray(700_000)
    for offset in (0, 300_000, len(CONTENT) - 700_000):
        assert store.get("k", memoryview(into), offset=offset, tag=ANY_TAG) == 700_000
        assert into == CONTENT[offset : offset + 700_000]
    assert len(set(callers)) == 1


def test_a_connection_with_bytes_left_does_not(serving: Serving, open_store: Open) -> None:
    def serve(caller: Caller) -> None:
        callers.append(caller.sock)
        answer, body = ranged(caller)
        caller.sock.sendall(answer.replace(b"Content-Length: 300000", b"Content-Length: 300009") + body + b"surprise!")

    callers: list[object] = []
    store, into = open_store(serving(serve)), bytearray(300_000)
    for _ in range(2):
        assert store.get("k", memoryview(into), tag=ANY_TAG) == 300_000
        assert into == CONTENT[:300_000]
    assert len(set(callers)) == 2


def test_content_may_come_in_chunks(serving: Serving, open_store: Open) -> None:
    def serve(caller: Caller) -> None:
        answer, body = ranged(caller)
        caller.sock.sendall(answer.replace(f"Content-Length: {len(body)}".encode(), b"Transfer-Encoding: chunked"))
        for start in range(0, len(body), 70_000):
            piece = body[start : start + 70_000]
            caller.sock.sendall(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        caller.sock.sendall(b"0\r\n\r\n")

    store, into = open_store(serving(serve)), bytearray(700_000)
    for _ in range(2):
        assert store.get("k", memoryview(into), offset=9, tag=ANY_TAG) == 700_000
        assert into == CONTENT[9:700_009]


def test_content_that_is_slow_but_fast_enough_comes_whole(serving: Serving, open_store: Open) -> None:
    def serve(caller: Caller) -> None:
        answer, body = ranged(caller)
        caller.sock.sendall(answer)
        caller.drip(body, step=len(CONTENT) // 8, every_s=0.1)

    store, into = open_store(serving(serve)), bytearray(len(CONTENT))
    assert store.get("k", memoryview(into)) == len(CONTENT)
    assert into == CONTENT


def test_a_connection_that_stalled_is_not_used_again(serving: Serving, open_store: Open) -> None:
    def serve(caller: Caller) -> None:
        if len(caller.server.heads) == 1:
            dripping(caller)
        else:
            caller.sock.sendall(b"".join(ranged(caller)))

    server = serving(serve)
    store, into = open_store(server), bytearray(len(CONTENT))
    fetch(store, into)
    assert store.get("k", memoryview(into)) == len(CONTENT)
    assert into == CONTENT


@pytest.mark.req(10)
def test_a_service_that_accepts_and_says_nothing(serving: Serving, open_store: Open) -> None:
    with pytest.raises(TransientError):
        open_store(serving(Caller.say_nothing)).stat("k")


@pytest.mark.req(10)
@pytest.mark.parametrize("verb", ["stat", "get", "list", "put_part"])
def test_a_head_that_drips_is_given_up(serving: Serving, open_store: Open, verb: str) -> None:
    def serve(caller: Caller) -> None:
        caller.drip(head(1000, X_Long="x" * 10_000), step=1, every_s=0.05)

    store = open_store(serving(serve))
    ask: dict[str, Callable[[], object]] = {
        "stat": lambda: store.stat("k"),
        "get": lambda: store.get("k", memoryview(bytearray(9))),
        "list": lambda: list(store.list("")),
        "put_part": lambda: store.put_part(UPLOAD, 1, b"part"),
    }
    with pytest.raises(TransientError):
        ask[verb]()


@pytest.mark.req(10)
def test_an_answer_that_drips_is_given_up(serving: Serving, open_store: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "ANSWER_S", 0.3)

    def serve(caller: Caller) -> None:
        caller.sock.sendall(head(100_000, Content_Type="application/xml"))
        caller.drip(b" " * 100_000, step=1, every_s=0.05)

    with pytest.raises(TransientError):
        list(open_store(serving(serve)).list(""))


@pytest.mark.req(10)
@pytest.mark.parametrize("verb", ["put", "put_part"])
@pytest.mark.parametrize("how", ["drips", "stops"])
def test_an_upload_that_the_service_does_not_take_is_given_up(
    serving: Serving, open_store: Open, verb: str, how: str
) -> None:
    def serve(caller: Caller) -> None:
        if "100-continue" in caller.header("Expect"):
            caller.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if how == "drips":
            caller.swallow(step=50, every_s=0.05)
        else:
            caller.server.stopped.wait()

    store, data = open_store(serving(serve)), bytearray(SENT)
    with pytest.raises(TransientError):
        store.put("k", data) if verb == "put" else store.put_part(UPLOAD, 1, data)
    data.append(0)  # nobody holds the memory any more


@pytest.mark.req(10)
def test_tries_that_bring_a_few_bytes_each_come_to_an_end(serving: Serving, open_store: Open) -> None:
    server = serving(dripping)
    retry = Retry(attempts=3, base_s=0.01, cap_s=0.01)
    store = Retrying(open_store(server), retry, observer=lambda _: None, least_bytes_per_s=LEAST_BYTES_PER_S)
    into = bytearray(len(CONTENT))
    error = fetch(store, into)
    assert (error.attempts, len(server.heads)) == (3, 3)
    assert into[: error.received] == CONTENT[: error.received]
    offsets = [int(found.lower().split(b"bytes=")[1].split(b"-")[0]) for found in server.heads]
    assert 0 == offsets[0] < offsets[1] < offsets[2] < error.received


def test_tries_that_bring_much_go_on_behind_it(serving: Serving, open_store: Open) -> None:
    def serve(caller: Caller) -> None:
        answer, body = ranged(caller)
        caller.sock.sendall(answer + body[:200_000])
        caller.drip(body[200_000:], step=50, every_s=0.05)

    server = serving(serve)
    retry = Retry(attempts=2, base_s=0.01, cap_s=0.01)
    store = Retrying(open_store(server), retry, observer=lambda _: None, least_bytes_per_s=LEAST_BYTES_PER_S)
    into = bytearray(len(CONTENT))
    assert store.get("k", memoryview(into)) == len(CONTENT)
    assert into == CONTENT
    assert len(server.heads) == 6


class TestBandwidth:
    RATE = 10 << 20

    def test_what_is_fetched_waits(self, serving: Serving, open_store: Open) -> None:
        clock = FakeClock()
        store = open_store(
            serving(lambda caller: caller.sock.sendall(b"".join(ranged(caller)))),
            bandwidth=Bandwidth(self.RATE, clock=clock),
        )
        into = bytearray(len(CONTENT))
        for _ in range(4):
            assert store.get("k", memoryview(into)) == len(CONTENT)
        assert clock.monotonic() == pytest.approx(4 * len(CONTENT) / self.RATE, rel=0.1)

    def test_what_is_sent_waits_slice_by_slice(self, serving: Serving, open_store: Open) -> None:
        def serve(caller: Caller) -> None:
            if "100-continue" in caller.header("Expect"):
                caller.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            left = int(caller.header("Content-Length"))
            while left:
                left -= len(caller.sock.recv(min(left, 1 << 16)))
            caller.sock.sendall(head(0))

        clock = FakeClock()
        store = open_store(serving(serve), bandwidth=Bandwidth(self.RATE, clock=clock))
        for number in range(1, 5):
            store.put_part(UPLOAD, number, CONTENT)
        assert clock.monotonic() == pytest.approx(4 * len(CONTENT) / self.RATE, rel=0.1)
        assert max(clock.slept_s) <= 2 * HTTP.stall_bytes / self.RATE


class Sluggish:
    """A socket that takes some bytes a second."""

    def __init__(self, bytes_per_s: int, clock: FakeClock) -> None:
        self.bytes_per_s, self.clock, self.taken = bytes_per_s, clock, 0

    def gettimeout(self) -> float:
        return 10.0

    def settimeout(self, _: float) -> None:
        pass

    def send(self, piece: memoryview, _: int) -> int:
        self.clock.advance(1.0)
        self.taken += (count := min(self.bytes_per_s, len(piece)))
        return count


@pytest.mark.req(10)
@pytest.mark.parametrize(("bytes_per_s", "is_given_up"), [(90, True), (101, False)])
def test_what_is_sent_must_leave_at_the_least_rate(
    monkeypatch: pytest.MonkeyPatch, *, bytes_per_s: int, is_given_up: bool
) -> None:
    clock = FakeClock()
    monkeypatch.setattr(pace, "_now_s", clock.monotonic)
    sock = Sluggish(bytes_per_s, clock)
    paced: Any = pace._Socket(sock, pace.Pace(1000, 10.0))  # type: ignore[arg-type]
    if is_given_up:
        with pytest.raises(TimeoutError, match="too slowly"):
            paced.sendall(bytes(5000))
        assert sock.taken < 1200
    else:
        paced.sendall(bytes(5000))
        assert sock.taken == 5000


def test_waiting_for_the_cap_is_no_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(pace, "_now_s", clock.monotonic)
    window = pace.Window(pace.Pace(1000, 10.0, Bandwidth(10, clock=clock)))
    for _ in range(20):
        clock.advance(1)
        window.moved(150)  # worth 15 s
    assert not window.stalled
    assert clock.monotonic() > 250


def test_a_stall_is_an_error_of_the_store() -> None:
    assert issubclass(TransientError, StoreError)
    assert pace.Pace.of(Http()) == pace.Pace(64 << 10, 60.0)
