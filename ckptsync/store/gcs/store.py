"""Google Cloud Storage: small objects through the JSON API, large ones in parts through the XML API.

docs/decisions/0002-gcs-xml-multipart.md says why. Every request is our own, over one session with Google's credentials;
nothing of Google's library retries behind our back, except the fetching of an access token.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from http import HTTPStatus
from urllib.parse import quote, urlencode

from ckptsync.errors import (
    ConfigError,
    ConflictError,
    DeniedError,
    IntegrityError,
    NotFoundError,
    TransientError,
)
from ckptsync.options import Gcs, Http
from ckptsync.pool import Pool
from ckptsync.store.bandwidth import Bandwidth
from ckptsync.store.base import Buffer, PartTag, Stat, Store, Tag, Traits, Upload
from ckptsync.store.pace import Pace

try:
    from ckptsync.store.gcs import json_api, xml_api
    from ckptsync.store.gcs.crc32c import crc32c
    from ckptsync.store.gcs.http import Body, Wire, connect_anonymously, endpoint, expected_bytes
    from ckptsync.store.gcs.login import connect_with_login
    from ckptsync.store.gcs.names import Place
except ImportError as missing:
    raise ConfigError("gs:// needs google-cloud-storage: pip install 'ckptsync[gcs]'") from missing

# Source: https://cloud.google.com/storage/quotas (one name may change once a second)
TRAITS = Traits(copy_part=False, min_part_bytes=5 << 20, max_copy_bytes=5 << 40, rewrite_pause_s=1.0)

_JSON = "/storage/v1"
_PAGE = 1000
# serves gzip-encoded objects as they are stored; without it the service unpacks them and ignores Range
# Source: https://cloud.google.com/storage/docs/transcoding
_RAW = {"Accept-Encoding": "gzip"}


class GcsStore(Store):
    """A run in a bucket of Google Cloud Storage. Nothing is asked of the service before the first verb."""

    def __init__(
        self,
        bucket: str,
        prefix: str,
        options: Gcs,
        http: Http,
        *,
        connections: int,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        """Remember where; open nothing.

        Args:
            bucket: its name.
            prefix: of the run, without slashes at its ends; may be empty.
            options: endpoint, project, anonymous.
            http: time limits.
            connections: kept open at most, 1 or more.
            bandwidth: caps what bodies bring and take; None for no cap.

        Raises:
            ConfigError: the bucket's name or the endpoint cannot be used.
        """
        self._place = Place(bucket, prefix)
        self.url = self._place.url
        self.traits = TRAITS
        self._connections = connections
        self._finish_timeout_s = http.finish_timeout_s
        address, anonymous = endpoint(options)
        pace = Pace.of(http, bandwidth)
        connect = connect_anonymously if anonymous else partial(connect_with_login, http=http)
        self._wire = Wire(partial(connect, address, options.project, connections, pace=pace), http, pace)

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        """As `Store.put`; the service checks the CRC32C before anything becomes visible.

        Source: https://cloud.google.com/storage/docs/json_api/v1/objects/insert
        """
        asked, name = self._place.asked("put", key), self._place.new_name(key)
        crc = crc32c(data)
        content_type = "application/json" if key.endswith(".json") else "application/octet-stream"
        body_type, head, tail = json_api.framed(
            name=name, crc32c=json_api.crc32c_base64(crc), content_type=content_type
        )
        condition = {"ifGenerationMatch": "0"} if if_absent else {}
        query = urlencode({"uploadType": "multipart", "fields": json_api.FIELDS, **condition})
        try:
            response = self._wire.send(
                asked,
                "POST",
                f"/upload{_JSON}{self._place.objects}?{query}",
                headers={"Content-Type": body_type},
                body=Body(head, data, tail),
            )
        except DeniedError as error:
            if if_absent and self._is_there(
                key
            ):  # the right to replace may be asked for before the condition is looked at
                raise ConflictError(f"{asked.where}: it is there already", op="put", key=key) from error
            if if_absent or (found := self._stands(key, memoryview(data).nbytes, f"{crc:08x}")) is None:
                raise
            return found
        stored = self._wire.read(asked, response, json_api.read_resource).stat(key)
        if stored.size != memoryview(data).nbytes or stored.hashes.get("crc32c", f"{crc:08x}") != f"{crc:08x}":
            raise IntegrityError(f"{asked.where}: the service stored other bytes than were sent; put it again")
        return stored

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        """As `Store.get`.

        Source: https://cloud.google.com/storage/docs/xml-api/get-object-download
        """
        if not into.nbytes:
            self._check_version(key, tag)
            return 0
        asked = self._place.asked("get", key)
        headers = {**_RAW, "Range": f"bytes={offset}-{offset + into.nbytes - 1}"}
        if tag:
            if not tag.isdecimal():  # as where a run was moved here; the service would call the request invalid
                raise ConflictError(f"{asked.where}: {tag!r} is no generation", op="get", key=key)
            headers["x-goog-if-generation-match"] = tag
        response = self._wire.send(
            asked,
            "GET",
            self._place.xml_path(key),
            headers=headers,
            ok=(HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE),
            stream=True,
        )
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            response.raw.drain_conn()  # its few bytes; the connection can be used again then
            return 0
        if (expected := expected_bytes(response, offset, into.nbytes)) is None:
            response.close()
            raise TransientError(f"{asked.where}: the answer is not the range asked for", op="get", key=key)
        with into.cast("B") as target:
            count = self._wire.receive(asked, response, target)
        if count < expected:
            message = f"{asked.where}: the answer ended after {count} of {expected} bytes"
            raise TransientError(message, op="get", key=key, received=count)
        return count

    def read(self, key: str) -> bytes:
        """As `Store.read`, in one request, checked against the CRC32C the service has for the object."""
        asked = self._place.asked("read", key)
        response = self._wire.send(asked, "GET", self._place.xml_path(key), headers=_RAW, stream=True)
        size = response.headers.get("x-goog-stored-content-length") or response.headers.get("content-length") or ""
        content = bytearray(int(size) if size.isdecimal() else 0)
        count = self._wire.receive(asked, response, memoryview(content))
        known = json_api.header_hashes(response.headers.get("x-goog-hash", "")).get("crc32c")
        if not size.isdecimal() or count < len(content) or (known and known != f"{crc32c(content):08x}"):
            raise TransientError(f"{asked.where}: the content arrived damaged", op="read", key=key)
        return bytes(content)

    def stat(self, key: str) -> Stat:
        """As `Store.stat`.

        Source: https://cloud.google.com/storage/docs/json_api/v1/objects/get
        """
        asked = self._place.asked("stat", key)
        response = self._wire.send(asked, "GET", f"{_JSON}{self._place.json_path(key)}?fields={quote(json_api.FIELDS)}")
        return self._wire.read(asked, response, json_api.read_resource).stat(key)

    def list(self, prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        """As `Store.list`.

        Source: https://cloud.google.com/storage/docs/json_api/v1/objects/list
        """
        asked = self._place.asked("list", prefix)
        query = {"prefix": self._place.name(prefix), "fields": f"nextPageToken,items({json_api.FIELDS})"}
        if after:
            query["startOffset"] = self._place.name(after)
        left = limit
        while left is None or left > 0:
            # startOffset is inclusive: one more, of which `after` itself is dropped
            most = _PAGE if left is None else min(_PAGE, left + (1 if after else 0))
            response = self._wire.send(
                asked, "GET", f"{_JSON}{self._place.objects}?{urlencode({**query, 'maxResults': most})}"
            )
            page = self._wire.read(asked, response, json_api.read_listing)
            found = [item.stat(self._place.key(item.name)) for item in page.items]
            found = [stat for stat in found if stat.key != after][:left]
            yield from found
            if not page.next_page:
                return
            query["pageToken"] = page.next_page
            left = left if left is None else left - len(found)

    def delete(self, keys: Iterable[str]) -> None:
        """As `Store.delete`, several at a time.

        Source: https://cloud.google.com/storage/docs/json_api/v1/objects/delete
        """
        pool = Pool(self._connections, name="ckptsync-gcs-delete")
        try:
            for deleted in [pool.submit(partial(self._delete, key)) for key in keys]:
                deleted.result()
        finally:
            pool.close()

    def copy(self, source: str, key: str, *, tag: Tag | None = None) -> Stat:
        """As `Store.copy`, of any size; a copy that takes the service long goes on over several requests.

        Source: https://cloud.google.com/storage/docs/json_api/v1/objects/rewrite
        """
        asked = self._place.asked("copy", source)
        self._place.new_name(key)
        path = f"{_JSON}{self._place.json_path(source)}/rewriteTo{self._place.json_path(key)}"
        query = {"fields": f"done,rewriteToken,resource({json_api.FIELDS})"}
        if tag:
            query["ifSourceGenerationMatch"] = tag
        while True:
            try:
                response = self._wire.send(asked, "POST", f"{path}?{urlencode(query)}")
            except DeniedError:
                if (found := self._copied(source, key, tag)) is None:
                    raise
                return found
            state = self._wire.read(asked, response, json_api.read_rewrite)
            if state.done and state.resource:
                return state.resource.stat(key)
            query["rewriteToken"] = state.token

    def begin(self, key: str) -> Upload:
        """As `Store.begin`."""
        asked = self._place.asked("begin", key)
        self._place.new_name(key)
        response = self._wire.send(asked, "POST", f"{self._place.xml_path(key)}?uploads")
        return Upload(key=key, id=self._wire.read(asked, response, xml_api.upload_id))

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        """As `Store.put_part`; the service refuses a part whose CRC32C is not the one sent along.

        Source: https://cloud.google.com/storage/docs/xml-api/put-object-multipart
        """
        asked = self._place.asked("put_part", upload.key)
        crc, size = crc32c(data), memoryview(data).nbytes
        response = self._wire.send(
            asked,
            "PUT",
            self._place.upload_path(upload, {"partNumber": str(number)}),
            headers={"x-goog-hash": f"crc32c={json_api.crc32c_base64(crc)}"},
            body=Body(data),
        )
        hashes = {"crc32c": f"{crc:08x}"}
        stored = json_api.header_hashes(response.headers.get("x-goog-hash", ""))
        if {**hashes, **stored}["crc32c"] != hashes["crc32c"]:
            raise IntegrityError(f"{asked.where}: the service holds another part {number} than was sent; send it again")
        if not (etag := response.headers.get("etag")):
            raise TransientError(f"{asked.where}: the answer names no ETag", op="put_part", key=upload.key)
        return PartTag(number=number, size=size, tag=xml_api.part_etag(etag), hashes={**stored, **hashes})

    def parts(self, upload: Upload) -> dict[int, PartTag]:
        """As `Store.parts`."""
        asked = self._place.asked("parts", upload.key)
        found: dict[int, PartTag] = {}
        following = {"max-parts": str(_PAGE)}
        while following:
            response = self._wire.send(asked, "GET", self._place.upload_path(upload, following))
            page = self._wire.read(asked, response, xml_api.parts_page)
            found.update((part.number, part) for part in page.entries)
            following = page.following
        return found

    def finish(self, upload: Upload, parts: Iterable[PartTag]) -> Stat:
        """As `Store.finish`; size and CRC32C of the object are compared with those of the parts.

        Source: https://cloud.google.com/storage/docs/xml-api/post-object-complete ("can take several minutes")
        """
        parts = sorted(parts, key=lambda part: part.number)
        asked = self._place.asked("finish", upload.key)
        gone: NotFoundError | None = None
        try:
            response = self._wire.send(
                asked,
                "POST",
                self._place.upload_path(upload),
                headers={"Content-Type": "application/xml"},
                body=xml_api.completion(parts),
                read_timeout_s=self._finish_timeout_s,
            )
            if xml_api.is_error(response.content):
                raise TransientError(f"{asked.where}: finishing failed half-way", op="finish", key=upload.key)
        except NotFoundError as error:
            gone = error  # an earlier try may have finished it; the object tells
        try:
            found = self.stat(upload.key)
        except NotFoundError as error:
            raise gone or error from error
        if xml_api.assembled(found, parts):
            return found
        if gone:
            raise gone
        raise IntegrityError(f"{asked.where}: the assembled object is not what the parts make; upload the file again")

    def abort(self, upload: Upload) -> None:
        """As `Store.abort`. Source: https://cloud.google.com/storage/docs/xml-api/delete-multipart."""
        self._wire.send(
            self._place.asked("abort", upload.key),
            "DELETE",
            self._place.upload_path(upload),
            ok=(HTTPStatus.NO_CONTENT, HTTPStatus.OK, HTTPStatus.NOT_FOUND),
        )

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """As `Store.uploads`."""
        asked = self._place.asked("uploads", prefix)
        query = {"prefix": self._place.name(prefix), "max-uploads": str(_PAGE)}
        while query:
            response = self._wire.send(asked, "GET", f"/{self._place.bucket}?uploads&{urlencode(query)}")
            page = self._wire.read(asked, response, xml_api.uploads_page)
            for upload in page.entries:
                yield Upload(key=self._place.key(upload.key), id=upload.id, begun_s=upload.begun_s)
            query = {**query, **page.following} if page.following else {}

    def close(self) -> None:
        """Close the connections. Safe to call again."""
        self._wire.close()

    def _delete(self, key: str) -> None:
        """Delete one object."""
        asked = self._place.asked("delete", key)
        self._wire.send(
            asked, "DELETE", _JSON + self._place.json_path(key), ok=(HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND)
        )

    def _is_there(self, key: str) -> bool:
        """Whether there is an object."""
        try:
            self.stat(key)
        except (NotFoundError, DeniedError):
            return False
        return True

    def _stands(self, key: str, size: int, crc32c_hex: str) -> Stat | None:
        """The object of a key when it has this content; None otherwise, also when that cannot be told.

        To replace an object takes a right that trainers need not have. A try whose answer was lost may have put it before.
        """
        try:
            found = self.stat(key)
        except (NotFoundError, DeniedError):
            return None
        return found if (found.size, found.hashes.get("crc32c")) == (size, crc32c_hex) else None

    def _copied(self, source: str, key: str, tag: Tag | None) -> Stat | None:
        """The object of a key when it has the content of another; as `_stands`."""
        try:
            original = self.stat(source)
        except (NotFoundError, DeniedError):
            return None
        known = original.hashes.get("crc32c")
        return self._stands(key, original.size, known) if known and tag in {None, original.tag} else None

    def _check_version(self, key: str, tag: Tag | None) -> None:
        """Do for an empty range what the service does for others."""
        found = self.stat(key)
        if tag and tag != found.tag:
            asked = self._place.asked("get", key)
            raise ConflictError(f"{asked.where}: it is no longer the version asked for", op="get", key=key)
