"""What every verb takes: options that change how it speaks, options that set configuration, and positions it shares."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from ckptsync.run import Run

_Function = TypeVar("_Function", bound="Callable[..., Any] | click.Command")
_Callback = Callable[[click.Context, click.Parameter, Any], Any]

_VARIABLES = {"run": "CKPTSYNC_RUN", "path": "CKPTSYNC_DIR"}
MAX_STEP = 10**12 - 1


class Decorator(Protocol):
    """Adds options or arguments to a verb."""

    def __call__(self, function: _Function, /) -> _Function:
        """Return the verb with them."""
        ...


@dataclass(slots=True)
class Options:
    """How to speak, and what to set; filled in while click parses, before the verb and behind it.

    Attributes:
        as_json: results as JSON, nothing else on stdout.
        quiet: no progress, no notices, no sentence for work that went well.
        verbose: how often `-v` was given.
        config_file: a TOML file; None leaves it to CKPTSYNC_CONFIG.
        settings: values by their place in the configuration, as in `transfer.workers`.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: int = 0
    config_file: str | None = None
    settings: dict[str, object] = field(default_factory=dict)

    @property
    def verbosity(self) -> int:
        """-1 for quiet, 0, or how often `-v` was given."""
        return -1 if self.quiet else self.verbose

    def done(self, result: object, *lines: str) -> None:
        """Print the result of work that went well: JSON, or lines unless quiet.

        Raises:
            DiskError: it cannot be printed; says that the work is done all the same.
        """
        from ckptsync.errors import DiskError

        try:
            if self.as_json or not self.quiet:
                self.answer(result, *lines)
        except BrokenPipeError:
            raise
        except OSError as error:
            done = lines[0] if lines else "it went well"
            raise DiskError(f"printing the result failed ({error.strerror}), but the work is done: {done}") from error

    def answer(self, result: object, *lines: str) -> None:
        """Print what was asked for: JSON, or lines."""
        from ckptsync.cli.output import print_json, print_lines

        if self.as_json:
            print_json(result)
        else:
            print_lines(lines)


@contextmanager
def opened(options: Options, url: str, *, doing: str = "") -> Iterator[Run]:
    """Open a run with the options in force, for as long as the `with` block lasts.

    Args:
        options: as parsed.
        url: the run.
        doing: what the progress bar says, as in `saving`; empty shows no progress.

    Raises:
        ConfigError: an option or the URL cannot be used.
    """
    from ckptsync.cli.progress import reporting
    from ckptsync.config import resolve
    from ckptsync.errors import ConfigError
    from ckptsync.run import open_run

    if url.startswith("memory://"):
        raise ConfigError("a memory:// run ends with this process; name a bucket or a directory")
    config = resolve(nested(options.settings), file=options.config_file)
    with reporting(options.verbosity, doing) as observer, open_run(url, config, observer=observer) as run:
        yield run


def nested(settings: Mapping[str, object]) -> dict[str, object]:
    """Sort `group.option` settings into groups, as the TOML file has them.

    Raises:
        ConfigError: a group is set as if it were an option.
    """
    from ckptsync.errors import ConfigError

    groups: dict[str, dict[str, object]] = {}
    top: dict[str, object] = {}
    for place, value in settings.items():
        group, _, option = place.rpartition(".")
        (groups.setdefault(group, {}) if group else top)[option] = value
    if both := groups.keys() & top.keys():
        raise ConfigError(f"{min(both)!r} is a group of options; set one of them, as in {min(both)}.NAME=VALUE")
    return {**top, **groups}


