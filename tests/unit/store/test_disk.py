from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ckptsync.errors import CkptsyncError
from ckptsync.store.local import disk


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_every_error_of_the_system_becomes_ours(code: int) -> None:
    error = disk.translate(OSError(code, os.strerror(code)), op="put", key="a", path=Path("/x"))
    assert isinstance(error, CkptsyncError)
    assert str(error)
