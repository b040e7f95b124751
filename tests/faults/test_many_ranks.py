from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

SHORT = bool(os.environ.get("CKPTSYNC_TEST_SHORT"))


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("many_ranks", Path(__file__).with_name("many_ranks.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["many_ranks"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.req(25, 19)
def test_requests_grow_with_the_ranks_and_no_faster(simulation: ModuleType) -> None:
    few, many = (simulation.measure(world, 1.0) for world in (8, 64 if SHORT else 256))
    for found in (few, many):
        assert found.manifests == 1
        assert sum(found.requests.values()) / found.world < 40
        assert 0 < found.matching("get ranks") < 4


@pytest.mark.slow
@pytest.mark.req(19, 25)
def test_all_ranks_finish_on_a_bucket_that_refuses_most_requests(simulation: ModuleType) -> None:
    found = simulation.measure(32 if SHORT else 128, 0.02)
    assert found.refused > 100
    assert found.requests["put manifests"] >= 1
