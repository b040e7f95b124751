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


@dataclass
class Bucket:
    """A loop whose saves take other times each, and that waits for the save before, as a manager's does."""

    step_s: float
    saves: list[tuple[float, float]]
    """How long each copy and each upload takes, in turn."""

    def run(self, policy: Any, steps: int, mtbf_s: float | None = None) -> list[tuple[float, float, float]]:
        """When each save was due, what the copy took, and how long the loop waited for the save before."""
        now_s = begun_s = done_s = 0.0
        stall_s: float | None = None
        upload_s: float | None = None
        uploading_s = 0.0
        found: list[tuple[float, float, float]] = []
        for step in range(steps):
            now_s += self.step_s
            busy = now_s < done_s
            if found and not busy:
                upload_s = uploading_s
            moment = Moment(
                step=step,
                saved_step=-1,
                since_s=now_s - begun_s,
                stall_s=stall_s,
                upload_s=upload_s,
                mtbf_s=mtbf_s,
                under_way_s=now_s - begun_s if busy else None,
            )
            if policy.is_due(moment):
                copy_s, uploading_s = self.saves[len(found) % len(self.saves)]
                waited_s = max(0.0, done_s - now_s)
                begun_s = now_s
                found.append((now_s, copy_s, waited_s))
                stall_s = waited_s + copy_s
                now_s += stall_s
                done_s = begun_s + uploading_s
        return found


_TIMES = some.lists(some.tuples(some.floats(0.001, 20), some.floats(0.01, 500)), min_size=1, max_size=6)


@given(some.floats(0.01, 20), _TIMES, some.floats(0.1, 100))
def test_its_share_is_kept_whatever_saves_take_and_no_save_is_waited_for(
    step_s: float, saves: list[tuple[float, float]], percent: float
) -> None:
    found = Bucket(step_s, saves).run(AtMostOverhead(percent), 400)
    assert all(waited_s == 0 for _, _, waited_s in found)
    paid_s = sum(copy_s for _, copy_s, _ in found[:-1])  # the last is paid for by what comes behind it
    assert paid_s <= (found[-1][0] - found[0][0]) * percent / 100 * (1 + 1e-9)


def test_a_slow_first_upload_is_not_waited_for() -> None:
    for policy in (AtMostOverhead(1), YoungDaly(mtbf_s=3600)):
        first, *others = Bucket(0.1, [(0.001, 2.0)]).run(policy, 60)
        assert first[0] == 0.1
        assert all(due_s >= 2.0 and waited_s == 0 for due_s, _, waited_s in others)
        assert others


def test_an_upload_slower_than_the_last_is_not_waited_for() -> None:
    found = Bucket(1.0, [(0.01, 2.0), (0.01, 60.0)]).run(AtMostOverhead(50), 300)
    assert len(found) > 4
    assert not any(waited_s for _, _, waited_s in found)


@given(some.floats(0.01, 5), _TIMES, some.floats(1, 1e6))
def test_young_and_daly_within_bounds(step_s: float, saves: list[tuple[float, float]], mtbf_s: float) -> None:
    """No sooner than sqrt(2 x stall x mtbf), nor while the upload lasts, and at the first step behind both."""
    found = Bucket(step_s, saves).run(YoungDaly(mtbf_s=mtbf_s), 400)
    assert not any(waited_s for _, _, waited_s in found)
    for number, ((due_s, copy_s, _), (next_s, _, _)) in enumerate(itertools.pairwise(found)):
        least_s = max(math.sqrt(2 * copy_s * mtbf_s), saves[number % len(saves)][1])
        assert next_s - due_s >= least_s * (1 - 1e-9)
        assert next_s - due_s <= max(least_s, copy_s) + step_s * (1 + 1e-6)


def test_what_was_never_saved_waits_for_what_is_under_way() -> None:
    """An earlier process's snapshot may be on its way from the local disk."""
    sending = Moment(step=0, saved_step=-1, since_s=5.0, under_way_s=5.0)
    assert not AtMostOverhead(100).is_due(sending)
    assert not YoungDaly().is_due(sending)
    assert EveryNSteps(1).is_due(sending)
    assert EveryNSeconds(5).is_due(sending)


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
