"""The program `ckptsync`: its verbs, each loaded when it is called."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, TextIO

import click

import ckptsync
from ckptsync.cli.ending import INTERRUPTED, sentences, stop_on_signals
from ckptsync.cli.options import Options, speech

_VERBS = {
    "Move checkpoints": {
        "save": ("transfer", "Commit a file or directory as the newest snapshot."),
        "restore": ("transfer", "Bring the newest good snapshot back, whole and verified."),
        "export": ("export", "Make one file of a snapshot: weights or an archive."),
        "adopt": ("transfer", "Make a snapshot of objects that are in the bucket already."),
    },
    "Beside a training": {
        "run": ("run", "Restore the newest checkpoint, run a command, commit what it writes."),
        "agent": ("agent", "Commit every checkpoint of a directory while a training writes them."),
    },
    "Look": {
        "ls": ("inspect", "List the snapshots of a run, the newest first."),
        "show": ("inspect", "Show what a snapshot holds and where it comes from."),
        "diff": ("inspect", "Compare two snapshots."),
        "status": ("inspect", "Tell the newest step, its age, who writes and what is pending."),
        "report": ("report", "Tell what a run took, and what interruptions lost."),
        "verify": ("inspect", "Read a snapshot again and check every digest."),
    },
    "Keep": {
        "promote": ("keep", "Let a name stand for a snapshot."),
        "pin": ("keep", "Keep a snapshot from retention and rm."),
        "unpin": ("keep", "Leave a snapshot to retention again."),
        "rm": ("keep", "Delete a snapshot."),
        "gc": ("keep", "Delete what retention does not keep, and what killed saves left."),
    },
    "Check": {
        "doctor": ("check", "Prove that the bucket does what ckptsync needs."),
        "bench": ("check", "Measure upload, download and verify rates."),
        "completion": ("completion", "Print the completion script for a shell: bash, zsh or fish."),
    },
}
_LAST_STREAM = 2
_PLACES = {name: place for section in _VERBS.values() for name, place in section.items()}


class Program(click.Group):
    """A group that knows its verbs by name and short help, and whose errors are sentences."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of help."""
        del ctx
        return list(_PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb; None when there is no such verb."""
        del ctx
        if cmd_name not in _PLACES:
            return None
        module = import_module(f"ckptsync.cli.{_PLACES[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs by section without importing them."""
        del ctx
        width = max(map(len, _PLACES))
        for title, verbs in _VERBS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), short_help) for name, (_, short_help) in verbs.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the verb, or tell which one may have been meant."""
        name = args[0]
        if name not in _PLACES and not name.startswith("-") and not ctx.resilient_parsing:
            from difflib import get_close_matches

            close = get_close_matches(name, _PLACES, n=1)
            ctx.fail(f"there is no verb {name!r}" + (f" (did you mean {close[0]!r}?)" if close else ""))
        return super().resolve_command(ctx, args)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what stands before the verb; nothing at all means help."""
        return super().parse_args(ctx, args if args or ctx.resilient_parsing else ["--help"])

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click, but a wrong option is one sentence."""
        with sentences():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb; whatever goes wrong is one sentence and an exit code."""
        with sentences(ctx):
            return super().invoke(ctx)


@click.group(
    cls=Program,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "RUN is s3://bucket/prefix, gs://bucket/prefix, file:///directory, a plain directory, or any URL that fsspec "
        "understands; left out, it is $CKPTSYNC_RUN. SNAP is a snapshot id, a step, latest, best:METRIC:min, "
        "best:METRIC:max, or a name set with promote. Exit codes: 0 done, 2 bad argument, 3 the bucket refused or failed, "
        "4 damaged, 5 a newer writer owns the run, 6 no such snapshot, 7 incomplete, 8 local disk, 75 not all is durable."
    ),
)
@click.version_option(ckptsync.__version__, "--version", prog_name="ckptsync", message="%(prog)s %(version)s")
@speech
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Checkpoints to S3 and Google Cloud Storage and back: committed or absent, resumed after a kill, verified before use."""
    ctx.ensure_object(Options)


def _fill_gaps() -> None:
    """Open what the caller closed of stdin, stdout and stderr: else the next file that is opened would be taken for one of them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STREAM:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _let_go(stream: TextIO | None) -> None:
    """Write out what a stream holds; where it is full, drop that, or Python would try once more and end with a code of its own (120)."""
    if stream is None:
        return
    try:
        stream.flush()
    except OSError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except ValueError:  # closed
        return


def main() -> None:
    """Run the command line and exit."""
    _fill_gaps()
    stop_on_signals()
    try:
        cli.main(prog_name="ckptsync")
    except SystemExit as end:
        if end.code:
            for stream in (sys.stdout, sys.stderr):
                _let_go(stream)
        if end.code not in INTERRUPTED:
            raise
        os._exit(end.code)  # an orderly exit would wait for threads whose requests may last for minutes
