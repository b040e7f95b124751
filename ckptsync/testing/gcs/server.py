"""A strict Google Cloud Storage on loopback, for tests without an account.

    with GcsServer(buckets=["b"]) as server:
        os.environ["STORAGE_EMULATOR_HOST"] = server.url
        client = google.cloud.storage.Client(project="p", credentials=AnonymousCredentials())

Or as a process of its own: `python -m ckptsync.testing.gcs.server --port 0 --bucket b`, which prints `ready URL`.

What it enforces, and which page of Google's documentation each rule rests on, is in docs/reference/loopback-gcs.md. It
speaks the JSON API (objects, resumable uploads, compose, rewrite) and the XML API (whole objects, multipart uploads).
Whatever it does not model it refuses, rather than pretend.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from ckptsync.clock import SYSTEM, Clock
from ckptsync.testing.gcs import json_api, json_upload, xml_api
from ckptsync.testing.gcs.http import Listener
from ckptsync.testing.gcs.objects import Objects
from ckptsync.testing.gcs.rewrite import Rewrites
from ckptsync.testing.gcs.service import PERMISSIONS, Service, check_token, refuse_etags
from ckptsync.testing.gcs.uploads import Uploads
from ckptsync.testing.gcs.wire import (
    After,
    Before,
    Fault,
    GcsError,
    Kind,
    Request,
    Response,
    Target,
    error_response,
    not_implemented,
)

__all__ = ["Fault", "GcsServer", "Kind", "Request", "Response"]

HOST = "127.0.0.1"
POLL_S = 0.01

_SESSIONS = frozenset({Kind.SESSION_START, Kind.SESSION_CHUNK, Kind.SESSION_QUERY, Kind.SESSION_CANCEL})


class GcsServer:
    """The server. Use as a context manager, or call `start` and `stop`; what it holds survives a stop and a start.

    Attributes:
        url: `http://127.0.0.1:port`, once started.
        requests: every request since the start: method, kind and object name. Append-only; copy before you count.
        before: called with each request whose body has arrived; a fault it returns is answered instead, without effect.
        after: called when the request has had its effect; a fault it returns replaces the answer.
    """

    def __init__(
        self,
        *,
        buckets: Iterable[str] = (),
        port: int = 0,
        clock: Clock = SYSTEM,
        writes_per_s: float | None = 1.0,
        write_burst: int = 1,
        token: str | None = None,
        deny: Collection[str] = (),
        md5s: bool = True,
        rewrite_bytes_per_call: int | None = None,
        persist_bytes: int | None = None,
        root: Path | None = None,
        before: Before | None = None,
        after: After | None = None,
    ) -> None:
        """Set up; nothing listens before `start`.

        Args:
            buckets: names of the buckets there are; none is made later.
            port: 0 takes a free one.
            clock: for creation times, session lifetimes and the write-rate rule.
            writes_per_s: how often one object name may be created, changed or deleted, else 429; None for any rate.
            write_burst: how many such changes may come at once after a rest, at least 1.
            token: when given, every request but those to a session's address must carry `Authorization: Bearer TOKEN`.
            deny: permissions nobody has, such as `storage.objects.delete`.
            md5s: compute MD5 where the service does; False makes uploads faster and every object look composite.
            rewrite_bytes_per_call: makes rewrites of more than this many bytes take several calls.
            persist_bytes: a session keeps at most this many bytes of each chunk but the last; a multiple of 256 KiB.
            root: keep bodies in nameless files in this directory instead of in RAM, at the cost of open files.
            before: see the class.
            after: see the class.
        """
        self.url = ""
        self.requests: list[tuple[str, Kind, str]] = []
        self.before = before
        self.after = after
        self.root = root
        self._token = token
        self._port = port
        self._objects = Objects(
            buckets, clock=clock, writes_per_s=writes_per_s, write_burst=write_burst, deny=deny, md5s=md5s
        )
        self._uploads = Uploads(self._objects, persist_bytes=persist_bytes)
        self._rewrites = Rewrites(self._objects, bytes_per_call=rewrite_bytes_per_call)
        self._listener: Listener | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Listen. A second start after a stop takes the same port."""
        if self._listener is None:
            self._listener = Listener((HOST, self._port), self)
            self._port = self._listener.server_address[1]
            self.url = f"http://{HOST}:{self._port}"
            self._thread = threading.Thread(target=self._listener.serve_forever, args=(POLL_S,), daemon=True)
            self._thread.start()
        return self

    def stop(self) -> None:
        """Close every connection and wait for its thread. Safe to call again."""
        if self._listener is not None and self._thread is not None:
            self._listener.shutdown()
            self._thread.join()
            self._listener.server_close()
            self._listener.hang_up()
            self._listener = self._thread = None

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    def open_sessions(self) -> list[str]:
        """Ids of resumable sessions that are not finished, oldest first; the id is the address's `upload_id`."""
        return self._uploads.open_sessions()

    def expire_session(self, session_id: str) -> None:
        """Forget a session, as the service does after a week: the next request to it answers 404."""
        self._uploads.expire(session_id)

    def end_session(self, session_id: str) -> None:
        """End a session on the service's side: the next request to it answers 410."""
        self._uploads.cancel(session_id)

    def respond(self, request: Request) -> tuple[Response, Fault | None]:
        """Answer a request; the fault tells what is to happen to the answer on its way."""
        request = self._record(request)
        if self.before is not None and (fault := self.before(request)) is not None:
            return _fault_response(fault, request.target), fault
        try:
            response = self._handle(request)
        except GcsError as error:
            response = error_response(error, request.target)
        if self.after is None or (fault := self.after(request, response)) is None:
            return response, None
        return (response if fault.cut_bytes is not None else _fault_response(fault, request.target)), fault

    def receive_broken(self, request: Request) -> None:
        """Note a request whose body broke off: a session keeps what came of it, and nothing else happens."""
        request = self._record(request)
        if request.kind is Kind.SESSION_CHUNK:
            try:
                json_upload.handle(self._service(), request)
            except GcsError:
                return

    def _record(self, request: Request) -> Request:
        """Note a request, under the name of the object it is about."""
        if request.kind is Kind.INSERT or request.kind in _SESSIONS:
            name = json_upload.name_of(self._service(), request)
            request = replace(request, target=replace(request.target, name=name))
        self.requests.append((request.method, request.kind, request.object_name))
        return request

    def _handle(self, request: Request) -> Response:
        check_token(request, self._token)
        for permission in PERMISSIONS.get(request.kind, ()):
            self._objects.require(permission)
        if request.kind is Kind.UNKNOWN:
            if request.target.xml:
                raise not_implemented(f"{request.method} {request.path} is not modelled.")
            raise GcsError(404, "notFound", "NotFound", "Not Found")
        if request.target.xml:
            return xml_api.handle(self._service(), request)
        refuse_etags(request)
        if request.kind is Kind.INSERT or request.kind in _SESSIONS:
            return json_upload.handle(self._service(), request)
        return json_api.handle(self._service(), request)

    def _service(self) -> Service:
        return Service(objects=self._objects, uploads=self._uploads, rewrites=self._rewrites, url=self.url)


