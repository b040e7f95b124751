"""A sidecar has many threads that hardly work: a heap for each of them would cost more than it saves."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress

_M_ARENA_MAX = -8


def share_one_heap() -> None:
    """Let all threads of this process share one heap from now on, where the C library is glibc. Safe to call again.

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if sys.platform.startswith("linux"):
        with suppress(OSError, AttributeError):  # musl has one heap, and no such function
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
