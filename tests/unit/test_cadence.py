"""How often to save, in loops whose steps and saves take known time."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from ckptsync.cadence import AtMostOverhead, EarlyThenRarer, YoungDaly
from ckptsync.errors import ConfigError
from ckptsync.policy import EveryNSeconds, EveryNSteps, Moment


@dataclass
class Loop:
    """A training loop, by the clock of which nobody waits."""

    step_s: float = 1.0
    stall_s: float = 1.0
    upload_s: float = 5.0
    mtbf_s: float | None = None

    def saves(self, policy: Any, steps: int, start: int = 0) -> tuple[list[int], float]:
        """Steps behind which it saved, and seconds it took."""
        now_s = begun_s = 0.0
        saved: list[int] = []
        for step in range(start, start + steps):
            now_s += self.step_s
            known = bool(saved)
            moment = Moment(
                step=step,
                saved_step=saved[-1] if saved else start - 1,
                since_s=now_s - begun_s,
                stall_s=self.stall_s if known else None,
                upload_s=self.upload_s if known else None,
                mtbf_s=self.mtbf_s,
            )
            if policy.is_due(moment):
                begun_s = now_s
                now_s += self.stall_s
                saved.append(step)
        return saved, now_s


def test_every_so_many_steps_or_seconds() -> None:
    assert Loop().saves(EveryNSteps(4), 12)[0] == [0, 4, 8]
    assert Loop().saves(EveryNSteps(4), 12, start=5)[0] == [8, 12, 16]
    assert Loop(stall_s=0).saves(EveryNSeconds(5), 16)[0] == [4, 9, 14]
    assert Loop(stall_s=0).saves(EveryNSteps(7) | EveryNSeconds(5), 16)[0] == [0, 5, 7, 12, 14]


def test_a_multiple_that_is_passed_over_is_made_up_for() -> None:
    assert EveryNSteps(10).is_due(Moment(step=23, saved_step=19, since_s=0))
    assert not EveryNSteps(10).is_due(Moment(step=23, saved_step=20, since_s=0))


def test_early_and_then_rarer() -> None:
    assert Loop().saves(EarlyThenRarer(), 70)[0] == [0, 1, 3, 7, 15, 31, 63]
    assert Loop().saves(EarlyThenRarer(most=10), 45)[0] == [0, 1, 3, 7, 15, 25, 35]
    assert Loop().saves(EarlyThenRarer(first=5), 45)[0] == [4, 9, 19, 39]


def test_one_that_was_resumed_goes_on_as_rarely() -> None:
    assert Loop().saves(EarlyThenRarer(), 101, start=100)[0] == [199]


@given(
    some.floats(0.01, 100),
    some.floats(0.01, 10),
    some.floats(0.01, 1000),
    some.floats(0.1, 100),
)
def test_no_more_than_its_share_of_the_time_is_spent(
    step_s: float, stall_s: float, upload_s: float, percent: float
) -> None:
    saved, took_s = Loop(step_s, stall_s, upload_s).saves(AtMostOverhead(percent), 300)
    assert saved[0] == 0
    spent_s = stall_s * (len(saved) - 1)  # the first is how it learns what one costs
    assert spent_s <= took_s * percent / 100 + stall_s
    assert all((later - sooner) * step_s + stall_s >= upload_s for sooner, later in itertools.pairwise(saved))


def test_it_is_spent_though() -> None:
    saved, took_s = Loop(step_s=0.1, stall_s=1, upload_s=2).saves(AtMostOverhead(5), 10_000)
    assert 0.045 < (len(saved) - 1) / took_s <= 0.05


@pytest.mark.parametrize(
    ("mtbf_s", "told_s", "expected_s"), [(None, None, 3600.0), (None, 800.0, 800.0), (200.0, 800.0, 200.0)]
)
def test_the_interval_of_young_and_daly(mtbf_s: float | None, told_s: float | None, expected_s: float) -> None:
    saved, _ = Loop(stall_s=2.0, mtbf_s=told_s).saves(YoungDaly(mtbf_s=mtbf_s, unknown_s=3600.0), 1000)
    interval_s = math.sqrt(2 * 2.0 * expected_s)
    gaps = [later - sooner for sooner, later in itertools.pairwise(saved)]
    assert all(abs(gap + 2.0 - interval_s) <= 1.0 for gap in gaps)  # steps of a second, and the stall counts


@pytest.mark.parametrize(
    "make",
    [
        lambda: EarlyThenRarer(first=0),
        lambda: EarlyThenRarer(factor=1),
        lambda: AtMostOverhead(0),
        lambda: AtMostOverhead(math.nan),
        lambda: AtMostOverhead(101),
        lambda: YoungDaly(mtbf_s=0),
        lambda: YoungDaly(unknown_s=-1),
        lambda: EveryNSeconds(0),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError):
        make()
