"""The status port as the options want it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ckptsync.agent.board import Board
from ckptsync.options import Config


@contextmanager
def status_port(
    board: Board, run: str, config: Config, *, drain: Callable[[], None], alive: Callable[[], bool] = lambda: True
) -> Iterator[int | None]:
    """Serve the status page for as long as the `with` block lasts.

    Args:
        board: what is shown.
        run: URL of the run whose snapshots are listed.
        config: `agent.host`, `agent.port` and `agent.drain_token` say where and to whom.
        drain: called by `POST /drain`; must return at once, and may be called again.
        alive: whether the threads of the agent live.

    Yields:
        The port, or None where the options open none.

    Raises:
        ConfigError: the address cannot be used, or the extra `agent` is not installed.
    """
    options = config.agent
    if options.port is None:
        yield None
        return
    from ckptsync.agent.history import History, opening  # noqa: PLC0415  nothing is served by most
    from ckptsync.agent.server import serve  # noqa: PLC0415  as above

    with (
        History(board, opening(run, config, board.clock)) as history,
        serve(
            board,
            host=options.host,
            port=options.port,
            drain=drain,
            history=history.known,
            token=options.drain_token,
            alive=alive,
        ) as port,
    ):
        yield port
