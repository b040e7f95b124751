"""The boto3 client of one bucket, how it is renewed, and the bodies that go through it without a copy."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import IO, TYPE_CHECKING, Literal, TypeVar, cast
from urllib.parse import urlsplit

import boto3.session
import botocore.session
from botocore.config import Config as SdkConfig
from botocore.loaders import Loader, create_loader
from botocore.response import StreamingBody

from ckptsync.errors import CkptsyncError, ConfigError, CredentialsError, TransientError
from ckptsync.options import S3, Http
from ckptsync.store.base import Buffer
from ckptsync.store.pace import SLICE_BYTES, Pace, paced, receive
from ckptsync.store.s3.errors import SDK_ERRORS, Request, is_stale, translate
from ckptsync.store.s3.lean import lean

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_log = logging.getLogger("ckptsync")
T = TypeVar("T")
Addressing = Literal["auto", "path", "virtual"]

FALLBACK_REGION = "us-east-1"
MAX_RENEWALS = 3
METADATA_ATTEMPTS = 3
_AWS_HOST = re.compile(r"(?:.*\.)?(?:amazonaws\.(?:com|com\.cn|eu)|api\.aws|api\.amazonwebservices\.com\.cn)")


@dataclass(slots=True)
class _InProcess:
    """The client of one process; a forked child makes its own.

    Attributes:
        lock: around making and dropping the client.
        client: None until it is needed.
        renewals: how often credentials were read afresh since the last request that succeeded.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    client: S3Client | None = None
    renewals: int = 0


class Connection:
    """Sends requests to one bucket's service, with credentials that are read afresh when they expire.

    The client is made on first use. Nothing of it survives a fork.
    """

    def __init__(self, bucket: str, options: S3, http: Http, *, connections: int, pace: Pace | None = None) -> None:
        """Keep the settings; `connections` is the size of the pool, `pace` None takes what `http` says."""
        self._bucket = bucket
        self._options = options
        self._http = http
        self._connections = connections
        self._pace = pace or Pace.of(http)
        # By process id: setdefault is atomic, so neither a lock held at fork time nor a race in the child can hurt.
        self._by_pid: dict[int, _InProcess] = {}

    def call(self, op: str, key: str, send: Callable[[S3Client], T]) -> T:
        """Send one request.

        Args:
            op: the store's verb, for messages.
            key: the key concerned, for messages.
            send: makes the request with the client it is given.

        Raises:
            TransientError: among others when credentials expired; the next call reads them afresh.
            CkptsyncError: as the table of `errors` says.
        """
        mine = self._mine()
        client: S3Client | None = None
        try:
            client = self._client(mine)
            answer = send(client)
        except CkptsyncError:
            raise
        except SDK_ERRORS as error:
            request = Request(op, key, self._bucket)
            if is_stale(error) and self._renew(mine, client):
                raise TransientError(
                    f"s3://{self._bucket}: the credentials have expired; they are read afresh", op=op, key=key
                ) from error
            failure = translate(error, request)
            if isinstance(failure, CredentialsError):
                self._drop(mine, client)
            raise failure from error
        mine.renewals = 0
        return answer

    def receive(self, op: str, key: str, body: StreamingBody, into: memoryview) -> int:
        """Fill `into` from an answer's body, and give its connection back.

        Returns:
            How many bytes came: fewer than asked for when the body ended early.

        Raises:
            TransientError: the connection broke, or was too slow; `received` bytes at the start of `into` are good.
        """
        raw = getattr(body, "_raw_stream", body)  # the SDK's own business; only copies are spared by it
        came = receive(raw, into, self._pace)
        if came.stalled:
            broken = f"s3://{self._bucket}: {self._pace.broken}"
        elif came.error is not None:
            broken = str(translate(came.error, Request(op, key, self._bucket)).args[0])
        else:
            return came.count
        raise TransientError(broken, op=op, key=key, received=came.count) from came.error

    def close(self) -> None:
        """Close idle connections; the next call opens new ones."""
        mine = self._mine()
        self._drop(mine, mine.client)

    def _mine(self) -> _InProcess:
        """Return what this process holds."""
        pid = os.getpid()
        return self._by_pid.get(pid) or self._by_pid.setdefault(pid, _InProcess())

    def _client(self, mine: _InProcess) -> S3Client:
        """Return the client, made if there is none."""
        if client := mine.client:
            return client
        with mine.lock:
            if mine.client is None:
                mine.client = self._build()
            return mine.client

    def _build(self) -> S3Client:
        """Make a client from the options and, below them, the SDK's own settings."""
        options = self._options
        _refuse_userinfo(options.endpoint_url or "")
        core = botocore.session.get_session()
        if options.profile:
            core.set_config_variable("profile", options.profile)
        if core.get_config_variable("metadata_service_num_attempts") == 1:
            # One lost packet to the metadata service would otherwise read as "no credentials".
            core.set_config_variable("metadata_service_num_attempts", METADATA_ATTEMPTS)
        session = boto3.session.Session(botocore_session=core, region_name=options.region)
        core.register_component("data_loader", _models(core.get_config_variable("data_path")))
        if options.addressing != "auto":
            return self._make(session, options.addressing)
        if options.endpoint_url:
            return self._make(session, "path")
        client = self._make(session, "auto")
        _refuse_userinfo(client.meta.endpoint_url)
        if is_amazon(client):
            return client
        client.close()
        return self._make(session, "path")

    def _make(self, session: boto3.session.Session, addressing: Addressing) -> S3Client:
        """Make a client that leaves retries, checksums and body digests to us."""
        try:
            client = session.client(
                "s3",
                region_name=session.region_name or FALLBACK_REGION,
                endpoint_url=self._options.endpoint_url,
                config=SdkConfig(
                    connect_timeout=self._http.connect_timeout_s,
                    read_timeout=self._http.read_timeout_s,
                    max_pool_connections=self._connections,
                    tcp_keepalive=True,
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    user_agent_extra="ckptsync",
                    s3={"addressing_style": addressing, "payload_signing_enabled": False},
                ),
            )
        except ValueError as error:
            raise ConfigError(f"s3://{self._bucket}: the endpoint or region cannot be used: {error}") from error
        _set_pace(client, self._pace)
        return lean(client, session.get_credentials(), self._bucket)

    def _renew(self, mine: _InProcess, client: S3Client | None) -> bool:
        """Drop the client whose credentials expired; False when that has been tried often enough."""
        with mine.lock:
            if mine.client is not client:
                return True  # another thread was quicker
            if mine.renewals >= MAX_RENEWALS:
                return False
            mine.renewals += 1
            mine.client = None
        _log.warning("the credentials for s3://%s have expired; reading them afresh", self._bucket)
        _close(client)
        return True

    def _drop(self, mine: _InProcess, client: S3Client | None) -> None:
        """Forget a client, so that the next call makes a new one."""
        with mine.lock:
            if mine.client is client:
                mine.client = None
        _close(client)


