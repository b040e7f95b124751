from __future__ import annotations

import http.client
from collections.abc import Iterator

import pytest
from support.tiny_http import Ask, Got, Upstream, tiny_server

from ckptsync.testing.clock import FakeClock
from ckptsync.testing.proxy import Proxy


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with tiny_server() as found:
        yield found


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def proxy(upstream: Upstream, clock: FakeClock) -> Iterator[Proxy]:
    with Proxy(upstream.url, clock=clock) as proxy:
        yield proxy


@pytest.fixture
def connection(proxy: Proxy) -> Iterator[http.client.HTTPConnection]:
    made = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=20)
    yield made
    made.close()


@pytest.fixture
def ask(connection: http.client.HTTPConnection) -> Ask:
    """Send a request over one connection, opened anew when it was closed."""

    def send(method: str, target: str, body: bytes | None = None, **headers: str) -> Got:
        try:
            connection.request(method, target, body, {name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            return Got(answer.status, dict(answer.headers), answer.read())
        except (OSError, http.client.HTTPException):
            connection.close()
            raise

    return send
