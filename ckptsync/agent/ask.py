"""Asking the trainer for a last checkpoint."""

from __future__ import annotations

from typing import Protocol

from ckptsync.agent.notice import Notice


class Asker(Protocol):
    """A way to ask."""

    @property
    def name(self) -> str:
        """Of the way, for log lines."""
        ...

    def ask(self, notice: Notice) -> bool:
        """Ask once; whether the trainer was reached. Never raises."""
        ...
