"""Asking an instance's metadata service: small answers over plain HTTP, no proxy, no redirect, short timeouts."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from ckptsync.errors import ConfigError

TIMEOUT_S = 1.0
TRIES = 3
_MOST_BYTES = 64 << 10
_NO_FIELDS: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the service said.

    Attributes:
        status: of HTTP.
        text: the body, at most 64 KiB of it.
        fields: of the head, by name in lower case.
    """

    status: int
    text: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Service:
    """Where a metadata service is.

    Attributes:
        host: name or address, without brackets.
        port: of TCP.
    """

    host: str
    port: int

    @classmethod
    def at(cls, address: str) -> Service:
        """Take an address as environment variables have it: a URL, or `host` or `host:port`.

        Raises:
            ConfigError: it is none.
        """
        try:
            url = urlsplit(address if "//" in address else f"//{address}", scheme="http")
            host, port = url.hostname, url.port
        except ValueError:
            host, port = None, None
        if host is None or url.scheme != "http":
            raise ConfigError(
                f"{address!r} is not the address of a metadata service; write it like http://169.254.169.254"
            )
        return cls(host, 80 if port is None else port)

    def ask(
        self,
        path: str,
        *,
        method: str = "GET",
        fields: Mapping[str, str] = _NO_FIELDS,
        timeout_s: float = TIMEOUT_S,
    ) -> Answer:
        """Ask once. Safe to call again.

        Args:
            path: and query.
            method: of HTTP.
            fields: for the head.
            timeout_s: longest silence.

        Raises:
            OSError: nobody answers, or not HTTP.
        """
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        try:
            connection.request(method, path, headers={**fields, "Connection": "close"})
            response = connection.getresponse()
            text = response.read(_MOST_BYTES).decode("utf-8", "replace")
            return Answer(response.status, text, {name.lower(): value for name, value in response.getheaders()})
        except http.client.HTTPException as error:
            raise OSError(f"{self.host} does not answer as a metadata service does: {error}") from error
        finally:
            connection.close()
