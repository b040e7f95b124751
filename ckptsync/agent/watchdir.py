"""Waits until something in a directory may have changed: told by the kernel where it can, by the clock elsewhere."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

_STEP_MS = 200
"""What happens within so long is one change; the kernel's events are collected so often."""
_GLANCE_S = 1.0
"""So often it is asked whether the directory is the same one still."""
_BY_CLOCK = frozenset({"9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "nfs", "nfs4", "smb3", "virtiofs"})
"""File systems on which others may write unseen by this kernel. FUSE ones begin with `fuse`."""

Way = Literal["auto", "events", "polling"]


def filesystem_of(directory: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """Return the type of the file system that a directory lies on, as the kernel calls it; empty where it does not tell.

    Source: https://man7.org/linux/man-pages/man5/proc_pid_mountinfo.5.html
    """
    place, longest, found = os.path.realpath(directory), -1, ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        mount, _, source = line.partition(" - ")
        point = mount.split(" ")[4].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= longest:
            longest, found = len(point), source.split(" ", 1)[0]
    return found


def needs_polling(directory: Path) -> str:
    """Why the kernel's events do not tell what happens in a directory; empty where they do."""
    kind = filesystem_of(directory)
    if kind in _BY_CLOCK or kind.startswith("fuse"):
        return f"{kind} does not tell of what others write"
    return ""


class Watch:
    """Waits for changes in a directory, which need not be there, may be a link, and may be replaced."""

    def __init__(self, directory: Path, *, way: Way, say: Callable[[str], None], stop: threading.Event) -> None:
        """Watch nothing yet.

        Args:
            directory: to be watched.
            way: `auto` has the kernel's events wherever they tell.
            say: told once, in a sentence, that there are no events and why.
            stop: set to end the watching within a second.
        """
        self._directory, self._way, self._say, self._stop = directory, way, say, stop
        self._changed = threading.Event()
        self._polls = way == "polling"

    @property
    def polls(self) -> bool:
        """Whether only the clock tells when to look."""
        return self._polls

    def start(self) -> None:
        """Listen from now on, in a thread of its own."""
        if not self._polls:
            threading.Thread(target=self._listen, name="ckptsync-listen", daemon=True).start()

    def nudge(self) -> None:
        """Let who waits look at once. From any thread."""
        self._changed.set()

    def wait(self, timeout_s: float | None) -> None:
        """Return when something has changed since the last call, or when the time is over.

        Args:
            timeout_s: None waits for a change alone.
        """
        self._changed.wait(timeout_s)
        self._changed.clear()

    def _listen(self) -> None:
        """Follow what stands at the directory's name, until it is to stop or cannot be followed."""
        while not self._stop.is_set():
            place = self._now_at()
            if place is None:
                self._stop.wait(_GLANCE_S)
                continue
            self._changed.set()  # whatever is in it is news
            try:
                if self._way == "auto" and (why := needs_polling(self._directory)):
                    raise OSError(why)  # noqa: TRY301  all that keeps events from telling ends in the same way
                self._follow(place)
            except ImportError:
                self._go_by_clock("the package watchfiles is missing; install ckptsync[agent]")
                return
            except (OSError, RuntimeError) as error:
                if self._now_at() == place:
                    self._go_by_clock(str(error))
                    return

    def _follow(self, place: tuple[int, int]) -> None:
        """Tell of every change until something else stands there."""
        from watchfiles import watch  # noqa: PLC0415  an extra

        is_first = True  # what happened before the kernel was asked
        for changes in watch(
            os.path.realpath(self._directory),
            watch_filter=None,
            debounce=2 * _STEP_MS,
            step=_STEP_MS,
            rust_timeout=int(_GLANCE_S * 1000),
            yield_on_timeout=True,
            stop_event=self._stop,
            raise_interrupt=False,
            ignore_permission_denied=True,
        ):
            if changes or is_first:
                self._changed.set()
            is_first = False
            if self._now_at() != place:
                return

    def _go_by_clock(self, why: str) -> None:
        """Look by the clock from now on."""
        self._polls = True
        self._say(f"looking into {self._directory} by the clock, since the kernel's events cannot be used: {why}")
        self._changed.set()

    def _now_at(self) -> tuple[int, int] | None:
        """What stands there now; None when nothing does."""
        try:
            found = self._directory.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino
