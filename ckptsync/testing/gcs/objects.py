"""Buckets and their live objects: generations, rights and the write-rate rule."""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ckptsync.clock import Clock
from ckptsync.testing.gcs.values import Conditions, Draft, Page, Selection, StoredObject, check_name
from ckptsync.testing.gcs.wire import denied, no_such_bucket, no_such_object, rate_limited


@dataclass(slots=True)
class _Bucket:
    objects: dict[bytes, StoredObject] = field(default_factory=dict)
    names: list[bytes] = field(default_factory=list)  # sorted


class WriteRate:
    """How often one name may change. Call with the buckets' lock held."""

    def __init__(self, per_s: float | None, burst: int, clock: Clock) -> None:
        """Allow `per_s` changes a second and `burst` at once after a rest; None for `per_s` allows any number."""
        self._per_s = per_s
        self._burst = burst
        self._clock = clock
        self._tokens: dict[tuple[str, str], tuple[float, float]] = {}  # what was left, and when

    def check(self, bucket: str, name: str) -> None:
        """Raise GcsError 429 when the name has changed too often."""
        if self._left(bucket, name) < 1 - 1e-9:
            raise rate_limited(bucket, name)

    def count(self, bucket: str, name: str) -> None:
        """Remember a change."""
        if self._per_s is not None:
            self._tokens[bucket, name] = (self._left(bucket, name) - 1, self._clock.monotonic())

    def _left(self, bucket: str, name: str) -> float:
        if self._per_s is None or (bucket, name) not in self._tokens:
            return self._burst
        left, at_s = self._tokens[bucket, name]
        return min(self._burst, left + (self._clock.monotonic() - at_s) * self._per_s)


class Objects:
    """All buckets. Safe for many threads; every change happens at once or not at all."""

    def __init__(
        self,
        buckets: Iterable[str],
        *,
        clock: Clock,
        writes_per_s: float | None,
        write_burst: int,
        deny: Collection[str],
        md5s: bool,
    ) -> None:
        """Make empty buckets.

        Args:
            buckets: their names.
            clock: for creation times and the write-rate rule.
            writes_per_s: how often one name may change; None for as often as anyone likes.
            write_burst: how many changes of one name may come at once after a rest.
            deny: permissions nobody has.
            md5s: compute MD5 where the service does.
        """
        self.clock = clock
        self.deny = frozenset(deny)
        self.rights_first = False  # whether the right to replace is asked for before a condition is looked at
        self.md5s = md5s
        self._rate = WriteRate(writes_per_s, write_burst, clock)
        self._buckets = {name: _Bucket() for name in buckets}
        self._generation = 0
        self._lock = threading.RLock()

    def require(self, permission: str) -> None:
        """Raise GcsError 403 when nobody has the permission."""
        if permission in self.deny:
            raise denied(permission)

    def check_bucket(self, bucket: str) -> None:
        """Raise GcsError 404 when there is no such bucket."""
        if bucket not in self._buckets:
            raise no_such_bucket()

    def find(self, bucket: str, name: str) -> StoredObject | None:
        """The live object of that name, or None.

        Raises:
            GcsError: 404, no such bucket.
        """
        self.check_bucket(bucket)
        with self._lock:
            return self._buckets[bucket].objects.get(name.encode())

    def get(
        self, bucket: str, name: str, conditions: Conditions, *, generation: int | None = None, source: bool = False
    ) -> StoredObject:
        """The live object of that name.

        Args:
            bucket: where.
            name: which.
            conditions: must hold.
            generation: refuse any other.
            source: it is the source of a copy, where no condition answers 304.

        Raises:
            GcsError: 404, 412 or 304; 403 instead of 404 to those who may not list.
        """
        found = self.find(bucket, name)
        if found is None or generation not in {None, found.generation}:
            self.require("storage.objects.list")
            raise no_such_object(bucket, name)
        conditions.check(found, reading=not source)
        return found

    def create(self, bucket: str, name: str, draft: Draft, conditions: Conditions) -> StoredObject:
        """Make the draft the live object of that name, in place of any other.

        Raises:
            GcsError: 400, 403, 404, 412 or 429; nothing changed.
        """
        check_name(name)
        key = name.encode()
        with self._lock:
            live = self.find(bucket, name)
            self._rate.check(bucket, name)
            if live is not None and self.rights_first:
                self.require("storage.objects.delete")
            conditions.check(live)
            if live is not None:
                self.require("storage.objects.delete")
            now_s = self.clock.now()
            self._generation = max(self._generation + 1, int(now_s * 1e6))
            made = StoredObject(
                bucket=bucket,
                name=name,
                generation=self._generation,
                payload=draft.payload,
                size=draft.payload.size,
                crc32c=draft.crc32c,
                md5=draft.md5,
                component_count=draft.component_count,
                attributes=draft.attributes,
                created_s=now_s,
                updated_s=now_s,
            )
            room = self._buckets[bucket]
            if key not in room.objects:
                insort(room.names, key)
            room.objects[key] = made
            self._rate.count(bucket, name)
            return made

    def delete(self, bucket: str, name: str, conditions: Conditions, *, generation: int | None = None) -> None:
        """Remove the live object.

        Raises:
            GcsError: 403, 404, 412 or 429; nothing changed.
        """
        with self._lock:
            self.get(bucket, name, conditions, generation=generation, source=True)
            self._rate.check(bucket, name)
            room = self._buckets[bucket]
            key = name.encode()
            del room.objects[key]
            del room.names[bisect_left(room.names, key)]
            self._rate.count(bucket, name)

    def patch(
        self,
        bucket: str,
        name: str,
        changes: Mapping[str, Any],
        conditions: Conditions,
        *,
        generation: int | None = None,
    ) -> StoredObject:
        """Change metadata; None takes an entry away.

        Raises:
            GcsError: 404, 412 or 429; nothing changed.
        """
        with self._lock:
            live = self.get(bucket, name, conditions, generation=generation, source=True)
            self._rate.check(bucket, name)
            attributes = _merge(live.attributes, changes)
            made = replace(
                live, attributes=attributes, metageneration=live.metageneration + 1, updated_s=self.clock.now()
            )
            self._buckets[bucket].objects[name.encode()] = made
            self._rate.count(bucket, name)
            return made

    def list(self, bucket: str, selection: Selection, limit: int) -> Page:
        """One page of names.

        Raises:
            GcsError: 404, no such bucket.
        """
        self.check_bucket(bucket)
        objects: list[StoredObject] = []
        prefixes: list[str] = []
        with self._lock:
            room = self._buckets[bucket]
            index = bisect_left(room.names, max(selection.start, selection.prefix))
            while index < len(room.names):
                key = room.names[index]
                if not key.startswith(selection.prefix) or (selection.end is not None and key >= selection.end):
                    break
                if len(objects) + len(prefixes) == limit:
                    return Page(objects=objects, prefixes=prefixes, resume=key)
                cut = key.find(selection.delimiter, len(selection.prefix)) if selection.delimiter else -1
                if cut < 0:
                    objects.append(room.objects[key])
                    index += 1
                else:
                    folded = key[: cut + len(selection.delimiter)]
                    prefixes.append(folded.decode())
                    index = bisect_left(room.names, folded[:-1] + bytes([folded[-1] + 1]), index)
        return Page(objects=objects, prefixes=prefixes, resume=None)


def _merge(old: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge JSON documents the way PATCH does."""
    merged = dict(old)
    for key, value in changes.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            merged[key] = _merge(merged.get(key, {}), value)
        else:
            merged[key] = value
    return merged
