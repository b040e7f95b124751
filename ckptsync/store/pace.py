"""How fast bytes must and may move over a connection, whatever the SDK above it does.

A socket's timeout bounds silence alone: one byte now and then keeps it from ever striking. Connections of the classes made here
count what moves, and give up where that is too little:

- content, sent or received: `Pace.least_bytes` in any `Pace.window_s` seconds;
- the head of an answer: whole within the time the connection may be silent;
- any other answer: whole within `ANSWER_S` of its head.

They look whenever bytes arrive, so that together with the timeout for silence no request lasts longer than the two together.
"""

from __future__ import annotations

import http.client
import io
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import urllib3

from ckptsync.clock import SYSTEM
from ckptsync.options import Http
from ckptsync.store.bandwidth import Bandwidth
from ckptsync.store.base import Buffer

ANSWER_S = 600.0
"""How long an answer other than content may take. To complete an upload can take a service minutes, in which S3 sends blanks.

Source: https://docs.aws.amazon.com/AmazonS3/latest/API/API_CompleteMultipartUpload.html
"""
SLICE_BYTES = 4 << 20
"""Content is sent in slices, between which threads change places: with 256 KiB an upload costs an eighth more processor time,
larger ones save nothing more."""

_BROKEN = (OSError, ValueError, http.client.HTTPException, urllib3.exceptions.HTTPError)
_now_s = SYSTEM.monotonic  # sockets live in the machine's own time


@dataclass(frozen=True, slots=True)
class Pace:
    """What a connection must and may do.

    Attributes:
        least_bytes: of content that must move in any `window_s`, 1 or more.
        window_s: seconds.
        bandwidth: the cap on content; None when there is none.
    """

    least_bytes: int
    window_s: float
    bandwidth: Bandwidth | None = None

    @classmethod
    def of(cls, options: Http, bandwidth: Bandwidth | None = None) -> Pace:
        """Make one of the options."""
        return cls(options.stall_bytes, options.stall_timeout_s, bandwidth)

    @property
    def broken(self) -> str:
        """Words for a connection that did not keep it."""
        return f"fewer than {self.least_bytes} bytes came in {self.window_s:g} s"


class Window:
    """Counts the bytes of one content, in one thread.

    Attributes:
        stalled: too few moved; nothing more will come.
    """

    def __init__(self, pace: Pace) -> None:
        """Begin now."""
        self._pace = pace
        self._since_s = _now_s()
        self._bytes = 0
        self.stalled = False

    def moved(self, count: int) -> None:
        """Count bytes that moved, and wait where the cap says so."""
        self._bytes += count
        now_s = _now_s()
        if self._bytes >= self._pace.least_bytes:
            self._bytes, self._since_s = 0, now_s
        elif now_s - self._since_s > self._pace.window_s:
            self.stalled = True
        if self._pace.bandwidth is not None and not self.stalled:
            self._pace.bandwidth.take(count)
            self._since_s += _now_s() - now_s  # waiting is our own doing


class _Receiving(threading.local):
    """The content this thread is receiving, if any."""

    window: Window | None = None


_receiving = _Receiving()


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What came of one content.

    Attributes:
        count: good bytes.
        stalled: too few came, so it was given up.
        error: why it ended early; None when it did not, or when the service just closed the connection.
    """

    count: int
    stalled: bool = False
    error: Exception | None = None


def receive(answer: Any, into: memoryview, pace: Pace) -> Received:
    """Fill `into` from the body of an answer of urllib3 as far as it goes, and give its connection back, or close it when bytes are left.

    urllib3 copies whatever it reads; the answer of the standard library that it is made of does not.
    """
    body = getattr(answer, "_fp", answer)
    direct = body if isinstance(body, http.client.HTTPResponse) and not body.chunked else None
    count, cause = 0, None
    _receiving.window = window = Window(pace)
    try:
        while count < len(into):
            with into[count:] as target:
                got = (direct or answer).readinto(target)
            if not got:
                break
            count += got
    except _BROKEN as error:
        cause = error
    finally:
        _receiving.window = None
        if direct is not None and direct.isclosed() and count == len(into):
            answer.release_conn()
        else:
            answer.close()
    return Received(count=count, stalled=window.stalled and count < len(into), error=cause)


class _Reader(io.RawIOBase):
    """What a connection's answers are read from."""

    def __init__(self, sock: socket.socket) -> None:
        """Begin with the head of an answer."""
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._what = "head of the"
        silence_s = sock.gettimeout()
        self._until_s = float("inf") if silence_s is None else _now_s() + silence_s

    def head_is_over(self) -> None:
        """Go on to what comes behind the head."""
        self._what = "whole"
        self._until_s = _now_s() + ANSWER_S

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Receive what is there, at least a byte; 0 at the end.

        Raises:
            TimeoutError: an answer drips.
        """
        window = _receiving.window
        if window is not None and window.stalled:
            return 0
        count = self._raw.readinto(buffer)
        if not count:
            return count
        if window is None:
            if _now_s() > self._until_s:
                raise TimeoutError(f"the {self._what} answer drips in too slowly")
        else:
            window.moved(count)
            if window.stalled:
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)  # else it might be used again, and the rest come then
        return count

    def fileno(self) -> int:
        """As the socket's."""
        return self._raw.fileno()

    def close(self) -> None:
        """Let go of the socket. Safe to call again."""
        if not self.closed:
            self._raw.close()
        super().close()


