"""Notices for clouds and schedulers that are not known here: a file that appears, or a command that says so."""

from __future__ import annotations

import json
import logging
import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Event as Flag
from typing import IO

from ckptsync.agent.notice import Notice, Source, Tell
from ckptsync.clock import SYSTEM, Clock
from ckptsync.config import parse_duration
from ckptsync.errors import ConfigError

_LOOK_S = 0.25
_MOST_BYTES, _PIECE_BYTES = 4096, 1 << 16
_GLANCE_S = 0.1
_LONGEST_S = 30.0
_EPOCH_S = 1e9  # a larger number is a moment since 1970, a smaller one a time to come
_log = logging.getLogger("ckptsync")


class FileHook:
    """Takes a file's appearance for a notice, and each change of it for another. What stood there before is none."""

    name = "file"

    def __init__(self, path: Path, *, clock: Clock = SYSTEM) -> None:
        """Remember what stands there now.

        Args:
            path: of the file; empty, or it says the deadline: time from now as `90` or `2m`, a moment in ISO 8601 or in seconds since 1970, or a
                JSON object with `deadline` and `message`.
            clock: that deadlines are by.
        """
        self._path, self._clock = path, clock
        self._before = _mark(path)

    def watch(self, tell: Tell, stop: Flag) -> None:
        """As `Watcher` asks for it."""
        while not stop.wait(_LOOK_S):
            mark = _mark(self._path)
            if mark is not None and mark != self._before:
                tell(self._notice())
            self._before = mark

    def _notice(self) -> Notice:
        """What the file says."""
        try:
            with self._path.open("rb") as file:
                text = file.read(_MOST_BYTES).decode("utf-8", "replace").strip()
        except OSError:
            text = ""
        return told(text, f"the file {self._path} appeared", clock=self._clock)


class CommandHook:
    """Runs a command again and again, and takes it for a notice when it ends with 0. Its first line is the message."""

    name = "command"

    def __init__(self, command: str, *, every_s: float, clock: Clock = SYSTEM) -> None:
        """Take the command apart; it is run by no shell.

        Args:
            command: words and quotes as a shell has them.
            every_s: pause between two runs; one that takes longer than 30 s is ended.
            clock: that deadlines are by.

        Raises:
            ConfigError: it has no word, or quotes that do not end.
        """
        try:
            self._command: Sequence[str] = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"notice_command {command!r} cannot be taken apart: {error}") from error
        if not any(self._command[:1]):
            raise ConfigError("notice_command is empty")
        self._every_s, self._clock = every_s, clock

    def watch(self, tell: Tell, stop: Flag) -> None:
        """As `Watcher` asks for it."""
        said = False
        while not stop.is_set():
            try:
                text = self._run(stop)
            except OSError as error:
                _log.warning(
                    "notice_command %s cannot be run: %s; it is not tried again", self._command[0], error.strerror
                )
                return
            if text is not None and not said:
                tell(told(text, f"{self._command[0]} says so", clock=self._clock))
            said = text is not None
            stop.wait(self._every_s)

    def _run(self, stop: Flag) -> str | None:
        """Run it once; the beginning of what it prints, or None when it does not end with 0. It outlives neither its time nor us.

        Raises:
            OSError: it cannot be started.
        """
        ours, theirs = os.pipe()
        try:
            process = subprocess.Popen(  # noqa: S603  that it is run was asked for
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        with os.fdopen(ours, "rb", buffering=0) as pipe:
            text = _beginning(pipe, process, stop)
            if process.poll() is None:
                if not stop.is_set():
                    _log.warning("notice_command %s took longer than %g s", self._command[0], _LONGEST_S)
                _end(process.pid)
        return text if process.wait() == 0 else None


def _beginning(pipe: IO[bytes], process: subprocess.Popen[bytes], stop: Flag) -> str:
    """Wait for a command's end, as long as there is time; the beginning of what it says. What started in it may hold the pipe."""
    said, until_s, is_open = b"", time.monotonic() + _LONGEST_S, True
    while time.monotonic() < until_s and not stop.is_set():
        ended = process.poll() is not None
        ready, _, _ = select.select([pipe] if is_open else [], [], [], 0.0 if ended else _GLANCE_S)
        if ready:
            piece = pipe.read(_PIECE_BYTES)
            is_open = bool(piece)
            said = (said + piece)[:_MOST_BYTES]
        elif ended:
            break
    return said.decode("utf-8", "replace").strip()


def _end(group: int) -> None:
    """Kill a command and what it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def told(text: str, otherwise: str, *, clock: Clock) -> Notice:
    """Make a notice of what a file or a command says.

    Args:
        text: as `FileHook` describes it; what is no deadline is the message.
        otherwise: the message where the text has none.
        clock: that deadlines are by.
    """
    deadline, message = _parted(text)
    moment_s = _moment_s(deadline, clock.now())
    left_s = None if moment_s is None else moment_s - clock.now()
    message = " ".join(message.split()) or otherwise
    ends = f"; its deadline {deadline!r} is no time" if deadline else ""
    if left_s is not None:
        ends = f", which leaves {max(0.0, left_s):.0f} s"
    return Notice(
        source=Source.HOOK,
        kind="hook",
        final=True,
        deadline_s=None if left_s is None else clock.monotonic() + left_s,
        message=f"{message}{ends}",
    )


def _parted(text: str) -> tuple[str, str]:
    """Deadline and message."""
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict):
        deadline = found.get("deadline")
        return "" if deadline is None else str(deadline), str(found.get("message", ""))
    first = text.partition("\n")[0].strip()
    return (first, "") if _moment_s(first, 0.0) is not None else ("", first)


def _moment_s(text: str, now_s: float) -> float | None:
    """Seconds since 1970; None where it is no time."""
    try:
        number = float(text)
    except ValueError:
        pass
    else:
        if not 0 <= number < 1e11:  # noqa: PLR2004  neither NaN nor a time that anybody means
            return None
        return number if number >= _EPOCH_S else now_s + number
    with suppress(ConfigError):
        return now_s + parse_duration(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _mark(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file is written anew; None when there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
