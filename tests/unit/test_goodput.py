"""What a loop's time went into."""

from __future__ import annotations

import pytest

from ckptsync.errors import DeniedError
from ckptsync.goodput import Goodput
from ckptsync.snapshot import layout
from ckptsync.snapshot.cost import Loop
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.store.memory import MemoryStore
from ckptsync.testing.clock import FakeClock
from ckptsync.testing.faults import Faulty, error

RESTORED = SnapshotId(2, 100, "abcdefgh")


def waited(goodput: Goodput, clock: FakeClock, seconds_s: float) -> Loop:
    begun_s = clock.monotonic()
    clock.sleep(seconds_s)
    return goodput.saving(begun_s)


def test_each_save_tells_its_own_and_all_before() -> None:
    clock = FakeClock()
    goodput = Goodput(clock)
    clock.sleep(10)
    assert waited(goodput, clock, 2) == Loop(interval_s=10, stall_s=2, running_s=12, stalled_s=2, saves=1)
    clock.sleep(30)
    assert waited(goodput, clock, 1) == Loop(interval_s=32, stall_s=1, running_s=43, stalled_s=3, saves=2)


def test_a_resume_is_told_by_every_save_behind_it() -> None:
    clock, store = FakeClock(), MemoryStore()
    goodput = Goodput(clock)
    store.put(layout.JOURNALS + "00000-foreign", b"")
    for attempt in (RESTORED, SnapshotId(2, 130, "abcdefgh"), SnapshotId(1, 900, "abcdefgh")):
        store.put(layout.journal_key(attempt), b"")
    clock.sleep(5)
    goodput.resumed(store, str(RESTORED), RESTORED.step, clock.monotonic() - 4)
    for _ in range(2):
        told = waited(goodput, clock, 0)
        assert (told.resumed_from, told.resume_s, told.steps_redone) == (str(RESTORED), 4, 30)


@pytest.mark.parametrize("step", [None, 70, 100])
def test_no_steps_are_done_again_where_nobody_went_further(step: int | None) -> None:
    clock, store = FakeClock(), MemoryStore()
    goodput = Goodput(clock)
    if step is not None:
        store.put(layout.journal_key(SnapshotId(2, step, "abcdefgh")), b"")
    goodput.resumed(store, str(RESTORED), RESTORED.step, clock.monotonic())
    assert waited(goodput, clock, 0).steps_redone == 0


def test_figures_for_people_never_stop_a_restore() -> None:
    clock, store = FakeClock(), Faulty(MemoryStore())
    store.inject(error(DeniedError), verb="list")
    goodput = Goodput(clock)
    goodput.resumed(store, str(RESTORED), RESTORED.step, clock.monotonic())
    assert waited(goodput, clock, 0).resumed_from == str(RESTORED)
