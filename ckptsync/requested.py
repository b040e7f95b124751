"""Whether somebody asked for a last checkpoint: `ckptsync run` and the sidecar do so by a file."""

from __future__ import annotations

import os

_LOOK_S = 0.2


class Requests:
    """Looks at the file that the environment names, at most five times a second; without one it looks at nothing."""

    def __init__(self, path: str) -> None:
        """Remember where to look.

        Args:
            path: of the file, whose appearance is a request, and each change another; empty where nobody asks.
        """
        self._path = path
        self._before: tuple[int, int] | None = None
        self._next_s = 0.0

    def is_new(self, now_s: float) -> bool:
        """Tell whether it was asked since the last time that this said so.

        Args:
            now_s: by the monotonic clock.
        """
        if not self._path or now_s < self._next_s:
            return False
        self._next_s = now_s + _LOOK_S
        try:
            found = os.stat(self._path)  # noqa: PTH116  twice as fast, in a training loop
        except OSError:
            return False
        mark = (found.st_ino, found.st_mtime_ns)
        if mark == self._before:
            return False
        self._before = mark
        return True
