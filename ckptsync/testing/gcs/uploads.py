"""Uploads and rewrites that take more than one request: resumable sessions, XML multipart uploads, rewrite tokens."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ckptsync.testing.gcs.objects import Objects
from ckptsync.testing.gcs.payload import Md5, Payload, combine_crc32c, crc32c, md5
from ckptsync.testing.gcs.values import Conditions, Draft, StoredObject, compare_hashes
from ckptsync.testing.gcs.wire import GcsError, gone, invalid, no_such_upload

CHUNK_BYTES = 256 << 10
MIN_PART_BYTES = 5 << 20
MAX_PART_BYTES = 5 << 30
MAX_PARTS = 10_000
LIFETIME_S = 7 * 86_400.0

_CONTENT_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-(?P<last>\d+)|\*)/(?P<total>\d+|\*)")


class State(StrEnum):
    """How a session stands."""

    OPEN = "open"
    DONE = "done"
    ENDED = "ended"


@dataclass(slots=True, kw_only=True)
class Session:
    """A resumable upload. Its lock guards all that changes."""

    id: str
    bucket: str
    name: str
    attributes: Mapping[str, Any]
    conditions: Conditions
    expected: Mapping[str, str]
    total_bytes: int | None
    begun_s: float
    payloads: list[Payload] = field(default_factory=list)
    received_bytes: int = 0
    crc32c: int = 0
    md5: Md5 | None
    state: State = State.OPEN
    made: StoredObject | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def append(self, payload: Payload) -> None:
        """Keep more bytes for good."""
        self.payloads.append(payload)
        self.received_bytes += payload.size
        self.crc32c = combine_crc32c(self.crc32c, crc32c(payload), payload.size)
        if self.md5 is not None:
            self.md5.update(payload)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a multipart upload."""

    number: int
    payload: Payload
    crc32c: int
    md5: bytes | None
    etag: str
    modified_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Multipart:
    """An XML multipart upload; `parts` changes under the lock of `Uploads`."""

    id: str
    bucket: str
    name: str
    attributes: Mapping[str, Any]
    begun_s: float
    parts: dict[int, Part] = field(default_factory=dict)