def stacked(*decorators: Decorator) -> Decorator:
    """Join decorators into one, in the order of help."""

    def decorate(function: _Function) -> _Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def converted(convert: Callable[[Any], Any]) -> _Callback:
    """Return a callback that converts a value; what `convert` refuses with a ValueError is a usage error."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
        try:
            return None if value is None else convert(value)
        except ValueError as error:
            raise click.BadParameter(str(error), ctx, param) from error

    return callback


def parsed_size(text: str) -> int:
    """As `ckptsync.config.parse_size`, imported on use."""
    from ckptsync.config import parse_size

    return parse_size(text)


def parsed_duration(text: str) -> float:
    """As `ckptsync.config.parse_duration`, imported on use."""
    from ckptsync.config import parse_duration

    return parse_duration(text)


def pairs(convert: Callable[[str], Any]) -> Callable[[Sequence[str]], dict[str, Any]]:
    """Return a conversion of repeated `NAME=VALUE` to a mapping; the last of a name wins."""

    def collect(texts: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for text in texts:
            name, equals, value = text.partition("=")
            if not equals or not name:
                raise ValueError(f"{text!r} is not like NAME=VALUE")
            try:
                found[name] = convert(value)
            except ValueError as error:
                raise ValueError(f"{value!r} in {text!r} is not a number") from error
        return found

    return collect


def sets(place: str, convert: Callable[[Any], Any] = lambda value: value) -> _Callback:
    """Return a callback that puts a value into the configuration when it was given."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        value = converted(convert)(ctx, param, value)
        if value is not None:
            ctx.ensure_object(Options).settings[place] = value

    return callback


