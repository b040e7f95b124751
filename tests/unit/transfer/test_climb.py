"""How many threads are fastest, found by measuring."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from ckptsync.transfer.climb import Climb

WINDOWS = 200
BUSY = 1.0


def far(threads: int) -> float:
    """A service at a distance: each thread adds its own rate."""
    return 10.0 * threads


def near(threads: int) -> float:
    """One processor does it all, and threads get in each other's way."""
    return 1000.0 - 5.0 * threads


def narrow(threads: int) -> float:
    """A line that 18 threads fill."""
    return 10.0 * min(threads, 18)


def kept(rate: Callable[[int], float], least: int = 8, most: int = 32) -> list[int]:
    """How many threads there were in each window."""
    climb, found = Climb(least, most), []
    for _ in range(WINDOWS):
        found.append(climb.threads)
        climb.measured(rate(climb.threads), BUSY)
    return found


@pytest.mark.parametrize(("rate", "best"), [(far, 32), (near, 8), (narrow, 18)])
def test_the_best_number_is_found_and_kept(rate: Callable[[int], float], best: int) -> None:
    found = kept(rate)
    assert found[10] == best
    assert Counter(found[10:])[best] > 0.9 * len(found[10:])


def test_it_stays_within_its_bounds() -> None:
    for rate in (far, near, narrow):
        assert all(8 <= threads <= 32 for threads in kept(rate))
    assert set(kept(far, 4, 4)) == {4}
    assert set(kept(far, 4, 0)) == {4}


def test_it_follows_a_line_that_changes() -> None:
    climb = Climb(8, 32)
    for rate, best in ((far, 32), (near, 8), (far, 32)):
        for _ in range(100):
            climb.measured(rate(climb.threads), BUSY)
        assert climb.threads in {best, round(best / 1.5), round(best * 1.5)}


def test_the_less_there_is_to_do_the_longer_the_first_step() -> None:
    found = {}
    for busy in (2.0, 0.5, 0.1, 0.0):
        climb = Climb(2, 32)
        found[busy] = climb.measured(1.0, busy)
    assert found == {2.0: 3, 0.5: 4, 0.1: 8, 0.0: 8}


@pytest.mark.parametrize(("busy", "threads"), [(0.0, 8), (0.2, 8), (0.3, 2), (2.0, 2)])
def test_where_the_processor_idles_more_are_taken_before_anything_is_measured(busy: float, threads: int) -> None:
    climb = Climb(2, 32)
    assert climb.glanced(busy) is (threads > 2)
    assert climb.threads == threads
    assert not Climb(4, 4).glanced(busy)


def test_what_was_taken_at_a_glance_is_given_back_where_it_is_no_faster() -> None:
    climb = Climb(2, 32)
    climb.glanced(0.0)
    for _ in range(WINDOWS):
        climb.measured(near(climb.threads), BUSY)
    assert climb.threads <= 3