def _fault_response(fault: Fault, target: Target) -> Response:
    error = GcsError(fault.status, fault.reason, fault.code, "A fault injected by the test.")
    response = error_response(error, target)
    response.headers.update(fault.headers)
    return response


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m ckptsync.testing.gcs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--bucket", action="append", default=[], help="a bucket there is; may be repeated")
    parser.add_argument("--token", help="demand Authorization: Bearer TOKEN")
    parser.add_argument("--deny", action="append", default=[], help="a permission nobody has; may be repeated")
    parser.add_argument("--no-write-rate", action="store_true", help="let one name change at any rate")
    parser.add_argument("--no-md5", action="store_true", help="compute no MD5, which is faster")
    parser.add_argument("--root", type=Path, help="keep bodies in files in this directory instead of in RAM")
    options = parser.parse_args(arguments)
    server = GcsServer(
        buckets=options.bucket,
        port=options.port,
        token=options.token,
        deny=options.deny,
        writes_per_s=None if options.no_write_rate else 1.0,
        md5s=not options.no_md5,
        root=options.root,
    )
    endings = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)  # waited for below: a handler could not set an event safely
    with server:
        sys.stdout.write(f"ready {server.url}\n")
        sys.stdout.flush()
        signal.sigwait(endings)
    return 0
