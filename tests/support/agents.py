"""An agent whose threads never start: tests do what they would do, step by step."""

from __future__ import annotations

import os
from pathlib import Path

from ckptsync.agent.agent import Agent
from ckptsync.agent.lookout import SETTLE_S
from ckptsync.events import Event, Kind
from ckptsync.testing.clock import FakeClock
from ckptsync.verbs.save import Saved

MADE_S = 1_600_000_000


def write(path: Path, *, size: int = 1000, at_s: float = 0.0) -> Path:
    """A whole file of safetensors, of random bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    path.write_bytes(len(header).to_bytes(8, "little") + header + os.urandom(size))
    if at_s:
        os.utime(path, (MADE_S + at_s, MADE_S + at_s))
    return path


class Steps:
    """An agent and what a test does with it."""

    def __init__(self, agent: Agent, clock: FakeClock, events: list[Event], saved: list[Saved]) -> None:
        self.agent, self.clock, self.events, self.saved = agent, clock, events, saved
        self.work, self.backlog, self.endgame = agent._work, agent._backlog, agent._endgame

    def look(self) -> None:
        """Look until what is whole has settled."""
        self.agent.look()
        self.clock.advance(2 * SETTLE_S)
        self.agent.look()

    def upload(self) -> bool:
        """Upload the next one; whether there was one."""
        if not self.work.answered.is_set():
            assert self.work.ask_bucket() is None
        candidate = self.backlog.take(self.clock.monotonic())
        if candidate is None:
            return False
        self.work.upload_one(candidate)
        self.agent._show()
        return True

    def notices(self) -> str:
        return "\n".join(event.message for event in self.events if event.kind in {Kind.NOTICE, Kind.FAILED})

    @property
    def steps(self) -> list[int]:
        return [saved.step for saved in self.saved]