class _Buffered(io.BufferedReader):
    """Hands on what came at once: what it waited to add to that would be lost with the connection."""

    def readinto(self, buffer: Any) -> int:
        """Read at least a byte; 0 at the end."""
        return self.readinto1(buffer)


class _Socket:
    """A socket whose bytes are counted; everything else of it is as it was."""

    def __init__(self, sock: socket.socket, pace: Pace) -> None:
        """Borrow a connected socket."""
        self._sock = sock
        self._pace = pace
        self._reader: _Reader | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def makefile(self, mode: str, buffering: int = -1) -> Any:
        """As `socket.makefile`, for reading bytes, which is all that http.client asks for.

        Raises:
            ValueError: something else is asked for.
        """
        if mode != "rb":
            raise ValueError(f"a paced socket is not opened as {mode!r}")
        self._reader = _Reader(self._sock)
        return self._reader if buffering == 0 else _Buffered(self._reader)

    def head_is_over(self) -> None:
        """Go on to what comes behind the head of the answer that is being read."""
        if self._reader is not None:
            self._reader.head_is_over()

    def sendall(self, data: Buffer, flags: int = 0) -> None:
        """Send everything, at least `least_bytes` of it in any `window_s`.

        Raises:
            TimeoutError: fewer left.
        """
        pace, sock = self._pace, self._sock
        if len(data) <= pace.least_bytes and pace.bandwidth is None:
            sock.sendall(data, flags)
            return
        usual_s, window, at = sock.gettimeout(), Window(pace), 0
        if usual_s != pace.window_s:
            sock.settimeout(pace.window_s)
        with memoryview(data) as whole, whole.cast("B") as view:
            step = len(view) if pace.bandwidth is None else pace.least_bytes
            while at < len(view) and not window.stalled:
                with view[at : at + step] as piece:
                    sent = sock.send(piece, flags)
                at += sent
                window.moved(sent)
            if at < len(view):
                raise TimeoutError("the service takes what is sent too slowly")
        if usual_s != pace.window_s:
            sock.settimeout(usual_s)


class _Paced(http.client.HTTPConnection):
    """What is mixed into a connection class of urllib3."""

    pace: Pace

    def connect(self) -> None:
        """Connect, and count from then on."""
        super().connect()
        self.sock: Any = _Socket(self.sock, self.pace)

    def getresponse(self, *arguments: Any, **options: Any) -> Any:
        """Read the head of the answer."""
        sock = self.sock
        answer = super().getresponse(*arguments, **options)
        if isinstance(sock, _Socket):
            sock.head_is_over()
        return answer


def paced(pools: Mapping[str, Any], pace: Pace) -> dict[str, Any]:
    """Return urllib3 connection pool classes by scheme, made of `pools`, whose connections keep a pace."""

    def make(pool: Any) -> Any:
        connection = type(f"Paced{pool.ConnectionCls.__name__}", (_Paced, pool.ConnectionCls), {"pace": pace})
        return type(f"Paced{pool.__name__}", (pool,), {"ConnectionCls": connection})

    return {scheme: make(pool) for scheme, pool in pools.items()}
