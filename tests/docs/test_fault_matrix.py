"""The page of faults has the rows that `make faults` would write, and none of them failed."""

from __future__ import annotations

from pathlib import Path

from faults.beds import KINDS
from faults.matrix import FAULTS, Row
from faults.mutations import Proof
from faults.page import PAGE, shape, written
from faults.removals import MUTATIONS
from faults.scenarios import SCENARIOS
from faults.sigkill import KILLS, PLACES, VERBS

ROOT = Path(__file__).parents[2]


def empty_rows() -> tuple[list[Row], list[Row], list[Proof]]:
    """What would be struck, without striking it."""
    rows = [
        Row(scenario.name, fault, kind.name) for scenario in SCENARIOS for kind in scenario.kinds for fault in FAULTS
    ]
    killed = [
        Row(verb, f"SIGKILL {kill.removeprefix('kill-')}", place)
        for place in PLACES
        for verb in VERBS
        for kill in KILLS
    ]
    return rows, killed, [Proof(name=one.name, test=one.test, problem="") for one in MUTATIONS]


def test_it_has_the_rows_of_today() -> None:
    assert shape(PAGE.read_text()) == shape(written(*empty_rows())), "run `make faults`"


def test_it_says_who_made_it_and_that_nothing_failed() -> None:
    page = PAGE.read_text()
    assert "make faults" in page.partition("\n")[0]
    counted = [line for line in page.splitlines() if line.startswith(("| killed", "| error", "| lost", "| SIGKILL"))]
    rows = [line for line in counted if line.strip("| ").rpartition("|")[2].strip().isdigit()]
    assert len(rows) == len(empty_rows()[0]) + len(empty_rows()[1])
    assert all(line.strip("| ").rpartition("|")[2].strip() == "0" for line in rows)
    assert all(int(line.strip("| ").split("|")[-2]) > 0 for line in rows)


def test_each_kind_of_bucket_is_used() -> None:
    assert {kind.name for scenario in SCENARIOS for kind in scenario.kinds} == {kind.name for kind in KINDS}
    assert all((ROOT / one.test.partition("::")[0]).is_file() for one in MUTATIONS)