class UploadBody:
    """A request body that lends slices of the caller's memory to the socket instead of copying them.

    The SDK refuses a memoryview but takes an object to read from, and hands on whatever `read` returns.
    Use as a context manager: no view of the memory is left behind.
    """

    def __init__(self, data: Buffer) -> None:
        """Begin at the start of `data`."""
        self._view = memoryview(data).cast("B")
        self._lent: memoryview = self._view[:0]
        self._at = 0

    def __len__(self) -> int:
        return len(self._view)

    def __enter__(self) -> IO[bytes]:
        return cast("IO[bytes]", self)  # the SDK asks for no more than read, seek and tell

    def __exit__(self, *exc: object) -> None:
        for view in (self._lent, self._view):
            with suppress(BufferError):
                view.release()

    def read(self, size: int | None = -1) -> memoryview:
        """Return the next bytes: all when `size` is negative or None, else `SLICE_BYTES` however few are asked for.

        What was returned before becomes invalid.
        """
        end = len(self._view) if size is None or size < 0 else self._at + max(size, SLICE_BYTES)
        with suppress(BufferError):
            self._lent.release()
        self._lent = self._view[self._at : end]
        self._at += len(self._lent)
        return self._lent

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._view)}[whence]
        self._at = min(max(base + offset, 0), len(self._view))
        return self._at

    def tell(self) -> int:
        """Return the offset of the next byte to be read."""
        return self._at


@cache
def _models(data_path: str | None) -> Loader:
    """Return the SDK's description of S3; parsing it anew costs each client a tenth of a second."""
    return create_loader(data_path)


def _refuse_userinfo(endpoint_url: str) -> None:
    """Refuse an address with a password in it, which would end up in every message."""
    if "@" in urlsplit(endpoint_url).netloc:
        raise ConfigError("the endpoint URL holds a user name or password; give credentials as AWS_* variables instead")


def _set_pace(client: S3Client, pace: Pace) -> None:
    """Let a client make connections that keep a pace. Nothing was sent yet."""
    session = getattr(getattr(client, "_endpoint", None), "http_session", None)
    pools = getattr(session, "_pool_classes_by_scheme", None)
    if pools is None:  # the SDK's own business; a test notices when it is arranged anew
        _log.warning("this version of botocore hides its connections; only silence is noticed, not slowness")
    else:
        pools.update(paced(pools, pace))


def is_amazon(client: S3Client) -> bool:
    """Whether a client talks to Amazon itself."""
    return bool(_AWS_HOST.fullmatch(urlsplit(client.meta.endpoint_url).hostname or ""))


def _close(client: S3Client | None) -> None:
    """Close a client's idle connections; requests under way in other threads go on."""
    if client is not None:
        client.close()