def _sets_endpoint(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    """Set the address for whichever service the run is on."""
    for group in ("s3", "gcs"):
        sets(f"{group}.endpoint_url")(ctx, param, value)


def _sets_any(ctx: click.Context, param: click.Parameter, values: Sequence[str]) -> None:
    """Set options by their place."""
    ctx.ensure_object(Options).settings.update(converted(pairs(str))(ctx, param, values))


def _speaks(change: Callable[[Options, Any], None]) -> _Callback:
    """Return a callback that changes how we speak, when the option was given."""

    def callback(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        del param
        options = ctx.ensure_object(Options)
        if value:
            change(options, value)

    return callback


def _json(options: Options, value: bool) -> None:  # noqa: FBT001  click's callbacks take values by position
    options.as_json = value


def _quiet(options: Options, value: bool) -> None:  # noqa: FBT001  click's callbacks take values by position
    options.quiet = value


def _verbose(options: Options, value: int) -> None:
    options.verbose += value


def _config(options: Options, value: str) -> None:
    options.config_file = value


def option(*names: str, callback: _Callback, **settings: Any) -> Decorator:
    """Make an option whose value goes into `Options`, not to the verb."""
    return click.option(*names, expose_value=False, callback=callback, **settings)


speech: Decorator = stacked(
    option("--json", is_flag=True, callback=_speaks(_json), help="Print JSON, and nothing else, on stdout."),
    option("-q", "--quiet", is_flag=True, callback=_speaks(_quiet), help="Print errors and what was asked for only."),
    option("-v", "--verbose", count=True, callback=_speaks(_verbose), help="Tell more; -vv adds tracebacks."),
    option(
        "--config",
        metavar="FILE",
        type=click.Path(),
        callback=_speaks(_config),
        help="Read options from a TOML file.  [default: $CKPTSYNC_CONFIG]",
    ),
)
"""Options of every verb, which may also stand before the verb."""

store: Decorator = stacked(
    speech,
    option("--endpoint-url", metavar="URL", callback=_sets_endpoint, help="Another service's address."),
    option("--region", callback=sets("s3.region"), help="S3 region."),
    option("--profile", callback=sets("s3.profile"), help="Profile of the AWS configuration files."),
    option("--project", callback=sets("gcs.project"), help="Google Cloud project that is billed."),
    option(
        "--single-writer",
        is_flag=True,
        default=None,
        callback=sets("single_writer"),
        help="Vouch that nobody else writes to the run; needed where a store lacks conditional puts.",
    ),
    option(
        "--set",
        metavar="GROUP.OPTION=VALUE",
        multiple=True,
        callback=_sets_any,
        help="Set any option, as in retry.deadline_s=60; `ckptsync doctor` prints them all.",
    ),
)
"""Options of every verb that works on a run."""

workers: Decorator = option(
    "--workers",
    metavar="N",
    type=click.IntRange(1, 256),
    callback=sets("transfer.workers"),
    help="Parts in flight; bounds memory together with the part size.",
)
part_size: Decorator = option(
    "--part-size",
    "--part",
    metavar="SIZE",
    callback=sets("transfer.part_bytes", parsed_size),
    help="Size of a part, as in 64MiB; 5 MiB to 5 GiB.",
)
max_rate: Decorator = option(
    "--max-rate",
    metavar="SIZE",
    callback=sets("transfer.max_bytes_per_s", parsed_size),
    help="Cap on payload a second, up and down together, as in 50MiB; 1 MiB or more.",
)
state_dir: Decorator = option(
    "--state-dir",
    metavar="DIR",
    type=click.Path(),
    callback=sets("state_dir"),
    help="Where journals lie.  [default: ~/.local/state/ckptsync]",
)
copy: Decorator = option(
    "--copy/--no-copy",
    default=None,
    callback=sets("transfer.copy_unchanged"),
    help="Copy unchanged parts on the server instead of sending them.  [default: copy]",
)

compress: Decorator = option(
    "--compress",
    type=click.Choice(["none", "zstd"]),
    callback=sets("transfer.compress"),
    help="Pack files where a sample shows that it saves a tenth or more; ranks do not.  [default: none]",
)


class Positional(click.Argument):
    """A position every call must fill; RUN and PATH may come from the environment instead."""


def positional(name: str, *, shown: str = "") -> Decorator:
    """Return an argument of that name, shown in capitals, or as another word."""
    return click.argument(
        name,
        cls=Positional,
        required=False,
        metavar=shown or name.upper(),
        envvar=_VARIABLES.get(name),
        type=click.Path(),
    )


def place(wanted: Sequence[str], given: Sequence[str], variables: Mapping[str, str]) -> dict[str, str]:
    """Decide which position each given argument fills when some were left out.

    What is missing comes from the environment, `run` before `path`; a URL is never a `path`.

    Args:
        wanted: names of all positions, in order.
        given: arguments, in order, no more than positions.
        variables: values from the environment by position.

    Returns:
        Values by name; names that nothing fills are left out.
    """
    first = ("path", "run") if any("://" in text for text in given) else ("run", "path")
    missing = len(wanted) - len(given)
    filled = {name: variables[name] for name in first if name in wanted and name in variables}
    filled = dict(list(filled.items())[:missing])
    rest = [name for name in wanted if name not in filled]
    return {**filled, **dict(zip(rest, given, strict=False))}


class Verb(click.Command):
    """A verb whose RUN and PATH may be left out when CKPTSYNC_RUN and CKPTSYNC_DIR are set."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, then move the arguments to the positions they are meant for."""
        rest = super().parse_args(ctx, args)
        wanted = {str(param.name): param for param in self.params if isinstance(param, Positional)}
        given = [ctx.params[name] for name in wanted if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        variables = {name: str(value) for name, param in wanted.items() if (value := param.value_from_envvar(ctx))}
        filled = place(list(wanted), given, variables)
        for name, param in wanted.items():
            if name not in filled and not ctx.resilient_parsing:
                or_set = f", and {_VARIABLES[name]} is not set" if name in _VARIABLES else ""
                raise click.UsageError(f"{param.metavar} is missing{or_set}", ctx)
            ctx.params[name] = filled.get(name)
        return rest


def verb(*decorators: Decorator, kind: type[click.Command] = Verb) -> Callable[[Callable[..., None]], click.Command]:
    """Turn a function `(options, ...)` into a verb with these arguments and options."""

    def decorate(function: Callable[..., None]) -> click.Command:
        return click.command(cls=kind)(stacked(*decorators)(click.pass_obj(function)))

    return decorate
