"""A sample of the kill matrix; `make faults` strikes every request."""

from __future__ import annotations

import pytest

from .beds import KINDS, Kind
from .matrix import FAULTS, strike_all
from .scenarios import SCENARIOS, Scenario

SHARE = 0.04


@pytest.mark.req(1, 2, 7, 20, 28)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "kind"),
    [(scenario, kind) for scenario in SCENARIOS for kind in scenario.kinds],
    ids=lambda value: value.name,
)
def test_any_request_may_fail(scenario: Scenario, kind: Kind) -> None:
    rows = strike_all(scenario, kind, share=SHARE)
    assert [row.fault for row in rows] == list(FAULTS)
    assert not [failure for row in rows for failure in row.failures]


@pytest.mark.parametrize("name", ["save", "gc", "rm"])
def test_every_request_may_be_killed(name: str) -> None:
    scenario = next(scenario for scenario in SCENARIOS if scenario.name == name)
    rows = strike_all(scenario, KINDS[0], only=("killed before",))
    assert not [failure for row in rows for failure in row.failures]
