"""Copies on the server, in as many calls as the caller or the server wants."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ckptsync.testing.gcs.objects import Objects
from ckptsync.testing.gcs.uploads import LIFETIME_S
from ckptsync.testing.gcs.values import Conditions, Draft, StoredObject
from ckptsync.testing.gcs.wire import Target, gone, invalid

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What one call achieved.

    Attributes:
        written: bytes copied so far, over all calls.
        total: bytes of the source.
        token: for the next call; None when done.
        made: the copy; None until done.
    """

    written: int
    total: int
    token: str | None = None
    made: StoredObject | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pending:
    target: Target
    generation: int
    asked_bytes: int | None
    written: int
    begun_s: float


class Rewrites:
    """Rewrites under way. Safe for many threads."""

    def __init__(self, objects: Objects, *, bytes_per_call: int | None) -> None:
        """Copy within `objects`, at most `bytes_per_call` a call; None for all at once."""
        self._objects = objects
        self._bytes_per_call = bytes_per_call
        self._pending: dict[str, _Pending] = {}
        self._lock = threading.Lock()

    def step(
        self,
        target: Target,
        source: StoredObject,
        *,
        attributes: Mapping[str, Any],
        conditions: Conditions,
        asked_bytes: int | None = None,
        token: str | None = None,
    ) -> Progress:
        """Copy some more; the copy appears when all is written.

        Args:
            target: names source and destination; must be the same for every call of one rewrite.
            source: what to copy.
            attributes: replace the source's own when not empty.
            conditions: on the destination.
            asked_bytes: the caller's own limit, a multiple of 1 MiB; the same for every call.
            token: from the call before.

        Raises:
            GcsError: 400, 403, 404, 410, 412 or 429.
        """
        if asked_bytes is not None and (asked_bytes < MEBIBYTE or asked_bytes % MEBIBYTE):
            raise invalid(f"maxBytesRewrittenPerCall must be a multiple of {MEBIBYTE}, not {asked_bytes}.")
        before = self._take(token, target, source, asked_bytes)
        limits = [limit for limit in (asked_bytes, self._bytes_per_call) if limit is not None]
        written = min(source.size, before.written + min(limits, default=source.size))
        if written < source.size:
            after = secrets.token_urlsafe(32)
            with self._lock:
                self._pending[after] = _Pending(
                    target=target,
                    generation=source.generation,
                    asked_bytes=asked_bytes,
                    written=written,
                    begun_s=before.begun_s,
                )
            return Progress(written=written, total=source.size, token=after)
        draft = Draft(
            payload=source.payload,
            crc32c=source.crc32c,
            md5=source.md5,
            component_count=source.component_count,
            attributes=attributes or source.attributes,
        )
        made = self._objects.create(target.to_bucket, target.to_name, draft, conditions)
        return Progress(written=written, total=source.size, made=made)

    def _take(self, token: str | None, target: Target, source: StoredObject, asked_bytes: int | None) -> _Pending:
        now_s = self._objects.clock.now()
        fresh = _Pending(target=target, generation=source.generation, asked_bytes=asked_bytes, written=0, begun_s=now_s)
        if token is None:
            return fresh
        with self._lock:
            found = self._pending.get(token)
        if found is None or (found.target, found.generation, found.asked_bytes) != (
            target,
            source.generation,
            asked_bytes,
        ):
            raise invalid("The rewrite token is invalid.")
        if now_s - found.begun_s >= LIFETIME_S:
            raise gone()
        return found
