"""The proxy as it runs: a listener, a thread for each connection, the rules and the log."""

from __future__ import annotations

import random
import re
import socket
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

from ckptsync.clock import SYSTEM, Clock
from ckptsync.testing.proxy.asked import PEEK_BYTES, Asked, changed_object, names_in_body
from ckptsync.testing.proxy.exchange import Entry, Exchange, Recorded, end, send_again
from ckptsync.testing.proxy.faults import EndedError, Fault
from ckptsync.testing.proxy.rules import Rule
from ckptsync.testing.proxy.wire import BrokenOffError, Peer

HOST = "127.0.0.1"
CONNECT_TIMEOUT_S = 10.0
STOP_S = 10.0
BACKLOG = 256


class Proxy:
    """Stands on loopback in front of one HTTP service. Use as a context manager, or call `start` and `stop`.

    Requests pass unchanged, the Host field included, which S3 clients sign: use `url` as the client's endpoint. Bodies are
    streamed; a few buffers of 64 KiB for each connection are all it holds.

    Attributes:
        url: `http://127.0.0.1:port`, once started.
        log: the requests that came, the latest `log_entries` of them; copy before you count.
    """

    def __init__(self, upstream: str, *, clock: Clock = SYSTEM, seed: int = 0, log_entries: int = 100_000) -> None:
        """Set up; nothing listens before `start`.

        Args:
            upstream: address of the service, `http://127.0.0.1:port`.
            clock: tells when requests came, and when a rule with `for_s` ends. Faults that take time take real time.
            seed: of the dice that rules with a `chance` throw.
            log_entries: how many requests are remembered.

        Raises:
            ValueError: the upstream is no plain http address on loopback.
        """
        parts = urlsplit(upstream)
        if parts.scheme != "http" or parts.hostname not in {HOST, "localhost"} or not parts.port:
            raise ValueError(f"the upstream must be like http://{HOST}:port, not {upstream!r}")
        self.url = ""
        self.log: deque[Entry] = deque(maxlen=log_entries)
        self._upstream = (HOST, parts.port)
        self._clock = clock
        self._dice = random.Random(seed)  # noqa: S311  chance, not secrecy
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._late: list[Recorded] = []
        self._count = 0
        self._stopping = threading.Event()
        self._open: set[Peer] = set()
        self._threads: set[threading.Thread] = set()
        self._listener: socket.socket | None = None
        self._acceptor: threading.Thread | None = None
        self._port = 0

    # -- rules -------------------------------------------------------------------------------------------------------

    def inject(
        self,
        fault: Fault,
        *,
        method: str = "",
        target: str = "",
        changes: str = "",
        header: str = "",
        skip: int = 0,
        times: int | None = 1,
        for_s: float | None = None,
        chance: float = 1.0,
    ) -> Rule:
        """Add a rule; of several that fit a request, all strike, in the order they were added.

        Where two of them have an answer, the first gives it.

        Args:
            fault: what happens.
            method: of the requests it may strike; empty means any.
            target: regular expression, searched for in path and query, percent-decoded.
            changes: regular expression, searched for in `bucket/name` of the object they change; empty means any request.
                Finishing an upload changes its object, a part does not.
            header: name of a field they must have, or `name: expression` for one whose value must match.
            skip: so many requests that fit go well first.
            times: so many after those are struck; None for all.
            for_s: strike all that fit until so many seconds from now, whatever `times` says.
            chance: that a request which would be struck is struck indeed, 0.0 to 1.0.
        """
        rule = Rule(
            fault=fault,
            method=method,
            target=re.compile(target),
            changes=re.compile(changes),
            header=header,
            skip=skip,
            times=times if for_s is None else None,
            until_s=None if for_s is None else self._clock.monotonic() + for_s,
            chance=chance,
        )
        with self._lock:
            self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """Forget rules, log and what was to arrive again; faults under way go on."""
        with self._lock:
            self._rules, self._late = [], []
            self.log.clear()

    def entries(self, method: str = "", target: str = "") -> list[Entry]:
        """Logged requests with this method, empty for any, in whose target the regular expression is found."""
        with self._lock:
            return [entry for entry in self.log if method in {"", entry.method} and re.search(target, entry.target)]

    # -- life --------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Listen. A second start after a stop takes the same port."""
        if self._listener is None:
            self._stopping.clear()
            self._listener = socket.create_server((HOST, self._port), backlog=BACKLOG)
            self._port = self._listener.getsockname()[1]
            self.url = f"http://{HOST}:{self._port}"
            self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
            self._acceptor.start()
        return self

    def stop(self) -> None:
        """Close every connection and wait for its thread. Safe to call again."""
        listener, self._listener = self._listener, None
        if listener is None or self._acceptor is None:
            return
        self._stopping.set()
        with suppress(OSError):
            socket.create_connection((HOST, self._port), CONNECT_TIMEOUT_S).close()  # wakes the thread that accepts
        self._acceptor.join()
        listener.close()
        with self._lock:
            threads, peers = list(self._threads), list(self._open)
        for peer in peers:
            with suppress(OSError):
                peer.socket.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(STOP_S)

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()

    # -- connections -------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        """Take connections until the end, each in a thread of its own."""
        while True:
            connection, _ = listener.accept()
            if self._stopping.is_set():
                connection.close()
                return
            thread = threading.Thread(
                target=self._serve, args=(self._opened(connection),), name="ckptsync-proxy", daemon=True
            )
            with self._lock:
                self._threads.add(thread)
                thread.start()

    def _opened(self, connection: socket.socket) -> Peer:
        """Note a connection, so that `stop` can end it."""
        peer = Peer(connection)
        with self._lock:
            self._open.add(peer)
        if self._stopping.is_set():  # too late for `stop` to see it
            peer.hang_up()
        return peer

    def _dial(self) -> Peer:
        """Open a way to the upstream.

        Raises:
            BrokenOffError: nobody listens there.
        """
        try:
            connection = socket.create_connection(self._upstream, CONNECT_TIMEOUT_S)
        except OSError as error:
            raise BrokenOffError(f"no connection to the upstream: {error}") from error
        connection.settimeout(None)
        return self._opened(connection)

    def _closed(self, peer: Peer | None) -> None:
        """Forget a connection."""
        if peer is not None:
            peer.hang_up()
            with self._lock:
                self._open.discard(peer)

    def _serve(self, client: Peer) -> None:
        """Pass on the requests of one connection, one after the other."""
        way = _Way(self._dial, self._closed)
        try:
            while self._pass_one(client, way):
                pass
        except EndedError as ended:
            way.close()
            end(client, ended.how)
        except BrokenOffError:
            pass
        finally:
            way.close()
            self._closed(client)
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _pass_one(self, client: Peer, way: _Way) -> bool:
        """Pass on one request; False when the connection takes no more."""
        head = client.read_head()
        length = head.get("content-length")
        peeked = b""
        if names_in_body(head) and length.isdecimal() and not head.get("expect"):
            peeked = client.peek(min(int(length), PEEK_BYTES))
        with self._lock:
            asked = Asked(head, self._clock.monotonic(), unquote(head.target), changed_object(head, peeked))
            self._count += 1
            struck = tuple(rule.fault for rule in self._rules if rule.strikes(asked, self._dice))
            late = [recorded for recorded in self._late if recorded.when.before.search(f"{head.method} {asked.target}")]
            self._late = [recorded for recorded in self._late if recorded not in late]
            entry = Entry(
                number=self._count,
                method=head.method,
                target=asked.target,
                at_s=asked.at_s,
                changes=asked.changes,
                faults=tuple(fault.name for fault in struck),
            )
            self.log.append(entry)
        for recorded in late:
            self._send_again(recorded)
        return Exchange(
            asked=asked,
            faults=struck,
            client=client,
            connect=way.open,
            wait=self._wait,
            remember=self._remember,
            entry=entry,
        ).run()

    def _send_again(self, recorded: Recorded) -> None:
        """Let a request arrive once more, on a connection of its own; what becomes of it is nobody's concern."""
        upstream: Peer | None = None
        try:
            upstream = self._dial()
            send_again(upstream, recorded)
        except BrokenOffError:
            return
        finally:
            self._closed(upstream)

    def _remember(self, recorded: Recorded) -> None:
        """Keep a request that will arrive again."""
        with self._lock:
            self._late.append(recorded)

    def _wait(self, seconds_s: float) -> None:
        """Let time pass; the end of the proxy ends it."""
        if seconds_s > 0 and self._stopping.wait(seconds_s):
            raise EndedError("reset")


class _Way:
    """The connection to the upstream that belongs to one client's connection, opened anew when it was closed."""

    def __init__(self, dial: Callable[[], Peer], closed: Callable[[Peer | None], None]) -> None:
        self._dial = dial
        self._closed = closed
        self._peer: Peer | None = None

    def open(self) -> Peer:
        """Return it, at rest; what lies unread on an old one makes it useless."""
        if self._peer is not None and self._peer.has_more:
            self.close()
        if self._peer is None:
            self._peer = self._dial()
        return self._peer

    def close(self) -> None:
        """Hang up."""
        peer, self._peer = self._peer, None
        self._closed(peer)
