"""Buckets: `open_store` turns a run URL into a `Store`."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import ConfigError
from ckptsync.events import Observer, log_observer
from ckptsync.options import Config
from ckptsync.store.bandwidth import Bandwidth, Capped
from ckptsync.store.base import Store
from ckptsync.store.throttle import Limiter, Throttled

__all__ = ["open_store"]

_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
SPARE_REQUESTS = 2
"""Requests that may be under way beside those of the workers."""
_MANGLED = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):/(?P<rest>[^/].*)", re.IGNORECASE | re.DOTALL)
_SHORT = re.compile(r"(?P<scheme>s3|gs):", re.IGNORECASE)
"""A cloud's URL without its slashes would be a strange name for a directory."""


def open_store(
    url: str,
    config: Config | None = None,
    *,
    clock: Clock = SYSTEM,
    observer: Observer = log_observer,
    bandwidth: Bandwidth | None = None,
) -> Store:
    """Open the bucket a run URL names, with a limit on requests and retries around it. Nothing is asked of the service yet.

    Args:
        url: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///dir`, a plain directory, `memory://name`, or any URL fsspec
            understands.
        config: None takes the defaults.
        clock: replaced in tests.
        observer: told of retries, and when the service asks for a slower pace.
        bandwidth: a cap on the rate that the caller may lift; None makes one of the options.

    Raises:
        ConfigError: the URL cannot be used, or the extra for its scheme is not installed.
    """
    from ckptsync.store.retry import Retrying  # noqa: PLC0415  tenacity costs 50 ms to import

    config = Config() if config is None else config
    if "\0" in unquote(str(url)):
        raise ConfigError(f"{url!r} cannot be read as a URL: it has a NUL in it")
    try:
        store = _open(str(url), config, clock, bandwidth)
    except ConfigError:
        raise
    except ValueError:  # what urllib and fsspec say of a bad URL may quote its password
        raise ConfigError(f"{url!r} cannot be read as a URL; write it like s3://bucket/run") from None
    limiter = Limiter(
        config.transfer.most_workers + SPARE_REQUESTS,
        longest_pause_s=config.retry.deadline_s,
        clock=clock,
        observer=observer,
    )
    return Retrying(
        Throttled(store, limiter),
        config.retry,
        clock=clock,
        observer=observer,
        least_bytes_per_s=config.http.stall_bytes / config.http.stall_timeout_s,
    )


def _open(url: str, config: Config, clock: Clock, bandwidth: Bandwidth | None) -> Store:
    """Choose the store by scheme, and cap it; each store's module is imported on use."""
    if bandwidth is None and (cap := config.transfer.max_bytes_per_s):
        bandwidth = Bandwidth(cap, clock=clock)
    if (found := _SCHEME.fullmatch(url)) and found["scheme"].lower() in {"s3", "gs"}:
        return _open_cloud(url, found["scheme"].lower(), found["rest"], config, bandwidth)
    store = _open_other(url, clock)
    return Capped(store, bandwidth) if bandwidth else store


def _open_cloud(url: str, scheme: str, rest: str, config: Config, bandwidth: Bandwidth | None) -> Store:
    """Open a bucket whose connections are our own to slow down."""
    bucket, prefix = _bucket_and_prefix(url, rest)
    connections = config.transfer.most_workers + SPARE_REQUESTS
    if scheme == "s3":
        from ckptsync.store.s3 import S3Store  # noqa: PLC0415  each store costs its own SDK

        return S3Store(bucket, prefix, config.s3, config.http, connections=connections, bandwidth=bandwidth)
    from ckptsync.store.gcs import GcsStore  # noqa: PLC0415  each store costs its own SDK

    return GcsStore(bucket, prefix, config.gcs, config.http, connections=connections, bandwidth=bandwidth)


def _open_other(url: str, clock: Clock) -> Store:
    """Open a directory, memory, or what fsspec knows."""
    if not (found := _SCHEME.fullmatch(url)):
        return _open_directory(url)
    scheme = found["scheme"].lower()
    if scheme == "file":
        return _open_directory(_file_path(url))
    if scheme == "memory":
        from ckptsync.store.memory import MemoryStore  # noqa: PLC0415  each store costs its own SDK

        return MemoryStore.named(found["rest"], clock=clock)
    from ckptsync.store.fsspec import FsspecStore  # noqa: PLC0415  each store costs its own SDK

    return FsspecStore(url)


def _open_directory(path: str) -> Store:
    """Open the embedded default: a plain directory."""
    from ckptsync.store.local import LocalStore  # noqa: PLC0415  each store costs its own SDK

    if mangled := _MANGLED.fullmatch(path):
        raise ConfigError(
            f"{path!r} looks like a URL that went through pathlib; pass it as text: {mangled['scheme']}://{mangled['rest']}"
        )
    if short := _SHORT.match(path):
        raise ConfigError(f"{path!r} looks like a URL; write it like {short['scheme']}://bucket/run, or ./{path}")
    if not path:
        raise ConfigError("the run URL is empty")
    return LocalStore(Path(path))


def _file_path(url: str) -> str:
    """Path of a file URL."""
    parts = urlsplit(url)
    if parts.netloc not in {"", "localhost"}:
        raise ConfigError(f"{url!r} names a host; write file:///absolute/path")
    return unquote(parts.path)


def _bucket_and_prefix(url: str, rest: str) -> tuple[str, str]:
    """Split the part of a URL behind the scheme. The prefix is taken to the letter, less slashes at its ends."""
    bucket, _, prefix = rest.partition("/")
    scheme = url.partition("://")[0].lower()
    if "@" in bucket:
        raise ConfigError(
            f"a URL like {scheme}://bucket/run holds no user and no password; leave them to the service's own configuration"
        )
    if not bucket:
        raise ConfigError(f"{scheme} URL names no bucket; write it like {scheme}://bucket/run")
    return bucket, prefix.strip("/")
