"""How the program ends: one sentence on stderr and an exit code, never a traceback that nobody asked for."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from ckptsync.cli.options import Options
from ckptsync.cli.output import one_line, say
from ckptsync.errors import CkptsyncError, DiskError
from ckptsync.redaction import redacted

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_RESUMABLE = frozenset({"save", "restore"})
_TRACEBACK = 2
"""Times `-v` must be given for a traceback."""
INTERRUPTED = frozenset(128 + number for number in _SIGNALS)
"""Exit codes that mean: a signal ended it."""


class Stopped(KeyboardInterrupt):
    """A signal asked us to stop; unwinds like Ctrl-C, so that locks and the terminal are left in order."""

    def __init__(self, number: int) -> None:
        """Keep which one it was."""
        super().__init__(number)
        self.number = number


def stop_on_signals() -> None:
    """Turn SIGTERM and SIGHUP into `Stopped` from now on; one that the caller had ignored (nohup) stays ignored."""

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise Stopped(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, stop)


@contextmanager
def sentences(ctx: click.Context | None = None) -> Iterator[None]:
    """Turn whatever is raised inside into a sentence on stderr and click's `Exit`.

    Args:
        ctx: of the program; with `-vv` given a traceback goes before the sentence. None while options are still parsed.

    Raises:
        Exit: something was raised.
    """
    try:
        yield
    except (click.exceptions.Exit, BrokenPipeError):  # click ends quietly when nobody reads stdout any more
        raise
    except (Exception, KeyboardInterrupt) as error:
        options = ctx.find_object(Options) if ctx else None
        if options and options.verbosity >= _TRACEBACK and not isinstance(error, click.ClickException):
            import traceback

            say(redacted("".join(traceback.format_exception(error))))
        text, code = _verdict(error, ctx.invoked_subcommand if ctx else None)
        if not (isinstance(error, CkptsyncError) and error.was_told):
            say(f"ckptsync: {one_line(redacted(text))}\n")
        raise click.exceptions.Exit(code) from error


def _verdict(error: BaseException, verb: str | None) -> tuple[str, int]:
    """Sentence and exit code of an error."""
    if isinstance(error, CkptsyncError):
        return str(error), error.exit_code
    if isinstance(error, click.UsageError):
        return _usage(error), error.exit_code
    if isinstance(error, click.ClickException):
        return error.format_message(), error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        number = signal.Signals(error.number if isinstance(error, Stopped) else signal.SIGINT)
        hint = "; what was transferred is kept, run the same command again to continue" if verb in _RESUMABLE else ""
        return f"stopped by {number.name}{hint}", 128 + number
    if isinstance(error, OSError):
        where = f": {error.filename}" if error.filename else ""
        return f"{error.strerror or error}{where}", DiskError.exit_code
    what = f"unexpected {type(error).__name__}: {error}"
    return f"{what}; please report it, with what the same command prints with -vv", CkptsyncError.exit_code


def _usage(error: click.UsageError) -> str:
    """What is wrong with the arguments, and where help is."""
    path = error.ctx.command_path if error.ctx else "ckptsync"
    message = error.format_message().strip().rstrip(".")
    if not message[:2].isupper():
        message = f"{message[:1].lower()}{message[1:]}"
    return f"{message}; `{path} --help` tells more"
