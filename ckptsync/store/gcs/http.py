"""Requests to Google Cloud Storage: one try each, no hidden retries, bodies neither copied nor kept.

The session is made on first use, and made anew after a fork and after the service refused its credentials.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import HTTPAdapter

from ckptsync import __version__
from ckptsync.errors import CkptsyncError, ConfigError, CredentialsError, StoreError, TransientError
from ckptsync.options import Gcs, Http
from ckptsync.store.base import Buffer
from ckptsync.store.gcs.errors import UNREADABLE, Asked, broken, failure, read_refusal
from ckptsync.store.pace import SLICE_BYTES, Pace, paced, receive

_log = logging.getLogger("ckptsync")

_OK = (HTTPStatus.OK,)
_MOST_RENEWALS = 3

_RANGE = re.compile(r"bytes (?P<first>\d+)-(?P<last>\d+)/")
T = TypeVar("T")

_BROKEN = (OSError, ValueError, urllib3.exceptions.HTTPError)


class TokenRefusedError(Exception):
    """Google did not renew the access token; the credentials must be read anew."""


@dataclass(frozen=True, slots=True)
class Line:
    """An open way to the service.

    Attributes:
        session: shared by all threads.
        endpoint: scheme and host.
        anonymous: no credentials are sent.
    """

    session: requests.Session
    endpoint: str
    anonymous: bool


def endpoint(options: Gcs) -> tuple[str | None, bool]:
    """Tell the service's address, None for Google's own; and whether it is asked without credentials.

    A token never goes over plain http.

    Raises:
        ConfigError: the address cannot be used.
    """
    emulator = os.environ.get("STORAGE_EMULATOR_HOST")  # Google's own variable, honoured by all of its libraries
    address = options.endpoint_url or emulator
    if not address:
        return None, options.anonymous
    if not options.endpoint_url and "://" not in address:
        address = f"http://{address}"
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"the endpoint of Google Cloud Storage must be like https://host, not {address!r}")
    anonymous = options.anonymous or not options.endpoint_url or parts.scheme == "http"
    return address.rstrip("/"), anonymous


class _Adapter(HTTPAdapter):
    """Tries each request once, over connections that keep a pace."""

    def __init__(self, connections: int, pace: Pace) -> None:
        self._pace = pace  # the base class makes the pools at once
        super().__init__(pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = paced(self.poolmanager.pool_classes_by_scheme, self._pace)

    def proxy_manager_for(self, proxy: Any, **options: Any) -> urllib3.ProxyManager:
        known = proxy in self.proxy_manager
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **options)
        if not known:
            manager.pool_classes_by_scheme = paced(manager.pool_classes_by_scheme, self._pace)
        return manager


def new_session(connections: int, project: str | None = None, *, pace: Pace | None = None) -> requests.Session:
    """Make a session that tries each request once.

    Args:
        connections: kept open at most.
        project: billed; None leaves it to the credentials.
        pace: that connections keep; None takes the default.
    """
    session = requests.Session()
    session.headers["User-Agent"] = f"ckptsync/{__version__}"
    if project:
        session.headers["x-goog-user-project"] = project
    adapter = _Adapter(connections, pace or Pace.of(Http()))
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def connect_anonymously(
    address: str | None, project: str | None, connections: int, *, pace: Pace | None = None
) -> Line:
    """Open a session without credentials; `address` is the service's, None for Google's own."""
    session = new_session(connections, project, pace=pace)
    session.auth = lambda request: request  # else requests looks into .netrc
    return Line(session, address or "https://storage.googleapis.com", anonymous=True)


class Body:
    """A request body made of buffers that are sent where they lie.

    requests takes its length, urllib3 hands each slice to the socket. Iterating again starts from the beginning.
    """

    def __init__(self, *pieces: Buffer) -> None:
        """Borrow the pieces until `release`."""
        self._views = [memoryview(piece).cast("B") for piece in pieces if len(piece)]
        self._lent: memoryview | None = None
        self._size = sum(len(view) for view in self._views)

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[memoryview]:
        for view in self._views:
            for start in range(0, len(view), SLICE_BYTES):
                self._return()
                self._lent = view[start : start + SLICE_BYTES]
                yield self._lent
        self._return()

    def release(self) -> None:
        """Let go of the buffers, even while an exception's traceback keeps this body alive. Safe to call again."""
        self._return()
        while self._views:
            self._views.pop().release()

    def _return(self) -> None:
        """Let go of the slice sent last."""
        if self._lent is not None:
            self._lent.release()
            self._lent = None


def expected_bytes(response: requests.Response, offset: int, most_bytes: int) -> int | None:
    """Tell how many of the bytes asked for an answer brings; None when they are not those that were asked for."""
    if response.status_code == HTTPStatus.OK:  # the range was ignored
        size = response.headers.get("content-length", "")
        return min(int(size), most_bytes) if size.isdecimal() and offset == 0 else None
    found = _RANGE.match(response.headers.get("content-range", ""))
    if not found or int(found["first"]) != offset:
        return None
    return min(int(found["last"]) - offset + 1, most_bytes)