class Uploads:
    """Everything unfinished. Safe for many threads."""

    def __init__(self, objects: Objects, *, persist_bytes: int | None) -> None:
        """Finish uploads into `objects`; a session keeps at most `persist_bytes` of each chunk but the last."""
        self._objects = objects
        self._persist_bytes = persist_bytes
        self._sessions: dict[str, Session] = {}
        self._multiparts: dict[str, Multipart] = {}
        self._lock = threading.Lock()

    def begin_session(
        self,
        bucket: str,
        name: str,
        *,
        attributes: Mapping[str, Any],
        conditions: Conditions,
        expected: Mapping[str, str],
        total_bytes: int | None,
    ) -> Session:
        """Open a resumable session; conditions are looked at when it finishes."""
        made = Session(
            id=_new_id(),
            bucket=bucket,
            name=name,
            attributes=attributes,
            conditions=conditions,
            expected=expected,
            total_bytes=total_bytes,
            begun_s=self._objects.clock.now(),
            md5=Md5() if self._objects.md5s else None,
        )
        with self._lock:
            self._sessions[made.id] = made
        return made

    def session(self, session_id: str) -> Session:
        """Find a session.

        Raises:
            GcsError: 404 for one never opened or older than a week, 410 for one that was ended.
        """
        with self._lock:
            found = self._sessions.get(session_id)
        if found is None or self._objects.clock.now() - found.begun_s >= LIFETIME_S:
            raise no_such_upload()
        if found.state is State.ENDED:
            raise gone()
        return found

    def receive(
        self, session_id: str, content_range: str | None, body: Payload, expected: Mapping[str, str], *, complete: bool
    ) -> StoredObject | int:
        """Take a chunk, or a question about the status.

        Args:
            session_id: from `begin_session`.
            content_range: the header, None when there is none.
            body: what arrived.
            expected: hashes of the whole object.
            complete: False when the client hung up half-way; whole blocks of 256 KiB are kept then.

        Returns:
            The object when it is finished, or how many bytes are kept.

        Raises:
            GcsError: 400, 403, 404, 410, 412 or 429.
        """
        session = self.session(session_id)
        with session.lock:
            if session.state is State.DONE and session.made is not None:
                return session.made
            first, end, total = _parse_content_range(content_range, body.size, complete=complete)
            if total is not None:
                if session.total_bytes not in {None, total}:
                    raise invalid(f"The upload was begun with {session.total_bytes} bytes, not {total}.")
                session.total_bytes = total
            if first is not None:
                self._keep(session, first, end, body, complete=complete)
            if session.received_bytes != session.total_bytes or not complete:
                return session.received_bytes
            return self._finish_session(session, expected)

    def _keep(self, session: Session, first: int, end: int, body: Payload, *, complete: bool) -> None:
        """Append what is new of a chunk."""
        last = end == session.total_bytes
        if complete and body.size != end - first:
            raise invalid(f"Content-Range names {end - first} bytes, the body has {body.size}.")
        if session.total_bytes is not None and end > session.total_bytes:
            raise invalid(f"Content-Range ends at {end}, behind the {session.total_bytes} bytes of the object.")
        if complete and not last and (end - first) % CHUNK_BYTES:
            raise invalid(f"A chunk that is not the last must be a multiple of {CHUNK_BYTES} bytes, not {end - first}.")
        if first > session.received_bytes:
            raise invalid(f"The chunk starts at {first}, but only {session.received_bytes} bytes are here.")
        reached = first + body.size
        if not complete:
            reached -= reached % CHUNK_BYTES
        elif self._persist_bytes is not None and not last:
            reached = min(reached, session.received_bytes + self._persist_bytes)
        if reached > session.received_bytes:
            session.append(body.slice(session.received_bytes - first, reached - first))

    def _finish_session(self, session: Session, expected: Mapping[str, str]) -> StoredObject:
        payload = Payload.join(session.payloads)
        expected = {**session.expected, **expected}
        digest = session.md5.digest() if session.md5 is not None else None
        if digest is None and "md5" in expected:
            digest = md5(payload)
        try:
            compare_hashes(expected, session.crc32c, digest)
        except GcsError:
            self._end(session)
            raise
        draft = Draft(payload=payload, crc32c=session.crc32c, md5=digest, attributes=session.attributes)
        made = self._objects.create(session.bucket, session.name, draft, session.conditions)
        session.made = replace(made, payload=Payload())  # it may be asked for long after the object was deleted
        session.state = State.DONE
        session.payloads.clear()
        return made

    def cancel(self, session_id: str) -> None:
        """End a session at the client's wish; from now on it is gone.

        Raises:
            GcsError: 404; 410, it is finished or was ended before.
        """
        session = self.session(session_id)
        with session.lock:
            if session.state is State.DONE:
                raise gone()
            self._end(session)

    @staticmethod
    def _end(session: Session) -> None:
        session.state = State.ENDED
        session.payloads.clear()

    def session_name(self, session_id: str) -> str:
        """The object a session is for, however it stands; empty when there is no such session."""
        with self._lock:
            found = self._sessions.get(session_id)
        return found.name if found else ""

    def open_sessions(self) -> list[str]:
        """Ids of sessions that are not finished, in the order they were begun."""
        with self._lock:
            return [session.id for session in self._sessions.values() if session.state is State.OPEN]

    def expire(self, session_id: str) -> None:
        """Forget a session, as the service does after a week."""
        with self._lock:
            self._sessions.pop(session_id, None)

    def begin_multipart(self, bucket: str, name: str, attributes: Mapping[str, Any]) -> Multipart:
        """Open a multipart upload."""
        now_s = self._objects.clock.now()
        made = Multipart(id=_new_id(), bucket=bucket, name=name, attributes=attributes, begun_s=now_s)
        with self._lock:
            self._multiparts[made.id] = made
        return made

    def multipart(self, bucket: str, name: str, upload_id: str) -> Multipart:
        """Find a multipart upload.

        Raises:
            GcsError: 404.
        """
        with self._lock:
            found = self._multiparts.get(upload_id)
        if found is None or (found.bucket, found.name) != (bucket, name):
            raise no_such_upload()
        return found

    def multiparts(self, bucket: str) -> list[Multipart]:
        """Unfinished multipart uploads of a bucket, by name and id."""
        with self._lock:
            found = [upload for upload in self._multiparts.values() if upload.bucket == bucket]
        return sorted(found, key=lambda upload: (upload.name.encode(), upload.id))

    def put_part(self, upload: Multipart, number: int, body: Payload, expected: Mapping[str, str]) -> Part:
        """Keep a part, in place of an earlier one of that number.

        Raises:
            GcsError: 400, other bytes arrived than the client hashed; 404, the upload ended meanwhile.
        """
        draft = Draft.hashed(body, {}, expected, md5s=self._objects.md5s)
        digest = draft.md5.hex() if draft.md5 is not None else f"{draft.crc32c:08x}{secrets.token_hex(12)}"
        part = Part(
            number=number,
            payload=body,
            crc32c=draft.crc32c,
            md5=draft.md5,
            etag=f'"{digest}"',
            modified_s=self._objects.clock.now(),
        )
        with self._lock:
            if upload.id not in self._multiparts:
                raise no_such_upload()
            upload.parts[number] = part
        return part

    def parts(self, upload: Multipart) -> list[Part]:
        """Parts kept so far, by number."""
        with self._lock:
            return [upload.parts[number] for number in sorted(upload.parts)]

    def complete(self, upload: Multipart, wanted: Sequence[tuple[int, str]]) -> StoredObject:
        """Make the object from the parts named, and forget the upload.

        Raises:
            GcsError: 400, 403, 404 or 429; the upload is as it was.
        """
        with self._lock:
            if upload.id not in self._multiparts:
                raise no_such_upload()
            parts = _choose(upload.parts, wanted)
            value = 0
            for part in parts:
                value = combine_crc32c(value, part.crc32c, part.payload.size)
            payload = Payload.join(part.payload for part in parts)
            draft = Draft(payload=payload, crc32c=value, attributes=upload.attributes)
            made = self._objects.create(upload.bucket, upload.name, draft, Conditions())
            del self._multiparts[upload.id]
            return made

    def abort(self, upload: Multipart) -> None:
        """Forget the upload and its parts.

        Raises:
            GcsError: 404.
        """
        with self._lock:
            if self._multiparts.pop(upload.id, None) is None:
                raise no_such_upload()


