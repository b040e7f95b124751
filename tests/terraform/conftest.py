"""Terraform and its providers are not on every machine: these tests run where they are asked for by name, and then nothing is skipped."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.terraform import Terraform

_HERE = Path(__file__).parent


@pytest.fixture(scope="session", autouse=True)
def _asked_for(request: pytest.FixtureRequest) -> None:
    config = request.config
    named = [(config.invocation_params.dir / arg.partition("::")[0]).resolve() for arg in config.args]
    if not any(path.is_relative_to(_HERE) for path in named):
        pytest.skip("`make test-terraform` runs them")


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Terraform, in a copy of our tree that the tests of a session share."""
    return Terraform(tmp_path_factory.mktemp("terraform"))
