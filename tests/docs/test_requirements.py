"""Every requirement is named by a test, and the page says which."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).with_name("generate_requirements.py")))


@pytest.fixture(scope="module")
def tests(generator: dict[str, Any]) -> dict[int, list[str]]:
    return generator["collected"]()


def test_every_requirement_has_a_test(generator: dict[str, Any], tests: dict[int, list[str]]) -> None:
    missing = generator["missing"](tests)
    assert not missing, f"no test carries @pytest.mark.req(...) for {', '.join(map(str, missing))}"


def test_the_page_is_up_to_date(generator: dict[str, Any], tests: dict[int, list[str]]) -> None:
    assert generator["PAGE"].read_text() == generator["page"](tests), "run `make reference`"


def test_no_test_carries_a_number_that_is_none(tests: dict[int, list[str]]) -> None:
    others = {number for number in tests if not 1 <= number <= 40}
    assert not others
    assert all(name.startswith("tests/") for names in tests.values() for name in names)
