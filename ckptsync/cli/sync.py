"""What the verbs beside a training share: options of the sidecar, how it tells what it does, and signals that end it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from ckptsync.cli.options import Decorator, Options, nested, option, parsed_duration, parsed_size, sets, stacked

if TYPE_CHECKING:
    from ckptsync.agent.agent import Agent as Working
    from ckptsync.agent.traces import Traces
    from ckptsync.events import Event, Observer
    from ckptsync.options import Agent, Config
    from ckptsync.verbs.save import Saved

synced: Decorator = stacked(
    option(
        "--ready",
        metavar="RULE",
        callback=sets("agent.ready"),
        help="Rule by which a checkpoint is whole, as in torch, dcp, huggingface, quiet.  [default: auto]",
    ),
    option(
        "--quiet-for",
        metavar="TIME",
        callback=sets("agent.quiet_s", parsed_duration),
        help="With --ready quiet: what has not changed for so long is whole.",
    ),
    option(
        "--watch",
        type=click.Choice(["auto", "events", "polling"]),
        callback=sets("agent.watch"),
        help="How changes are noticed.  [default: auto]",
    ),
    option(
        "--poll",
        metavar="TIME",
        callback=sets("agent.poll_s", parsed_duration),
        help="Between two looks where events do not tell.  [default: 5s]",
    ),
    option(
        "--backlog",
        type=click.Choice(["latest", "all"]),
        callback=sets("agent.backlog"),
        help="Pass over checkpoints that newer ones overtake, or upload each.  [default: latest]",
    ),
    option(
        "--keep-local",
        metavar="N",
        type=click.IntRange(1),
        callback=sets("agent.keep_local"),
        help="Delete older checkpoints than the newest N from the disk once they are durable.",
    ),
    option(
        "--min-free",
        metavar="SIZE",
        callback=sets("agent.min_free_bytes", parsed_size),
        help="With less free on the disk, delete durable checkpoints but for the newest.",
    ),
    option(
        "--drain-timeout",
        metavar="TIME",
        callback=sets("agent.drain_timeout_s", parsed_duration),
        help="Wait so long at the end for what is not durable.  [default: 300s]",
    ),
    option("--host", callback=sets("agent.host"), help="Address of the status port.  [default: 127.0.0.1]"),
    option(
        "--port",
        metavar="P",
        type=click.IntRange(0, 65_535),
        callback=sets("agent.port"),
        help="Serve metrics, health and the status page there; 0 takes any that is free.",
    ),
    option(
        "--notices",
        metavar="SOURCES",
        callback=sets("agent.notices"),
        help="Whose preemption notices to heed: ec2, gce, signal, several joined by commas, or none.  [default: auto]",
    ),
    option(
        "--notice-file",
        metavar="FILE",
        type=click.Path(),
        callback=sets("agent.notice_file"),
        help="A file whose appearance is a preemption notice.",
    ),
    option(
        "--notice-command",
        metavar="COMMAND",
        callback=sets("agent.notice_command"),
        help="A command that ends with 0 when this machine is to be preempted.",
    ),
    option(
        "--ask",
        metavar="HOW",
        callback=sets("agent.ask"),
        help="Ask for a last checkpoint by file:PATH, signal:NAME, http://… or command:….  [default: none]",
    ),
    option(
        "--margin",
        metavar="TIME",
        callback=sets("agent.margin_s", parsed_duration),
        help="Be done so long before the deadline of a notice.  [default: 3s]",
    ),
    option(
        "--log",
        type=click.Choice(["text", "json"]),
        callback=sets("agent.log"),
        help="How log lines are written to stderr.  [default: text]",
    ),
    option(
        "--traces/--no-traces",
        default=None,
        callback=sets("agent.traces"),
        help="Export spans with OpenTelemetry.  [default: no-traces]",
    ),
)
"""Options of the sidecar."""


def sync_config(options: Options) -> Config:
    """Put the options in force together.

    Raises:
        ConfigError: one cannot be used.
    """
    from ckptsync.config import resolve

    return resolve(nested(options.settings), file=options.config_file)


def checked_run(url: str) -> str:
    """Refuse a run that ends with this process.

    Raises:
        ConfigError: it does.
    """
    from ckptsync.errors import ConfigError

    if url.startswith("memory://"):
        raise ConfigError("a memory:// run ends with this process; name a bucket or a directory")
    return url


def checked_directory(path: str) -> Path:
    """Refuse a directory that is a run's URL: the two were given in each other's place.

    Raises:
        ConfigError: it is.
    """
    from ckptsync.errors import ConfigError

    if "://" in path:
        raise ConfigError(f"{path} is no directory of this machine; DIR is where the training writes, and RUN the URL")
    return Path(path)


@contextmanager
def telling(options: Options, agent: Agent) -> Iterator[tuple[Observer, Traces | None]]:
    """Tell people, or programs with `--json`, what happens for as long as the `with` block lasts.

    Yields:
        What is to be told of every event, and what makes spans of restore and drain, with `ckptsync.cli.structured.spanned`.

    Raises:
        ConfigError: spans are wanted, and OpenTelemetry is not there.
    """
    from ckptsync.cli.structured import observers
    from ckptsync.events import Kind, fan_out

    names = {Kind.NOTICE: "notice", Kind.FAILED: "error"}

    def as_json(event: Event) -> None:
        if event.kind in names:
            _print_event(options, names[event.kind], message=event.message)

    with observers(agent, options.verbosity) as (observer, spans):
        yield (fan_out(as_json, observer) if options.as_json else observer), spans


def commit_teller(options: Options, agent: Agent) -> Callable[[Saved], None]:
    """Return what tells of a commit: an object with `--json`, else a line unless quiet; and a log line where those are JSON."""
    from dataclasses import asdict

    from ckptsync.cli.transfer import committed_line

    def tell(saved: Saved) -> None:
        _tell(options, agent, "committed", committed_line(saved), **asdict(saved))

    return tell


@contextmanager
def status_page(
    options: Options, config: Config, working: Working, run: str, drain: Callable[[], None]
) -> Iterator[None]:
    """Serve the status page where the options want one, and tell where, for as long as the `with` block lasts.

    Args:
        options: as parsed.
        config: the options in force.
        working: whose status is shown.
        run: its URL.
        drain: called by `POST /drain`; must return at once.

    Raises:
        ConfigError: the address cannot be used, or the extra `agent` is not installed.
    """
    from ckptsync.agent.port import status_port

    with status_port(working.board, run, config, drain=drain, alive=lambda: working.is_alive) as port:
        if port is not None:
            host = f"[{config.agent.host}]" if ":" in config.agent.host else config.agent.host
            url = f"http://{host}:{port}/"
            _tell(options, config.agent, "serving", f"the status page is at {url}", url=url)
        yield


def _tell(options: Options, agent: Agent, name: str, line: str, **members: object) -> None:
    """Print an object with `--json`, else a line unless quiet; and log it where log lines are JSON."""
    import logging

    from ckptsync.cli.output import say

    if options.as_json:
        _print_event(options, name, **members)
    if agent.log == "json":
        from ckptsync.cli.structured import log_fields

        log_fields(logging.INFO, line, event=name, **members)
    elif not options.as_json and not options.quiet:
        say(f"{line}\n")


def _print_event(options: Options, name: str, **members: object) -> None:
    """Print one object; where stdout is closed or full, nobody reads it, and work goes on."""
    from contextlib import suppress

    with suppress(OSError):
        options.answer({"event": name, **members})


class Stop:
    """What the first SIGTERM or SIGINT sets; a second one ends the program at once."""

    def __init__(self) -> None:
        """No signal came yet."""
        self.asked = threading.Event()
        self.number = 0

    def tell(self, number: int, frame: FrameType | None) -> None:
        """Take in a signal.

        Raises:
            Stopped: it is the second.
        """
        from ckptsync.cli.ending import Stopped

        del frame
        if self.asked.is_set():
            raise Stopped(number)
        self.number = number
        self.asked.set()


@contextmanager
def stopping() -> Iterator[Stop]:
    """Let SIGTERM, SIGINT and SIGHUP ask for an orderly end for as long as the `with` block lasts. For the main thread."""
    stop = Stop()
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, stop.tell)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
