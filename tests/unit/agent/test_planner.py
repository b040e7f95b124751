"""What is done with the time that is left."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ckptsync.agent.planner import Choice, Outlook, Plan, plan
from ckptsync.options import MIB

CALM = Outlook(
    left_s=117.0,
    bytes_per_s=10.0 * MIB,
    under_way_bytes=0,
    waiting_bytes=0,
    fresh_bytes=100 * MIB,
    fresh_s=5.0,
    can_ask=False,
    lost_s=60.0,
)

seconds = st.floats(0.0, 1e5)
sizes = st.integers(0, 1 << 40)
outlooks = st.builds(
    Outlook,
    left_s=st.none() | st.floats(-10.0, 1e5),
    bytes_per_s=st.none() | st.floats(0.0, 1e10),
    under_way_bytes=sizes,
    waiting_bytes=sizes,
    fresh_bytes=st.none() | sizes,
    fresh_s=st.none() | seconds,
    can_ask=st.booleans(),
    lost_s=seconds,
)


@pytest.mark.req(6)
@pytest.mark.parametrize(
    ("changes", "choice", "says"),
    [
        ({"under_way_bytes": 1000 * MIB}, Choice.FINISH, "1000.0 MiB of the upload under way"),
        ({"under_way_bytes": 1200 * MIB}, Choice.KEEP, "takes 120 s at 10.0 MiB/s, and 117 s are left"),
        ({"waiting_bytes": 1000 * MIB}, Choice.FINISH, "of a whole checkpoint wait"),
        ({"waiting_bytes": 1200 * MIB}, Choice.KEEP, "the next start continues"),
        (
            {"asked": True},
            Choice.KEEP,
            "every whole checkpoint is durable, and the trainer was asked for a last one before",
        ),
        ({"can_ask": True}, Choice.ASK, "saves 60 s of work, and takes 15 s of the 117 s left"),
        ({"can_ask": True, "under_way_bytes": 500 * MIB}, Choice.ASK, "takes 60 s behind the upload under way"),
        ({"can_ask": True, "under_way_bytes": 1100 * MIB}, Choice.FINISH, "a last one would take longer"),
        ({"can_ask": True, "left_s": 14.0}, Choice.KEEP, "every whole checkpoint is durable"),
        ({"can_ask": True, "lost_s": 0.0}, Choice.KEEP, "nothing was done since"),
        ({"can_ask": True, "left_s": None}, Choice.ASK, "nobody says how much time is left"),
        ({"can_ask": True, "fresh_bytes": None}, Choice.ASK, "not measured yet"),
        ({"can_ask": True, "fresh_s": None}, Choice.ASK, "not measured yet"),
        (
            {"can_ask": True, "fresh_s": None, "waiting_bytes": 1200 * MIB, "fresh_bytes": 1200 * MIB},
            Choice.KEEP,
            "wait",
        ),
        ({"can_ask": True, "fresh_s": None, "under_way_bytes": 1200 * MIB}, Choice.KEEP, "of the upload under way"),
        ({"can_ask": True, "bytes_per_s": None, "fresh_s": 200.0}, Choice.KEEP, "a last one would take longer"),
        ({"under_way_bytes": MIB, "bytes_per_s": None, "left_s": -1.0}, Choice.KEEP, "there is no time left"),
        ({"under_way_bytes": MIB, "bytes_per_s": None}, Choice.FINISH, "no rate was measured yet"),
        ({"waiting_bytes": MIB, "left_s": None}, Choice.FINISH, "nobody says how much time is left"),
        ({"under_way_bytes": MIB, "bytes_per_s": 0.0}, Choice.KEEP, "nothing gets through"),
        ({}, Choice.KEEP, "the trainer cannot be asked"),
    ],
)
def test_each_case_says_its_reason(changes: dict[str, object], choice: Choice, says: str) -> None:
    made = plan(replace(CALM, **changes))  # type: ignore[arg-type]
    assert made.choice is choice
    assert says in made.why


@given(outlooks)
def test_what_is_chosen_fits(outlook: Outlook) -> None:
    made = plan(outlook)
    assert made.why
    if outlook.left_s is not None and outlook.left_s <= 0:
        assert made.choice is Choice.KEEP
    if outlook.left_s is not None and made.choice is Choice.ASK:
        assert (outlook.fresh_s or 0.0) < outlook.left_s
    if outlook.left_s is None or outlook.bytes_per_s is None:
        return
    within = outlook.left_s * outlook.bytes_per_s
    if made.choice is Choice.FINISH:
        assert (outlook.under_way_bytes or outlook.waiting_bytes) <= within
    if made.choice is Choice.ASK:
        assert outlook.can_ask
        assert outlook.lost_s > 0
        assert outlook.under_way_bytes <= within
        assert outlook.fresh_bytes is None or outlook.fresh_bytes <= within


RANKS = {Choice.KEEP: 0, Choice.FINISH: 1, Choice.ASK: 2}


@given(outlooks, st.floats(0.0, 1e5), st.floats(0.0, 1e9))
def test_more_time_or_a_better_rate_never_lets_less_be_done(outlook: Outlook, more_s: float, faster: float) -> None:
    before = plan(outlook)
    if outlook.left_s is not None:
        assert at_least(plan(replace(outlook, left_s=outlook.left_s + more_s)), before)
    if outlook.bytes_per_s is not None and (outlook.left_s is None or outlook.left_s >= 0):
        assert at_least(plan(replace(outlook, bytes_per_s=outlook.bytes_per_s + faster)), before)


def at_least(one: Plan, other: Plan) -> bool:
    return RANKS[one.choice] >= RANKS[other.choice]


@given(outlooks)
def test_who_cannot_be_asked_is_not(outlook: Outlook) -> None:
    assert plan(replace(outlook, can_ask=False)).choice is not Choice.ASK
    assert plan(replace(outlook, lost_s=0.0)).choice is not Choice.ASK