def _choose(parts: Mapping[int, Part], wanted: Iterable[tuple[int, str]]) -> list[Part]:
    """Find the parts a complete request names."""
    chosen: list[Part] = []
    for number, etag in wanted:
        if chosen and number <= chosen[-1].number:
            raise invalid("The list of parts was not in ascending order.", code="InvalidPartOrder")
        part = parts.get(number)
        if part is None or part.etag.strip('"') != etag.strip('"'):
            raise invalid(f"Part {number} could not be found or its ETag does not match.", code="InvalidPart")
        chosen.append(part)
    if not chosen:
        raise invalid("You must name at least one part.")
    for part in chosen[:-1]:
        if part.payload.size < MIN_PART_BYTES:
            raise invalid(
                f"Part {part.number} has {part.payload.size} bytes, less than {MIN_PART_BYTES}.", code="EntityTooSmall"
            )
    return chosen


def _parse_content_range(header: str | None, body_bytes: int, *, complete: bool) -> tuple[int | None, int, int | None]:
    """First byte (None for a status query), end and total (None when unknown) of a chunk."""
    if header is None:
        return 0, body_bytes, body_bytes if complete else None
    found = _CONTENT_RANGE.fullmatch(header.strip())
    if (
        not found
        or (found["first"] is None and body_bytes)
        or (found["first"] and int(found["first"]) > int(found["last"]))
    ):
        raise invalid(f"Failed to parse Content-Range header: {header!r}")
    total = None if found["total"] == "*" else int(found["total"])
    if found["first"] is None:
        return None, 0, total
    return int(found["first"]), int(found["last"]) + 1, total


def _new_id() -> str:
    return secrets.token_urlsafe(48)
