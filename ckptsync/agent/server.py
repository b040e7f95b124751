"""The status port: one small HTTP server in a thread of its own."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ckptsync.agent.board import Board
from ckptsync.agent.history import Known
from ckptsync.errors import ConfigError

_REQUEST_S = 10.0
"""A request must be whole, and an answer taken, within so many seconds; nor is a connection without one kept for longer."""
_CONNECTIONS = 64
_HEAD_BYTES, _BODY_BYTES = 16_384, 1024
_THREADS = 2
_TURN_S = 2.0


@contextmanager
def serve(
    board: Board,
    *,
    host: str,
    port: int,
    drain: Callable[[], None],
    history: Callable[[], Known],
    token: str | None = None,
    alive: Callable[[], bool] = lambda: True,
) -> Iterator[int]:
    """Answer requests about a board for as long as the `with` block lasts.

    Args:
        board: what is shown.
        host: address to listen at, or a name that stands for one.
        port: 0 takes any that is free.
        drain: called by `POST /drain`; must return at once, and may be called again.
        history: the snapshots of the run as they are known; must return at once.
        token: lets other machines drain; None lets nobody but this machine.
        alive: whether the threads of the agent live.

    Yields:
        The port that is listened at.

    Raises:
        ConfigError: the address cannot be used, or the extra `agent` is not installed.
    """
    try:
        from waitress.server import create_server  # noqa: PLC0415  the extra `agent`

        from ckptsync.agent.routes import Site  # noqa: PLC0415  as above
    except ImportError as error:
        raise ConfigError(f"a status port needs {error.name}: pip install 'ckptsync[agent]'") from error

    listener = _listener(host, port)
    sockets: dict[int, Any] = {}
    server: Any = create_server(
        Site(board, drain=drain, history=history, token=token, host=host, alive=alive),
        map=sockets,
        sockets=[listener],
        threads=_THREADS,
        ident=None,
        connection_limit=_CONNECTIONS,
        channel_timeout=max(1, int(_REQUEST_S)),
        cleanup_interval=max(1, int(_TURN_S)),
        max_request_header_size=_HEAD_BYTES,
        max_request_body_size=_BODY_BYTES,
        clear_untrusted_proxy_headers=False,  # `Site` refuses what came through one
        log_socket_errors=False,
    )
    stop, woken = threading.Event(), threading.Event()
    thread = threading.Thread(target=_work, args=(server, sockets, stop, woken), name="ckptsync-status", daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        stop.set()
        server.pull_trigger()
        woken.set()
        thread.join()
        listener.close()


def _listener(host: str, port: int) -> socket.socket:
    """Bind a socket.

    Raises:
        ConfigError: that is not possible.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"agent.host is {host!r}, which is no address of this machine") from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot serve the status page at {host} port {port}: {error.strerror}; set agent.host and agent.port, or port 0"
        ) from error
    return listener


def _work(server: Any, sockets: dict[int, Any], stop: threading.Event, woken: threading.Event) -> None:
    """Serve until told to stop; whoever sends or takes too slowly is hung up on. Nothing is closed before `woken` is set."""
    from waitress import wasyncore  # noqa: PLC0415  the extra `agent`

    begun_s: dict[Any, float] = {}
    while not stop.is_set():
        wasyncore.loop(timeout=_TURN_S, use_poll=True, map=sockets, count=1)
        now_s = time.monotonic()
        slow = {channel for channel in list(server.active_channels.values()) if _is_midway(channel)}
        begun_s = {channel: begun_s.get(channel, now_s) for channel in slow}
        for channel, at_s in begun_s.items():
            if now_s - at_s > _REQUEST_S:
                channel.handle_close()
    woken.wait()
    server.task_dispatcher.shutdown(timeout=_TURN_S)
    wasyncore.close_all(sockets, ignore_all=True)


def _is_midway(channel: Any) -> bool:
    """Whether a request has come in part, or an answer was taken in part."""
    return channel.request is not None or bool(channel.total_outbufs_len)
