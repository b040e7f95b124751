"""A metadata service on loopback that plays Amazon EC2 and Google Compute Engine, as strictly as they are.

with MetadataServer() as server:
    os.environ.update(server.environ)
    server.interrupt(left_s=120)        # EC2: spot/instance-action
    server.preempt()                    # Google: preempted becomes TRUE, long polls answer at once

python -m ckptsync.testing.metadata --port 8111
curl -d '{"preempt": true}' http://127.0.0.1:8111/control
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

_TTLS_S = range(1, 21_601)
_GOOGLE = {"Metadata-Flavor": "Google"}
_INSTANCE = "/computeMetadata/v1/instance/"
_EC2 = "/latest/meta-data/"
_HANG_S = 30.0


class MetadataServer:
    """Serves until it is closed. A context manager."""

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, clouds: tuple[str, ...] = ("ec2", "gce")) -> None:
        """Listen at once.

        Args:
            host: address.
            port: 0 takes any that is free.
            clouds: which of `ec2` and `gce` it plays.
        """
        self.clouds = clouds
        self.hops_too_few = False
        self.requests: list[str] = []
        self._changed = threading.Condition()
        self._tokens: dict[str, float] = {}
        self._ec2: dict[str, str] = {}
        self._gce = {"preempted": "FALSE", "maintenance-event": "NONE"}
        self._etags = dict.fromkeys(self._gce, 1)
        self._closed = False
        handler = type("_Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer((host, port), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def address(self) -> str:
        """As `host:port`."""
        host, port = self._server.server_address[:2]
        return f"{host!s}:{port}"

    @property
    def environ(self) -> Mapping[str, str]:
        """What leads the clouds' SDKs, and ckptsync, to it."""
        return {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{self.address}",
            "AWS_EC2_METADATA_DISABLED": "false",
            "GCE_METADATA_HOST": self.address,
            "NO_GCE_CHECK": "false",
        }

    # -- what happens ------------------------------------------------------------------------------------------------

    def interrupt(self, *, left_s: float = 120.0, action: str = "terminate") -> None:
        """Interrupt the spot instance of EC2.

        Args:
            left_s: until then.
            action: `terminate`, `stop` or `hibernate`.
        """
        self._set_ec2("spot/instance-action", {"action": action, "time": _moment(left_s)})

    def rebalance(self) -> None:
        """Tell that an interruption is likely, as EC2 does."""
        self._set_ec2("events/recommendations/rebalance", {"noticeTime": _moment(0)})

    def preempt(self) -> None:
        """Preempt the machine of Compute Engine."""
        self._set_gce("preempted", "TRUE")

    def maintain(self, event: str = "TERMINATE_ON_HOST_MAINTENANCE") -> None:
        """Announce maintenance of Compute Engine's host.

        Args:
            event: or `MIGRATE_ON_HOST_MAINTENANCE`.
        """
        self._set_gce("maintenance-event", event)

    def expire_tokens(self) -> None:
        """Take back the tokens of EC2 that were given out."""
        with self._changed:
            self._tokens.clear()

    def calm(self) -> None:
        """Take every notice back."""
        with self._changed:
            self._ec2.clear()
        for subject, value in (("preempted", "FALSE"), ("maintenance-event", "NONE")):
            self._set_gce(subject, value)

    def control(self, orders: Mapping[str, Any]) -> None:
        """Do what `POST /control` says: `interrupt` (seconds left), `rebalance`, `preempt`, `maintain`, `expire_tokens`, `calm`,
        `hops_too_few` (true or false).

        Args:
            orders: in JSON, by name.

        Raises:
            ValueError: there is none of that name.
        """  # noqa: D205  the list is one sentence
        acts: dict[str, Callable[[Any], None]] = {
            "interrupt": lambda left_s: self.interrupt(left_s=float(left_s)),
            "rebalance": lambda _: self.rebalance(),
            "preempt": lambda _: self.preempt(),
            "maintain": lambda event: self.maintain(event) if isinstance(event, str) else self.maintain(),
            "expire_tokens": lambda _: self.expire_tokens(),
            "calm": lambda _: self.calm(),
            "hops_too_few": lambda on: setattr(self, "hops_too_few", bool(on)),
        }
        for name, value in orders.items():
            if name not in acts:
                raise ValueError(f"{name} is none of {', '.join(acts)}")
            acts[name](value)

    def close(self) -> None:
        """Stop; long polls are answered. Safe to call again."""
        if self._closed:
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _set_ec2(self, path: str, value: Mapping[str, str]) -> None:
        with self._changed:
            self._ec2[path] = json.dumps(value)

    def _set_gce(self, subject: str, value: str) -> None:
        with self._changed:
            if self._gce[subject] != value:
                self._gce[subject] = value
                self._etags[subject] += 1
                self._changed.notify_all()

    # -- what is answered --------------------------------------------------------------------------------------------

    def token(self, ttl: str, *, forwarded: bool) -> tuple[int, str]:
        """Answer a PUT for a token of EC2."""
        if forwarded:
            return 403, "Forbidden"
        if not ttl.isdecimal() or int(ttl) not in _TTLS_S:
            return 400, "Bad Request"
        token = secrets.token_urlsafe(40)
        with self._changed:
            self._tokens[token] = time.monotonic() + int(ttl)
        return 200, token

    def of_ec2(self, path: str, token: str) -> tuple[int, str]:
        """Answer a GET of EC2, for which a token is needed."""
        with self._changed:
            if self._tokens.get(token, 0.0) < time.monotonic():
                return 401, "Unauthorized"
            found = {"instance-life-cycle": "spot", "instance-id": "i-0123456789abcdef0", **self._ec2}.get(path)
        return (200, found) if found is not None else (404, "Not Found")

    def of_gce(self, subject: str, query: Mapping[str, list[str]]) -> tuple[int, str, str]:
        """Answer a GET of Google, once something changed where that is asked for: status, body and etag."""
        if not subject:
            return 200, "\n".join(self._gce), "0"
        with self._changed:
            if subject not in self._gce:
                return 404, "Not Found", "0"
            known = query.get("last_etag", [self._etag(subject)])[0]
            if query.get("wait_for_change", [""])[0].lower() == "true":
                limit_s = float(query.get("timeout_sec", ["3600"])[0])
                self._changed.wait_for(lambda: self._closed or self._etag(subject) != known, limit_s)
            return 200, self._gce[subject], self._etag(subject)

    def _etag(self, subject: str) -> str:
        return f"{self._etags[subject]:016x}"

    def hang(self) -> None:
        """Let an answer never arrive."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed, _HANG_S)


class _Handler(BaseHTTPRequestHandler):
    """Takes requests apart."""

    protocol_version = "HTTP/1.1"
    owner: MetadataServer

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its name in the standard library
        """Keep still."""
        del format, args

    def do_PUT(self) -> None:
        """Give out a token."""
        self._note()
        if "ec2" not in self.owner.clouds or self.path != "/latest/api/token":
            self._answer(404, "Not Found")
            return
        if self.owner.hops_too_few:
            self.owner.hang()
            self.close_connection = True
            return
        ttl = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        self._answer(*self.owner.token(ttl, forwarded="X-Forwarded-For" in self.headers))

    def do_GET(self) -> None:
        """Answer as the clouds do."""
        self._note()
        url = urlsplit(self.path)
        if "gce" in self.owner.clouds and url.path.startswith(_INSTANCE):
            if self.headers.get("Metadata-Flavor") != "Google":
                self._answer(403, "Missing Metadata-Flavor:Google header.")
                return
            status, text, etag = self.owner.of_gce(url.path.removeprefix(_INSTANCE), parse_qs(url.query))
            self._answer(status, text, {**_GOOGLE, "ETag": etag})
        elif "ec2" in self.owner.clouds and url.path.startswith(_EC2):
            token = self.headers.get("X-aws-ec2-metadata-token", "")
            self._answer(*self.owner.of_ec2(url.path.removeprefix(_EC2), token))
        else:
            self._answer(404, "Not Found")

    def do_POST(self) -> None:
        """Take orders."""
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        try:
            self.owner.control(json.loads(body))
        except (ValueError, AttributeError, TypeError) as error:
            self._answer(400, str(error))
        else:
            self._answer(200, "done")

    def _note(self) -> None:
        self.owner.requests.append(f"{self.command} {self.path}")

    def _answer(self, status: int, text: str, fields: Mapping[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in {**(fields or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        try:
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:  # who waited for a change is gone
            self.close_connection = True


def _moment(left_s: float) -> str:
    """A time to come, as EC2 writes it."""
    return (datetime.now(UTC) + timedelta(seconds=left_s)).strftime("%Y-%m-%dT%H:%M:%SZ")


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description="A metadata service for tests; orders go to POST /control.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--clouds", default="ec2,gce", help="which it plays, joined by a comma")
    options = parser.parse_args()
    with MetadataServer(options.host, options.port, clouds=tuple(options.clouds.split(","))) as server:
        sys.stdout.write(f"{server.address}\n")
        sys.stdout.flush()
        threading.Event().wait()


if __name__ == "__main__":
    main()
