"""How a trainer is asked for a last checkpoint."""

from __future__ import annotations

import http.client
import json
import logging
import os
import shlex
import signal
import subprocess
import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ckptsync.agent.notice import Notice
from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import ConfigError
from ckptsync.redaction import redacted

_HTTP_S = 1.0
_COMMAND_S = 5.0
_GOOD = range(200, 300)
_WAYS = "none, file:PATH, signal:NAME, http://…, or command:…"
_log = logging.getLogger("ckptsync")
SendSignal = Callable[[int], None]


class Asker(Protocol):
    """Asks a trainer for a last checkpoint."""

    @property
    def name(self) -> str:
        """Of the way, for log lines."""
        ...

    def ask(self, notice: Notice) -> str:
        """Ask, within a few seconds; the ways by which somebody was asked, empty for none. Never raises; asking again is harmless."""
        ...


@dataclass(frozen=True, slots=True)
class ByFile:
    """Writes a file, whole at once, which says the deadline; each time a new one."""

    path: Path
    clock: Clock = SYSTEM
    name: str = "file"

    def ask(self, notice: Notice) -> str:
        """As `Asker` asks for it."""
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            new.write_text(_words(notice, self.clock))
            new.replace(self.path)
        except OSError as error:
            _log.warning("the trainer cannot be asked by %s: %s", self.path, error.strerror)
            return ""
        return self.name


@dataclass(frozen=True, slots=True)
class BySignal:
    """Sends a signal to the command of `ckptsync run`."""

    number: int
    send: SendSignal
    name: str = "signal"

    def ask(self, notice: Notice) -> str:
        """As `Asker` asks for it."""
        del notice
        try:
            self.send(self.number)
        except OSError as error:
            _log.warning("the trainer cannot be asked by a signal: %s", error.strerror)
            return ""
        return self.name


@dataclass(frozen=True, slots=True)
class ByHttp:
    """Posts the notice to the trainer, past every proxy."""

    url: str
    clock: Clock = SYSTEM
    name: str = "http"

    def ask(self, notice: Notice) -> str:
        """As `Asker` asks for it."""
        parts = urllib.parse.urlsplit(self.url)
        target = urllib.parse.urlunsplit(("", "", parts.path or "/", parts.query, ""))
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_HTTP_S)
        try:
            connection.request("POST", target, _words(notice, self.clock), {"Content-Type": "application/json"})
            status = connection.getresponse().status
        except (OSError, ValueError, http.client.HTTPException) as error:
            _log.warning(
                "the trainer cannot be asked at %s: %s", redacted(self.url), str(error) or type(error).__name__
            )
            return ""
        finally:
            connection.close()
        if status not in _GOOD:
            _log.warning("the trainer was asked at %s and answered with status %d", redacted(self.url), status)
        return self.name if status in _GOOD else ""


@dataclass(frozen=True, slots=True)
class ByCommand:
    """Runs a command, which is no shell's; the notice is its standard input."""

    command: Sequence[str]
    clock: Clock = SYSTEM
    name: str = "command"

    def ask(self, notice: Notice) -> str:
        """As `Asker` asks for it."""
        words = _words(notice, self.clock).encode()
        try:
            run = subprocess.run(  # noqa: S603  that it is run was asked for
                self.command, input=words, stdout=subprocess.DEVNULL, timeout=_COMMAND_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            _log.warning("the trainer cannot be asked by %s: %s", self.command[0], error)
            return ""
        if run.returncode:
            _log.warning("%s, which asks the trainer, ended with %d", self.command[0], run.returncode)
        return "" if run.returncode else self.name


@dataclass(frozen=True, slots=True)
class Each:
    """Asks in several ways."""

    ways: Sequence[Asker]

    @property
    def name(self) -> str:
        """Of all of them."""
        return " and ".join(way.name for way in self.ways)

    def ask(self, notice: Notice) -> str:
        """As `Asker` asks for it."""
        return " and ".join(filter(None, [way.ask(notice) for way in self.ways]))  # every way is tried


def asker(
    ask: str, *, send_signal: SendSignal | None = None, request_file: Path | None = None, clock: Clock = SYSTEM
) -> Asker | None:
    """Put together how the trainer is asked; None where it cannot be.

    Args:
        ask: the option: `none`, `file:PATH`, `signal:NAME`, `http://…` or `command:…`.
        send_signal: sends a signal to the trainer; None where it is not our child.
        request_file: that trainers with ckptsync as a library look at; None where there is none.
        clock: that deadlines are by.

    Raises:
        ConfigError: it cannot be understood, or not be done here.
    """
    ways: list[Asker] = [] if request_file is None else [ByFile(request_file, clock, "request file")]
    way, _, what = ask.partition(":")
    if ask != "none":
        ways.append(_way(ask, way, what, send_signal, clock))
    if not ways:
        return None
    return ways[0] if len(ways) == 1 else Each(tuple(ways))


def _way(ask: str, way: str, what: str, send_signal: SendSignal | None, clock: Clock) -> Asker:
    """Make one way.

    Raises:
        ConfigError: as `asker` raises it.
    """
    if way == "file" and what:
        return ByFile(Path(what), clock)
    if way == "signal":
        number = _signal_number(what)
        if send_signal is None:
            raise ConfigError("ask by a signal is for `ckptsync run`, whose command it is sent to; use file:PATH here")
        return BySignal(number, send_signal)
    if way == "http" and _is_address(ask):
        return ByHttp(ask, clock)
    if way == "command" and (words := _split(what)):
        return ByCommand(words, clock)
    raise ConfigError(f"ask is {ask!r}; it can be {_WAYS}")


def _is_address(url: str) -> bool:
    """Whether something can be posted there."""
    try:
        parts = urllib.parse.urlsplit(url)
        return bool(parts.hostname) and parts.port != 0 and url.isascii() and url.isprintable() and " " not in url
    except ValueError:
        return False


def _split(text: str) -> Sequence[str]:
    """Words of a command.

    Raises:
        ConfigError: quotes do not end.
    """
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"the command in ask, {text!r}, cannot be taken apart: {error}") from error


def _signal_number(name: str) -> int:
    """Of a signal's name, with or without SIG.

    Raises:
        ConfigError: there is none of that name, or nobody can do anything about it.
    """
    try:
        number = signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
    except KeyError:
        raise ConfigError(f"ask names the signal {name!r}, and there is none; write it like signal:USR1") from None
    if number in {signal.SIGKILL, signal.SIGSTOP}:
        raise ConfigError(f"{number.name} ends or stops the trainer at once; ask with another signal, as signal:USR1")
    return number


def _words(notice: Notice, clock: Clock) -> str:
    """The notice in JSON; the deadline in seconds since 1970."""
    deadline_s = None if notice.deadline_s is None else clock.now() + notice.deadline_s - clock.monotonic()
    return json.dumps({"source": notice.source, "kind": notice.kind, "deadline": deadline_s, "message": notice.message})
