"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

LONG_S = 60.0


def wait_until(is_so: Callable[[], object], *, limit_s: float = LONG_S) -> None:
    """Wait until something is so; fail when it is not in time."""
    until_s = time.monotonic() + limit_s
    while not is_so():
        if time.monotonic() > until_s:
            raise AssertionError(f"it did not come to that in {limit_s:g} s")
        time.sleep(0.01)