class Wire:
    """Sends requests and turns every failure into one of ours. Safe to use from many threads."""

    def __init__(self, connect: Callable[[], Line], http: Http, pace: Pace | None = None) -> None:
        """Open nothing yet.

        Args:
            connect: makes a session; raises errors of ours.
            http: time limits.
            pace: what its connections keep; None takes what `http` says.
        """
        self._connect = connect
        self._http = http
        self._pace = pace or Pace.of(http)
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._live: Line | None = None
        self._refusals = 0

    def send(
        self,
        asked: Asked,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        ok: tuple[int, ...] = _OK,
        stream: bool = False,
        read_timeout_s: float | None = None,
    ) -> requests.Response:
        """Send one request, once.

        Args:
            asked: what for.
            method: of HTTP.
            target: path and query, percent-encoded.
            headers: besides the session's own.
            body: released before this returns.
            ok: statuses to return; every other is raised.
            stream: leave the content of an `ok` answer on the connection; the caller closes the answer.
            read_timeout_s: longest silence, when it is not the configured one.

        Raises:
            CkptsyncError: as `errors` has it.
        """
        line: Line | None = None
        try:
            line = self._line()
            response = line.session.request(
                method,
                line.endpoint + target,
                headers=dict(headers or {}),
                # requests' types know no body that is sized and iterable, its code does
                data=body or None,  # type: ignore[arg-type]
                timeout=(self._http.connect_timeout_s, read_timeout_s or self._http.read_timeout_s),
                stream=stream,
                allow_redirects=False,
            )
            if response.status_code in ok:
                self._refusals = 0
                return response
            refusal = read_refusal(response.status_code, response.headers, response.content)
        except TokenRefusedError as error:
            raise self._renew(asked, line, CredentialsError(str(error), op=asked.op, key=asked.key)) from error
        except StoreError as error:  # from connecting, which does not know what for
            error.op, error.key = asked.op, asked.key
            raise
        except CkptsyncError:
            raise
        except _BROKEN as error:
            raise broken(asked, error) from error
        finally:
            if isinstance(body, Body):
                body.release()
        meant = failure(asked, refusal)
        raise self._renew(asked, line, meant) if isinstance(meant, CredentialsError) else meant

    def receive(self, asked: Asked, response: requests.Response, into: memoryview) -> int:
        """Read the content of a streamed answer into memory, at most `len(into)` bytes, and close it.

        Raises:
            TransientError: it broke off, or was too slow; `received` bytes are good.
        """
        came = receive(response.raw, into, self._pace)
        response.close()
        if came.stalled:
            message = f"{asked.where}: {self._pace.broken}"
            raise TransientError(message, op=asked.op, key=asked.key, received=came.count) from came.error
        if came.error is not None:
            raise broken(asked, came.error, received=came.count) from came.error
        return came.count

    def read(self, asked: Asked, response: requests.Response, parse: Callable[[bytes], T]) -> T:
        """Parse an answer.

        Raises:
            TransientError: it is cut short, or comes from a proxy; it may be right the next time.
        """
        try:
            return parse(response.content)
        except UNREADABLE as error:
            message = f"{asked.where}: the answer cannot be read: {error}"
            raise TransientError(message, op=asked.op, key=asked.key) from error

    def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        with self._lock:
            line, self._live = self._live, None
        if line:
            line.session.close()

    def _line(self) -> Line:
        """Return this process's session, made if need be."""
        if self._pid != os.getpid():
            # after a fork: the sockets are the parent's, and the lock may be held by a thread that is not here
            self._lock, self._live, self._pid = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._live is None:
                self._live = self._connect()
            return self._live

    def _renew(self, asked: Asked, line: Line | None, error: CredentialsError) -> StoreError:
        """Drop a session whose credentials were refused. Return what to raise: a retry, or after a few of them `error`."""
        if line is None:  # refused before there was a session
            return error
        if line.anonymous:
            return CredentialsError(
                f"{asked.where}: the service wants credentials, but none are sent "
                "(anonymous, STORAGE_EMULATOR_HOST or an http:// endpoint is set)",
                op=asked.op,
                key=asked.key,
                request_id=error.request_id,
            )
        with self._lock:
            if self._live is line:  # the first thread to notice
                self._live = None
                self._refusals += 1
                if self._refusals == 1:
                    _log.warning("%s: Google refused the credentials; they are read anew", asked.where)
            spent = self._refusals > _MOST_RENEWALS
        if spent:
            return error
        return TransientError(
            f"{asked.where}: the credentials were refused and are read anew",
            op=asked.op,
            key=asked.key,
            request_id=error.request_id,
        )
