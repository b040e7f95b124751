"""A board, and a port that shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from support.status_port import Port, Served

from ckptsync.agent.board import Board, State, Status
from ckptsync.agent.server import serve
from ckptsync.testing.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(now_s=1000.0)


@pytest.fixture
def board(clock: FakeClock) -> Board:
    status = Status(
        run="s3://key:secret@bucket/run",
        directory="/ckpt",
        host="node",
        version="1.2",
        state=State.STARTING,
        since_s=1000.0,
        started_s=1000.0,
    )
    return Board(status, clock=clock)


@pytest.fixture
def served(board: Board) -> Served:
    @contextmanager
    def serving(*, token: str | None = None, host: str = "127.0.0.1") -> Iterator[Port]:
        port = Port(board)
        with serve(
            board,
            host=host,
            port=0,
            drain=lambda: port.drains.append(None),
            history=lambda: port.known,
            token=token,
            alive=lambda: port.alive,
        ) as port.number:
            yield port

    return serving
