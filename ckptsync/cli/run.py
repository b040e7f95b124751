"""The verb `run`: a command with the sidecar beside it, in one line of a start-up script."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptsync.cli.options import (
    Options,
    Verb,
    compress,
    copy,
    max_rate,
    part_size,
    positional,
    state_dir,
    store,
    verb,
    workers,
)
from ckptsync.cli.sync import checked_directory, checked_run, commit_teller, status_page, sync_config, synced, telling

if TYPE_CHECKING:
    from ckptsync.agent.child import Child
    from ckptsync.agent.traces import Traces
    from ckptsync.events import Observer
    from ckptsync.options import Config

_REQUEST_FILE = "CKPTSYNC_REQUEST_FILE"


class WithCommand(Verb):
    """A verb with a command behind `--`, which may have options of its own."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        """What the line of usage shows."""
        return [*super().collect_usage_pieces(ctx), "-- CMD..."]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Part the command from what is ours."""
        at = args.index("--") if "--" in args else len(args)
        ctx.params["command"] = tuple(args[at + 1 :])
        if not ctx.params["command"] and not ctx.resilient_parsing and not {"-h", "--help"} & set(args):
            raise click.UsageError(
                "the command is missing; it stands at the end, behind --, as in -- python train.py", ctx
            )
        return super().parse_args(ctx, args[:at])


@verb(
    positional("run"),
    click.option(
        "--dir",
        "path",
        metavar="DIR",
        type=click.Path(),
        envvar="CKPTSYNC_DIR",
        required=True,
        help="Folder of checkpoints: restored into before the command starts, synced while it runs.",
    ),
    synced,
    workers,
    part_size,
    max_rate,
    compress,
    copy,
    state_dir,
    store,
    kind=WithCommand,
)
def run(options: Options, run: str, path: str, command: Sequence[str]) -> None:
    """Restore the newest checkpoint, run a command, commit what it writes.

    Signals are passed on to CMD. When it has ended, what is whole is made durable within --drain-timeout, and the exit code is CMD's:
    128+N where signal N ended it, 126 and 127 where it cannot be started. 75 tells that CMD ended well and something is not durable, 5
    that a newer writer owns the run. RUN may be left out when CKPTSYNC_RUN is set.
    """
    from ckptsync.agent.companion import exit_by_code
    from ckptsync.agent.init import become_init

    become_init()
    config = sync_config(options)
    try:
        with telling(options, config.agent) as (observer, spans):
            code = _supervised(options, checked_run(run), checked_directory(path), command, config, observer, spans)
    finally:
        exit_by_code()
    click.get_current_context().exit(code)


def _supervised(
    options: Options,
    run: str,
    directory: Path,
    command: Sequence[str],
    config: Config,
    observer: Observer,
    spans: Traces | None,
) -> int:
    """Restore, start, wait, drain; the exit code."""
    from ckptsync.agent.agent import Agent
    from ckptsync.agent.ask import asker
    from ckptsync.agent.board import State
    from ckptsync.agent.child import Child
    from ckptsync.agent.companion import Companion
    from ckptsync.agent.notice import DRAIN
    from ckptsync.agent.watching import watching
    from ckptsync.cli.structured import spanned
    from ckptsync.clock import SYSTEM
    from ckptsync.events import Event, Kind, fan_out

    children: list[Child] = []

    def send(number: int) -> None:
        for child in children:
            child.send(number)

    def say(message: str) -> None:
        observer(Event(kind=Kind.NOTICE, message=message))

    with ExitStack() as exits:
        request_file = _request_file(exits)
        ask = asker(config.agent.ask, send_signal=send, request_file=request_file)
        agent = exits.enter_context(
            Agent(
                directory,
                run,
                config=config,
                observer=observer,
                asker=ask,
                committed=commit_teller(options, config.agent),
            )
        )
        exits.enter_context(status_page(options, config, agent, run, lambda: agent.notice(DRAIN)))
        exits.enter_context(watching(config.agent, agent.notice, signals=False))
        agent.board.entered(State.RESTORING)
        with spanned(spans, "restore"):
            recent = _bring(run, directory, config, fan_out(observer, agent.board.observe))
        agent.lookout.remember(recent)
        agent.look()  # what stands here by now is not of the command

        def start() -> Child:
            children.append(Child(command, _environ(run, directory, request_file)))
            exits.callback(children[0].kill)
            return children[0]

        companion = Companion(
            agent,
            drain_timeout_s=config.agent.drain_timeout_s,
            margin_s=config.agent.margin_s,
            clock=SYSTEM,
            say=say,
        )
        with companion.beside(start):
            agent.start()
            return companion.wait()


def _bring(run: str, directory: Path, config: Config, observer: Observer) -> Sequence[frozenset[str]]:
    """Let the newest checkpoint stand in the directory, and tell which; paths of each of the last snapshots."""
    from ckptsync.agent.startup import bring_newest
    from ckptsync.events import Event, Kind
    from ckptsync.run import open_run

    def say(message: str) -> None:
        observer(Event(kind=Kind.NOTICE, message=message))

    with open_run(run, config, observer=observer) as opened:
        begun = bring_newest(opened, directory, rule=config.agent.ready, quiet_s=config.agent.quiet_s)
    if begun.restored is not None:
        say(f"restored step {begun.restored.step} into {directory}")
        for kept in begun.restored.kept:
            say(f"what stood at {directory} before is kept in {kept}: it is in no snapshot, or could not be deleted")
    elif begun.kept is not None:
        name = "what is" if begun.kept == str(directory) else begun.kept
        say(f"{name} in {directory} stays: it is the newest snapshot, of step {begun.step}, or newer")
    else:
        say(f"no snapshot yet: {directory} stays as it is")
    if begun.aside is not None:
        say(f"what stood in {directory} beside that, half written or behind, is in {begun.aside} now")
    return begun.recent


def _request_file(exits: ExitStack) -> Path:
    """Where the trainer is asked for a last checkpoint: as the environment says, or in a folder of our own."""
    import tempfile

    from ckptsync.config import request_file

    if given := request_file():
        return Path(given)
    return Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="ckptsync-"))) / "request"


def _environ(run: str, directory: Path, request_file: Path) -> dict[str, str]:
    """What the command's environment is."""
    import os

    ours = {
        "CKPTSYNC_RUN": run,
        "CKPTSYNC_DIR": str(directory.absolute()),
        _REQUEST_FILE: str(request_file.absolute()),
    }
    return {**os.environ, **ours}
