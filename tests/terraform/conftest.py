from __future__ import annotations

import pytest
from support.terraform import Terraform


@pytest.fixture(scope="session")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    """Terraform, in a copy of our tree that the tests of a session share."""
    return Terraform(tmp_path_factory.mktemp("terraform"))
