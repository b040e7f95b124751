"""What the status port answers, and to whom."""

from __future__ import annotations

import hmac
import ipaddress
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from ckptsync.agent.board import Board
from ckptsync.agent.derived import ages, sickness, unreadiness
from ckptsync.agent.history import Known
from ckptsync.agent.metrics import Exposition

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

_HERE = frozenset({"127.0.0.1", "::1"})
"""Addresses of programs on this machine; others of 127.0.0.0/8 are those of proxies."""
_NAMES_OF_HERE = frozenset({"localhost", "localhost.localdomain"})
_OF_PROXIES = ("HTTP_FORWARDED", "HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "HTTP_X_REAL_IP", "HTTP_VIA")
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    **{
        f"/{name}": (name, "text/javascript; charset=utf-8")
        for name in ("page.js", "snapshots.js", "figures.js", "words.js")
    },
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"
_SECURITY = [
    (
        "Content-Security-Policy",
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-store"),
]


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is sent back."""

    status: HTTPStatus
    body: bytes
    content_type: str = _TEXT
    headers: tuple[tuple[str, str], ...] = ()


class Site:
    """A WSGI application about one board. Safe for many threads; never waits for the bucket."""

    def __init__(
        self,
        board: Board,
        *,
        drain: Callable[[], None],
        history: Callable[[], Known],
        token: str | None,
        host: str,
        alive: Callable[[], bool],
    ) -> None:
        """Take what `serve` was given."""
        self._board, self._drain, self._history = board, drain, history
        self._token, self._host, self._alive = token, host.lower(), alive
        self._metrics = Exposition(board)
        self._pages: dict[str, Callable[[Mapping[str, Any]], _Answer]] = {
            "/metrics": self._metrics_page,
            "/healthz": self._health,
            "/readyz": self._readiness,
            "/status.json": self._status,
            "/history.json": self._snapshots,
            **{path: _file(name, content_type) for path, (name, content_type) in _PAGE.items()},
        }

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        answer = self._answer(environ)
        length = ("Content-Length", str(len(answer.body)))
        headers = [("Content-Type", answer.content_type), length, *answer.headers, *_SECURITY]
        start_response(f"{answer.status.value} {answer.status.phrase}", headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [answer.body]

    def _answer(self, environ: Mapping[str, Any]) -> _Answer:
        """Find who answers."""
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        if path == "/drain":
            return self._drained(environ) if method == "POST" else _not_allowed("POST")
        if not self._is_addressed(environ):
            return _plain(HTTPStatus.MISDIRECTED_REQUEST, "this name does not stand for this machine")
        if path not in self._pages:
            return _plain(HTTPStatus.NOT_FOUND, "there is no such page")
        return self._pages[path](environ) if method in {"GET", "HEAD"} else _not_allowed("GET, HEAD")

    # -- pages -------------------------------------------------------------------------------------------------------

    def _metrics_page(self, environ: Mapping[str, Any]) -> _Answer:
        return _Answer(HTTPStatus.OK, *self._metrics.write(environ.get("HTTP_ACCEPT", "")))

    def _health(self, environ: Mapping[str, Any]) -> _Answer:
        del environ
        return _verdict(sickness(self._board.status, alive=self._alive()))

    def _readiness(self, environ: Mapping[str, Any]) -> _Answer:
        del environ
        status = self._board.status
        return _verdict(sickness(status, alive=self._alive()) or unreadiness(status))

    def _status(self, environ: Mapping[str, Any]) -> _Answer:
        del environ
        status = self._board.status
        derived = asdict(ages(status, self._board.clock.now()))
        return _json({**msgspec.to_builtins(status), **derived, "alive": self._alive()})

    def _snapshots(self, environ: Mapping[str, Any]) -> _Answer:
        del environ
        return _json(asdict(self._history()))

    # -- draining ----------------------------------------------------------------------------------------------------

    def _drained(self, environ: Mapping[str, Any]) -> _Answer:
        """Begin to drain, for whoever may ask for it."""
        if (refused := self._refusal(environ)) is not None:
            return refused
        self._drain()
        return _json({"draining": True}, HTTPStatus.ACCEPTED)

    def _refusal(self, environ: Mapping[str, Any]) -> _Answer | None:
        """Why a request may not drain: a web page that somebody looks at must not, nor another machine without the token."""
        given = environ.get("HTTP_AUTHORIZATION")
        if given is not None:
            scheme, _, secret = given.partition(" ")
            fits = hmac.compare_digest(secret.strip().encode("latin-1", "replace"), (self._token or "").encode())
            fits = fits and self._token is not None and scheme.lower() == "bearer"
            return None if fits else _plain(HTTPStatus.FORBIDDEN, "the token does not fit")
        if environ.get("REMOTE_ADDR") not in _HERE or any(name in environ for name in _OF_PROXIES):
            told = "only this machine may drain the agent" + ("" if self._token is None else ", or who has the token")
            ask = () if self._token is None else (("WWW-Authenticate", 'Bearer realm="ckptsync"'),)
            return _Answer(HTTPStatus.UNAUTHORIZED if ask else HTTPStatus.FORBIDDEN, f"{told}\n".encode(), _TEXT, ask)
        if not self._is_addressed(environ) or not _is_own_origin(environ):
            return _plain(HTTPStatus.FORBIDDEN, "another site may not drain the agent")
        return None

    def _is_addressed(self, environ: Mapping[str, Any]) -> bool:
        """Whether the Host is an address or a name of ours: a stranger's name that was made to stand for us is neither.

        Only who comes from this machine is asked: what is served to others is for whoever reaches it.
        """
        if environ.get("REMOTE_ADDR") not in _HERE:
            return True
        name = _host_name(environ.get("HTTP_HOST", ""))
        return name == "" or name in _NAMES_OF_HERE or name == self._host or _is_address(name)


def _host_name(host: str) -> str:
    """The Host header without its port; a header that is none at all is a stranger's."""
    try:
        return (urlsplit(f"//{host}").hostname or "") if host else ""
    except ValueError:
        return "?"


def _is_address(name: str) -> bool:
    """Whether it is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_own_origin(environ: Mapping[str, Any]) -> bool:
    """Whether no browser sent it on behalf of another site."""
    origin = environ.get("HTTP_ORIGIN")
    is_own = origin is None or origin == f"http://{environ.get('HTTP_HOST', '')}"
    return is_own and environ.get("HTTP_SEC_FETCH_SITE", "none") in {"none", "same-origin"}


def _file(name: str, content_type: str) -> Callable[[Mapping[str, Any]], _Answer]:
    """Return what answers with a file of the page, which is read now."""
    answer = _Answer(HTTPStatus.OK, (resources.files(__package__) / "page" / name).read_bytes(), content_type)
    return lambda _: answer


def _plain(status: HTTPStatus, message: str) -> _Answer:
    """Answer with a sentence."""
    return _Answer(status, f"{message}\n".encode())


def _verdict(problem: str) -> _Answer:
    """Answer a probe."""
    return _plain(HTTPStatus.SERVICE_UNAVAILABLE, problem) if problem else _plain(HTTPStatus.OK, "ok")


def _not_allowed(methods: str) -> _Answer:
    """Refuse a method."""
    return _Answer(HTTPStatus.METHOD_NOT_ALLOWED, f"use {methods}\n".encode(), _TEXT, (("Allow", methods),))


def _json(value: object, status: HTTPStatus = HTTPStatus.OK) -> _Answer:
    """Answer with JSON."""
    return _Answer(status, json.dumps(value, separators=(",", ":")).encode() + b"\n", _JSON)
