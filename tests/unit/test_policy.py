"""What to keep."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptsync.cadence import AtMostOverhead
from ckptsync.errors import ConfigError
from ckptsync.policy import (
    AnyOf,
    BestN,
    Candidate,
    EveryNSteps,
    KeepPolicy,
    LatestN,
    Within,
    checked_keep,
    checked_save,
    relied_on,
    retained,
)
from ckptsync.snapshot.layout import SnapshotId

_NOW_S = 1000.0


def candidates(*losses: float | None) -> list[Candidate]:
    """Steps 10, 20, … with these losses, ten seconds apart, the newest first."""
    return [
        Candidate(
            id=SnapshotId(1, 10 * number, "abcdefgh"),
            created_s=_NOW_S - 10 * (len(losses) - number),
            metrics={} if loss is None else {"loss": loss},
        )
        for number, loss in enumerate(losses, 1)
    ][::-1]


def kept(policy: KeepPolicy, *losses: float | None) -> list[int]:
    return sorted(snapshot.step for snapshot in policy.keeps(candidates(*losses), _NOW_S))


def test_latest() -> None:
    assert kept(LatestN(2), 1, 2, 3) == [20, 30]
    assert kept(LatestN(9), 1, 2) == [10, 20]
    assert kept(LatestN(1)) == []


def test_best_of_both_kinds() -> None:
    assert kept(BestN("loss", "min"), 3, 1, 2) == [20]
    assert kept(BestN("loss", "max", 2), 3, 1, 2) == [10, 30]


def test_newer_ones_win_ties_and_those_without_a_value_lose() -> None:
    assert kept(BestN("loss", "min"), 1, 1, 2) == [20]
    assert kept(BestN("loss", "max"), 1, 1, 0) == [20]
    assert kept(BestN("loss", "min", 5), 1, None, 2) == [10, 30]
    assert kept(BestN("loss", "min"), None, None) == []


def test_a_value_json_lacks_is_no_value() -> None:
    candidate = Candidate(id=SnapshotId(1, 1, "abcdefgh"), created_s=0, metrics={"loss": None})
    assert BestN("loss", "min").keeps([candidate], _NOW_S) == set()


def test_multiples_of_a_step_with_zero_among_them() -> None:
    assert kept(EveryNSteps(20), 1, 2, 3, 4) == [20, 40]
    zero = Candidate(id=SnapshotId(1, 0, "abcdefgh"), created_s=0, metrics={})
    assert EveryNSteps(7).keeps([zero], _NOW_S) == {zero.id}


def test_the_young_ones_to_the_very_second() -> None:
    assert kept(Within(10), 1, 2, 3) == [20, 30]
    assert kept(Within(9.9), 1, 2, 3) == [30]


def test_joined_policies_keep_what_any_keeps() -> None:
    assert kept(LatestN(1) | BestN("loss", "min") | EveryNSteps(30), 1, 2, 3, 4) == [10, 30, 40]
    assert kept((LatestN(1) | BestN("loss", "min")) | (EveryNSteps(30) | Within(1)), 1, 2, 3, 4) == [10, 30, 40]


@pytest.mark.req(8)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LatestN(0), "LatestN: 0"),
        (lambda: BestN("loss", "min", -1), "BestN: -1"),
        (lambda: BestN("loss", "best"), "mode is 'best'"),  # type: ignore[arg-type]
        (lambda: EveryNSteps(0), "EveryNSteps: 0"),
        (lambda: Within(0), "Within: 0"),
        (lambda: Within(float("nan")), "Within: nan"),
    ],
)
def test_what_would_keep_nothing_is_refused(make: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make()


@pytest.mark.req(8)
@pytest.mark.parametrize(
    ("policy", "bad", "stay"),
    [
        (LatestN(2), {}, [30, 40]),
        (LatestN(2), {40}, [20, 30, 40]),
        (LatestN(2), {20, 40}, [10, 30, 40]),
        (LatestN(1), {10}, [40]),
        (LatestN(1), {10, 20, 30, 40}, [10, 20, 30, 40]),
        (BestN("loss", "min"), {10}, [10, 20, 40]),
        (EveryNSteps(20), {20}, [20, 40]),
        (EveryNSteps(1000), {40}, [30]),
    ],
)
def test_bad_ones_take_no_good_ones_place(policy: KeepPolicy, bad: set[int], stay: list[int]) -> None:
    found = [replace(one, quarantined=one.id.step in bad) for one in candidates(1, 2, 3, 4)]
    assert sorted(one.step for one in retained(policy, found, _NOW_S)) == stay


_POLICIES = st.recursive(
    st.one_of(
        st.integers(1, 5).map(LatestN),
        st.builds(BestN, st.just("loss"), st.sampled_from(["min", "max"]), st.integers(1, 3)),
        st.sampled_from([10, 20, 30]).map(EveryNSteps),
        st.integers(1, 60).map(Within),
    ),
    lambda policies: st.builds(lambda one, other: one | other, policies, policies),
    max_leaves=4,
)


@given(_POLICIES, st.lists(st.none() | st.integers(0, 4), max_size=9), st.data())
def test_what_goes_goes_whichever_of_those_not_relied_on_is_no_good(
    policy: KeepPolicy, losses: list[int | None], data: st.DataObject
) -> None:
    bad = data.draw(st.sets(st.integers(1, len(losses) or 1)))
    found = [replace(one, quarantined=one.id.step // 10 in bad) for one in candidates(*losses)]
    relied, stay = relied_on(policy, found, _NOW_S), retained(policy, found, _NOW_S)
    assert relied <= stay
    gone = {one.id for one in found} - stay
    dropped = data.draw(st.sets(st.sampled_from(sorted(stay - relied)))) if stay - relied else set()
    left = [one for one in found if one.id not in dropped]
    assert gone.isdisjoint(retained(policy, left, _NOW_S))


class _OneOfTheirOwn:
    """Needs no base class."""

    def is_due(self, moment: object) -> bool:
        del moment
        return True


@pytest.mark.parametrize("policy", [None, EveryNSteps(3), AtMostOverhead(1) | EveryNSteps(3), _OneOfTheirOwn()])
def test_what_says_when_to_save_is_taken(policy: Any) -> None:
    assert checked_save(policy) is policy


@pytest.mark.parametrize("policy", [None, EveryNSteps(3), LatestN(3) | (Within(5) | BestN("loss", "min"))])
def test_what_says_what_stays_is_taken(policy: Any) -> None:
    assert checked_keep(policy) is policy


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (100, "save is 100; it must be a policy that says when to save, as EveryNSteps(100)"),
        (LatestN(3), "save is LatestN(n=3); it must be a policy that says when to save, as EveryNSteps(100)"),
        (EveryNSteps, "save is the class EveryNSteps, not a value of it, as EveryNSteps(100) is"),
        (
            EveryNSteps(3) | LatestN(3),
            "a part of save is LatestN(n=3); it must be a policy that says when to save, as EveryNSteps(100)",
        ),
    ],
)
def test_what_does_not_say_when_to_save_is_refused(policy: Any, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked_save(policy)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        (3, "keep is 3; it must be a policy that says what stays, as LatestN(3)"),
        (LatestN, "keep is the class LatestN, not a value of it, as LatestN(3) is"),
        (
            AtMostOverhead(1),
            "keep is AtMostOverhead(percent=1); it must be a policy that says what stays, as LatestN(3)",
        ),
        (AnyOf((LatestN(3), BestN)), "keep is the class BestN, not a value of it, as LatestN(3) is"),
        (
            LatestN(3) | AtMostOverhead(1),
            "a part of keep is AtMostOverhead(percent=1); it must be a policy that says what stays, as LatestN(3)",
        ),
    ],
)
def test_what_does_not_say_what_stays_is_refused(policy: Any, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        checked_keep(policy)
    assert str(refused.value) == said


@pytest.mark.parametrize(
    "join",
    [
        lambda: LatestN(3) | BestN,
        lambda: LatestN | BestN("loss", "min"),
        lambda: LatestN(3) | 5,
        lambda: 5 | LatestN(3),
    ],
)
def test_only_policies_are_joined(join: Any) -> None:
    with pytest.raises(ConfigError, match=r"join (values of it|policies) with \|"):
        join()


def test_ones_of_their_own_are_joined_from_either_side() -> None:
    own = _OneOfTheirOwn()
    assert (own | EveryNSteps(3)).policies == (own, EveryNSteps(3))
    assert (EveryNSteps(3) | own).policies == (EveryNSteps(3), own)
