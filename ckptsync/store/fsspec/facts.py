"""What fsspec's many file systems say, in our words: their errors, and their descriptions of files."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ckptsync.errors import (
    ConflictError,
    DeniedError,
    NotFoundError,
    StoreError,
    TransientError,
    UnsupportedError,
)
from ckptsync.store.base import Stat, Tag

_VERSION_FIELDS = ("ETag", "etag", "generation", "version_id", "md5", "content_md5")
_TIME_FIELDS = ("mtime", "LastModified", "last_modified", "modified", "updated", "time", "modify", "created")
_ERRORS: tuple[tuple[tuple[type[Exception], ...], type[StoreError], str], ...] = (
    ((FileNotFoundError, NotADirectoryError), NotFoundError, "is not there"),
    ((FileExistsError,), ConflictError, "is there already"),
    ((PermissionError,), DeniedError, "needs a right that is missing"),
    ((NotImplementedError,), UnsupportedError, "asks for what the file system cannot do"),
    ((TimeoutError, ConnectionError, EOFError, InterruptedError, BlockingIOError), TransientError, "broke"),
    ((ValueError, TypeError, LookupError, AttributeError, IsADirectoryError), StoreError, "failed"),
)
_FINAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EINVAL, errno.EFBIG, errno.ENAMETOOLONG, errno.ENOTEMPTY}


def translate(error: Exception, *, op: str, key: str, url: str) -> StoreError:
    """Turn an error of fsspec, or of the package behind it, into ours: the one table.

    What the table does not know is tried again: those packages have error classes of their own, mostly for the network.
    """
    why = f"{type(error).__name__}: {error}".rstrip(": ")
    for kinds, ours, sentence in _ERRORS:
        if isinstance(error, kinds):
            return ours(f"{key!r} in {url} {sentence}: {why}", op=op, key=key)
    if isinstance(error, OSError) and error.errno in _FINAL:
        return StoreError(f"{key!r} in {url} failed: {why}", op=op, key=key)
    return TransientError(f"{key!r} in {url} failed: {why}", op=op, key=key)


def describe(key: str, info: Mapping[str, Any]) -> Stat:
    """Describe a file from an entry of `ls` or the answer of `info`.

    The tag is the service's own version where it tells one, else made of time and size; it is empty when there is no time.
    """
    size = int(info.get("size") or 0)
    modified_s = next((seconds for name in _TIME_FIELDS if (seconds := _seconds(info.get(name)))), 0.0)
    version = next((str(info[name]).strip('"') for name in _VERSION_FIELDS if info.get(name)), "")
    if not version and modified_s:
        version = f"{modified_s!r}-{size}-{info.get('ino', '')}"
    return Stat(key=key, size=size, tag=Tag(version), modified_s=modified_s)


def _seconds(value: object) -> float:
    """Read a time in any of the forms file systems give it: seconds, a datetime, ISO 8601; 0.0 when it is none."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return 0.0
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return float(value) if isinstance(value, int | float) else 0.0


def without_secrets(url: str) -> str:
    """Return a URL less its password and query, for messages."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    netloc = host if ":" in user else parts.netloc
    return urlunsplit((parts.scheme, netloc, parts.path, "", ""))
