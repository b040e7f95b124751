"""The image, built once; `make test-container` says where storage is kept between runs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .engine import Engine, install


@pytest.fixture(scope="session")
def engine() -> Engine:
    """Tools that are there, and our image in their storage."""
    if not (folder := os.environ.get("CKPTSYNC_TEST_CONTAINERS")):
        pytest.skip("`make test-container` installs what builds and runs containers")
    install()
    found = Engine(Path(folder))
    found.make_base()
    found.build()
    return found


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A folder that any user may write to, as a volume."""
    folder = tmp_path / "volume"
    folder.mkdir()
    folder.chmod(0o777)
    tmp_path.chmod(0o755)
    return folder
