"""Small records of a run: who writes them, when, and how they are read without trusting their size."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime

from ckptsync.clock import Clock
from ckptsync.errors import ManifestError
from ckptsync.snapshot.manifest import Writer
from ckptsync.store.base import Store

_HEAD_BYTES = 256 << 10


def this_writer() -> Writer:
    """Who we are."""
    return Writer(host=socket.gethostname(), pid=os.getpid())


def timestamp(clock: Clock) -> str:
    """Now, as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(clock.now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_record(store: Store, key: str, limit_bytes: int) -> bytes:
    """Return one of the run's records, at one version, without taking memory for one that is too large.

    One request when it is small, as nearly all are.

    Raises:
        NotFoundError: no such object.
        ManifestError: it is larger than `limit_bytes`.
    """
    head = bytearray(min(limit_bytes, _HEAD_BYTES) + 1)
    if (count := store.get(key, memoryview(head))) < len(head):
        return bytes(memoryview(head)[:count])
    found = store.stat(key)
    if found.size > limit_bytes:
        raise ManifestError(f"{key} has {found.size} bytes, more than {limit_bytes}")
    content = bytearray(found.size)
    count = store.get(key, memoryview(content), tag=found.tag or None)
    return bytes(memoryview(content)[:count])
