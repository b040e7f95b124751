"""A client of a status port."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from email.message import Message
from typing import Any

from ckptsync.agent.board import Board
from ckptsync.agent.history import Known


@dataclass
class Answer:
    """What the port answered."""

    status: int
    headers: Message
    body: str

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Port:
    """A port that is served, and what was asked of the agent behind it."""

    board: Board
    number: int = 0
    drains: list[None] = field(default_factory=list)
    known: Known = field(default_factory=Known)
    alive: bool = True

    def ask(self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        asking = http.client.HTTPConnection("127.0.0.1", self.number, timeout=20)
        try:
            asking.request(method, path, headers=dict(headers or {}))
            got = asking.getresponse()
            return Answer(got.status, got.headers, got.read().decode())
        finally:
            asking.close()


Served = Callable[..., AbstractContextManager[Port]]
