"""A loopback Cloud Storage and a connection to it, for requests made by hand."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from ckptsync.testing.clock import FakeClock
from ckptsync.testing.gcs import GcsServer


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> dict[str, object]:
        found = json.loads(self.body)
        assert isinstance(found, dict)
        return found

    def element(self, name: str) -> str:
        """The text of the first XML element of that name."""
        found = re.search(f"<{name}>(.*?)</{name}>", self.text)
        assert found, self.text
        return found[1].replace("&quot;", '"')

    @property
    def code(self) -> str:
        return self.element("Code")


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def server(clock: FakeClock) -> Iterator[GcsServer]:
    with GcsServer(buckets=["b"], clock=clock, writes_per_s=None) as started:
        yield started


@pytest.fixture
def connect() -> Iterator[Callable[[GcsServer], Callable[..., Answer]]]:
    """Makes `ask(method, path, body, Header_Name=value)` for a server."""
    connections: list[http.client.HTTPConnection] = []

    def to(server: GcsServer) -> Callable[..., Answer]:
        connection = http.client.HTTPConnection(urlsplit(server.url).netloc)
        connections.append(connection)

        def ask(method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body=body, headers=named)
            response = connection.getresponse()
            kept = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, kept, response.read())

        return ask

    yield to
    for connection in connections:
        connection.close()


@pytest.fixture
def ask(server: GcsServer, connect: Callable[[GcsServer], Callable[..., Answer]]) -> Callable[..., Answer]:
    return connect(server)
