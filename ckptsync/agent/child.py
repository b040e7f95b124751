"""A command that runs beside the sidecar: started, told of signals, waited for."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ckptsync.errors import CkptsyncError

_PR_SET_PDEATHSIG = 1
_BY_SIGNAL = 128


class CommandError(CkptsyncError):
    """The command cannot be started; the exit code is a shell's."""

    exit_code = 126


class CommandNotFoundError(CommandError):
    """There is no command of that name."""

    exit_code = 127


def has_terminal() -> bool:
    """Tell whether commands that are started here have a terminal, from which signals reach them as well."""
    return sys.stdin is not None and os.isatty(0)


class Child:
    """A running command.

    With a terminal it is in our process group, so that Ctrl-C and Ctrl-Z reach both of us from there; else in one of its own. On Linux it
    receives SIGTERM when we die without a word.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start it. For the main thread: the kernel ties its life to the thread that started it.

        Args:
            command: name and arguments; no shell takes them apart.
            environ: its whole environment.

        Raises:
            CommandNotFoundError: there is none of that name.
            CommandError: it cannot be started.
        """
        if not command[0]:
            raise CommandNotFoundError("the command is empty")
        self.has_terminal = has_terminal()
        try:
            self._process = subprocess.Popen(  # noqa: S603  that it is run was asked for
                command,
                env=dict(environ),
                process_group=None if self.has_terminal else 0,
                preexec_fn=_tied_to(os.getpid()),  # noqa: PLW1509  one call of the C library, looked up before
            )
        except FileNotFoundError as error:
            raise CommandNotFoundError(f"cannot start {command[0]!r}: there is no such command") from error
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise CommandError(f"cannot start {command[0]!r}: {why}") from error
        self.pid = self._process.pid

    def send(self, number: int) -> None:
        """Send it a signal; nothing happens when it has ended."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it and what it started: launchers such as torchrun give their workers sessions of their own."""
        if self._process.poll() is not None:
            return
        started = list(_descendants(self.pid))
        if not self.has_terminal:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        for pid in (self.pid, *started):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def exit_code(self) -> int | None:
        """What it ended with, as a shell tells it; None while it runs."""
        return _as_shells_tell(self._process.poll())

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end; None when it still runs then."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)
        return self.exit_code()


def _descendants(pid: int) -> Iterator[int]:
    """Processes that a process started, and those that they started; none where the kernel does not tell (it does on Linux)."""
    for thread in Path(f"/proc/{pid}/task").glob("*"):
        with suppress(OSError):
            for child in (thread / "children").read_text().split():
                yield int(child)
                yield from _descendants(int(child))


def _as_shells_tell(code: int | None) -> int | None:
    """128 and the number for a command that a signal ended."""
    return _BY_SIGNAL - code if code is not None and code < 0 else code


def _tied_to(parent: int) -> Callable[[], None] | None:
    """What the child does before it becomes the command: ask for SIGTERM when its parent dies; None where that is not known."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(_BY_SIGNAL + signal.SIGTERM)

    return tie
