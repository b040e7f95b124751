"""Agents on a bucket in memory, and checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.agents import Steps

from ckptsync.agent import agent as module
from ckptsync.agent.agent import Agent
from ckptsync.agent.lookout import Candidate
from ckptsync.clock import Clock
from ckptsync.events import Event
from ckptsync.options import MIB, Config, Transfer
from ckptsync.options import Agent as AgentOptions
from ckptsync.readiness.base import Ready
from ckptsync.snapshot.manifest import Provenance
from ckptsync.store.base import Store
from ckptsync.testing.clock import FakeClock
from ckptsync.transfer.source import scan
from ckptsync.verbs.save import Saved


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    found = tmp_path / "checkpoints"
    found.mkdir()
    return found


@pytest.fixture
def begin(
    store: Store,
    clock: FakeClock,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Callable[..., Steps]:
    """Make an agent on the bucket in memory; options of the group `agent` by keyword."""
    monkeypatch.setattr("ckptsync.verbs.sending.provenance", lambda *_: Provenance())
    monkeypatch.setattr(module, "open_store", lambda *_, **__: store)

    def make(
        *,
        asker: Any = None,
        directory: Path = folder,
        max_bytes_per_s: int | None = None,
        by: Clock = clock,
        **options: Any,
    ) -> Steps:
        events: list[Event] = []
        saved: list[Saved] = []
        config = Config(
            agent=AgentOptions(**options),
            transfer=Transfer(part_bytes=5 * MIB, workers=1, max_bytes_per_s=max_bytes_per_s),
            state_dir=str(tmp_path / "state"),
        )
        agent = Agent(
            directory, "memory://x", config=config, observer=events.append, clock=by, asker=asker,
            committed=saved.append,
        )  # fmt: skip
        request.addfinalizer(agent.close)
        return Steps(agent, clock, events, saved)

    return make


@pytest.fixture
def candidate(folder: Path) -> Callable[..., Candidate]:
    """Make a checkpoint on the disk and what a look finds of it."""

    def make(name: str, *, size: int = 100, whole_s: float = 0.0, rule: str = "torch") -> Candidate:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(bytes(size))
        whole = scan(folder, now_ns=0)
        top = name.partition("/")[0]
        files = tuple(file for file in whole.files if file.path == name or file.path.startswith(f"{top}/"))
        mine = replace(whole, files=files)
        ready = Ready(step=None, paths=frozenset(file.path for file in files), name=top, rule=rule)
        mark = f"mark of {top}"
        return Candidate(
            ready=ready, tree=mine, mark=mark, own_mark=mark, whole_s=whole_s, at_s=whole_s, at_start=False
        )

    return make
