"""Counts what a store is asked, for tests that hold us to a number of requests and for what a save costs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from ckptsync.errors import TransientError
from ckptsync.store.base import Buffer, PartTag, Stat, Store, StoreWrapper, Tag, Upload

T = TypeVar("T")

PAGE_ENTRIES = 1000
"""Entries of a listing, or keys of a deletion, in one request of the usual services."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What was asked so far.

    Attributes:
        requests: by verb, failed ones too; a listing or deletion counts as one per 1000 entries begun, at least one.
        sent_bytes: payload of `put` and `put_part` that succeeded.
        received_bytes: payload of `get` and `read`, also of a `get` that broke half-way.
    """

    requests: Mapping[str, int]
    sent_bytes: int
    received_bytes: int

    @property
    def total(self) -> int:
        """Requests of all verbs."""
        return sum(self.requests.values())


class Metered(StoreWrapper):
    """Counts requests and payload; safe for many threads. Put it inside `Retrying` to count every try."""

    def __init__(self, inner: Store) -> None:
        """Start at zero."""
        super().__init__(inner)
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()
        self._sent_bytes = 0
        self._received_bytes = 0

    def counts(self) -> Counts:
        """Return the counts of this moment."""
        with self._lock:
            return Counts(
                requests=MappingProxyType(dict(self._requests)),
                sent_bytes=self._sent_bytes,
                received_bytes=self._received_bytes,
            )

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        """Count a request, then send it."""
        del key
        self._count(verb)
        return request()

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        """As the inner store's."""
        stored = super().put(key, data, if_absent=if_absent)
        self._moved(sent_bytes=memoryview(data).nbytes)
        return stored

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        """As the inner store's."""
        try:
            count = super().get(key, into, offset=offset, tag=tag)
        except TransientError as error:
            self._moved(received_bytes=error.received)
            raise
        self._moved(received_bytes=count)
        return count

    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        """As the inner store's."""
        return self._by_page("list", super().list(prefix, limit=limit, after=after))

    def delete(self, keys: Iterable[str]) -> None:
        """As the inner store's."""
        wanted = tuple(keys)
        self._count("delete", pages(len(wanted)) - 1)
        super().delete(wanted)

    def read(self, key: str) -> bytes:
        """As the inner store's."""
        content = super().read(key)
        self._moved(received_bytes=len(content))
        return content

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        """As the inner store's."""
        stored = super().put_part(upload, number, data)
        self._moved(sent_bytes=memoryview(data).nbytes)
        return stored

    def parts(self, upload: Upload) -> dict[int, PartTag]:
        """As the inner store's."""
        found = super().parts(upload)
        self._count("parts", pages(len(found)) - 1)
        return found

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """As the inner store's."""
        return self._by_page("uploads", super().uploads(prefix))

    def _by_page(self, verb: str, entries: Iterator[T]) -> Iterator[T]:
        """Count one more request for each page begun behind the first."""
        for index, found in enumerate(entries):
            if index and index % PAGE_ENTRIES == 0:
                self._count(verb)
            yield found

    def _count(self, verb: str, requests: int = 1) -> None:
        """Add requests."""
        if requests:
            with self._lock:
                self._requests[verb] += requests

    def _moved(self, *, sent_bytes: int = 0, received_bytes: int = 0) -> None:
        """Add payload."""
        with self._lock:
            self._sent_bytes += sent_bytes
            self._received_bytes += received_bytes


def pages(entries: int) -> int:
    """Return how many requests so many entries take, at least one."""
    return max(1, -(-entries // PAGE_ENTRIES))
