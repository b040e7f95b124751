"""What `status` tells of a run."""

from __future__ import annotations

import dataclasses
import os
import socket
from typing import Any

from ckptsync.snapshot import layout
from ckptsync.testing.clock import FakeClock
from ckptsync.verbs.status import Pending, status


def test_a_run_nobody_wrote(run: Any) -> None:
    found = status(run)
    assert (found.url, found.snapshot, found.step, found.epoch) == ("memory://", None, None, 0)
    assert (found.committed_age_s, found.writer_host, found.writer_pid, found.writer_since) == (None,) * 4
    assert found.pending == ()


def test_the_age_of_the_newest_snapshot_is_what_a_crash_would_cost(run: Any, make: Any, clock: Any) -> None:
    make.snapshot(900)
    clock.advance(500)
    snapshot = make.snapshot(300)
    clock.advance(61.5)
    found = status(run)
    assert (found.snapshot, found.step, found.epoch, found.committed_age_s) == (str(snapshot), 300, 2, 61.5)
    assert (found.writer_host, found.writer_pid) == (socket.gethostname(), os.getpid())
    assert found.writer_since == "2023-11-14T22:21:40.000Z"


def test_a_damaged_snapshot_is_not_what_a_restore_would_take(run: Any, make: Any, clock: Any) -> None:
    good = make.snapshot(1)
    clock.advance(100)
    run.store.put(layout.manifest_key(make.snapshot(2)), b"{}")
    found = status(run)
    assert (found.snapshot, found.committed_age_s) == (str(good), 100)


def test_newer_ones_that_cannot_be_read_are_told(run: Any, make: Any, clock: Any) -> None:
    """What a crash would cost is more than it seems: training has gone further than what can be restored."""
    make.snapshot(1)
    bad, newer = make.snapshot(2), make.snapshot(3)
    run.store.put(layout.manifest_key(bad), b"{}")
    run.store.put(layout.manifest_key(newer), b'{"format":"ckptsync-manifest","version":3}')
    clock.advance(60)
    first, second = status(run).unreadable
    assert (first.snapshot, first.step, first.age_s) == (str(newer), 3, 60)
    assert "install a newer ckptsync" in first.problem
    assert (second.snapshot, second.step) == (str(bad), 2)
    assert "damaged" in second.problem
    make.snapshot(4)
    assert status(run).unreadable == ()


def test_pending_are_the_attempts_since(run: Any, make: Any, clock: Any) -> None:
    make.attempt(1)
    make.snapshot(2)
    clock.advance(10)
    first = make.attempt(3, {"w": b"1234"})
    clock.advance(5)
    second = make.attempt(4, {"w": b"12345678"})
    assert status(run).pending == (
        Pending(snapshot=str(second), step=4, bytes=8, age_s=0),
        Pending(snapshot=str(first), step=3, bytes=4, age_s=5),
    )


def test_continued_condemned_and_damaged_attempts(run: Any, make: Any) -> None:
    earlier = make.attempt(1)
    later = make.attempt(1, {}, adopts=[earlier])
    run.store.put(layout.condemned_key(make.attempt(2)), b"")
    damaged = make.attempt(3)
    run.store.put(layout.journal_key(damaged), b"{}")
    assert [(found.snapshot, found.bytes) for found in status(run).pending] == [(str(damaged), 0), (str(later), 0)]


def test_ages_are_never_negative(run: Any, make: Any) -> None:
    make.snapshot(1)
    slow = dataclasses.replace(run, clock=FakeClock(now_s=1_000.0))
    assert status(slow).committed_age_s == 0


def test_a_damaged_claim_says_nobody(run: Any, make: Any) -> None:
    make.snapshot(1)
    run.store.put(layout.writer_key(1), b"{}")
    assert (status(run).epoch, status(run).writer_host) == (1, None)


def test_nothing_is_written_and_old_attempts_are_not_read(run: Any, make: Any, store: Any) -> None:
    for step in range(20):
        make.snapshot(step)
    store.heal()
    status(run)
    assert set(store.count()) <= {"list", "get", "stat", "read"}
    assert store.count().total() < 12
