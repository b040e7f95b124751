"""Signals that arrive while the command is being started."""

from __future__ import annotations

import os
import signal
from types import SimpleNamespace
from typing import Any

import pytest

from ckptsync.agent.child import Child, CommandNotFoundError
from ckptsync.agent.companion import Companion
from ckptsync.clock import SYSTEM


@pytest.fixture
def companion(monkeypatch: pytest.MonkeyPatch) -> Companion:
    monkeypatch.setattr("sys.stdin", None)
    agent: Any = SimpleNamespace(failure=None, drain=lambda *_, **__: None, notice=lambda _: None)
    return Companion(agent, drain_timeout_s=30.0, margin_s=1.0, clock=SYSTEM, say=lambda _: None)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_what_arrives_before_it_runs_reaches_it(companion: Companion, number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def start() -> Child:
        os.kill(os.getpid(), number)
        return Child(["sleep", "1000"], os.environ)

    with companion.beside(start):
        assert companion.wait() == 128 + number
    assert signal.getsignal(number) is before


def test_what_cannot_be_started_leaves_no_handler_behind(companion: Companion) -> None:
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    with pytest.raises(CommandNotFoundError), companion.beside(lambda: Child(["/no/such/command"], os.environ)):
        raise AssertionError
    assert {number: signal.getsignal(number) for number in signal.valid_signals()} == before
