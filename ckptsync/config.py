"""Options put together from every place they may come from; the only reader of the environment and of TOML files.

Precedence: argument > environment > TOML file > default. An option `workers` of group `transfer` is `[transfer] workers`
in TOML, `CKPTSYNC_TRANSFER_WORKERS` in the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import msgspec

from ckptsync.errors import ConfigError
from ckptsync.options import Config

_GROUPS = ("retry", "http", "s3", "gcs", "transfer", "signing", "prices", "agent")
_SIZES = (
    ("transfer", "part_bytes"),
    ("transfer", "max_bytes_per_s"),
    ("http", "stall_bytes"),
    ("agent", "min_free_bytes"),
)
_RESERVED = frozenset({"CKPTSYNC_RUN", "CKPTSYNC_DIR", "CKPTSYNC_CONFIG", "CKPTSYNC_LAUNCH", "CKPTSYNC_REQUEST_FILE"})
msgspec.json.Decoder(Config)  # works the types out now: threads may resolve at once (snapshot/envelope.py says more)
_NUMBER = r"(?P<number>[0-9]{1,18}(?:\.[0-9]{1,18})?)\s*"
_SIZE = re.compile(_NUMBER + r"(?P<unit>(?:[kmgt]i?)?)b?", re.IGNORECASE)
_DURATION = re.compile(_NUMBER + r"(?P<unit>[smhdw]?)", re.IGNORECASE)
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_size(text: str) -> int:
    """Turn `64MiB`, `1.5 GB` or `1048576` into bytes; `k`, `M`, `G`, `T` count in 1000s, `Ki`, `Mi`… in 1024s.

    Raises:
        ConfigError: it is not a size.
    """
    found = _SIZE.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"{text!r} is not a size; write it like 64MiB or 1.5GB")
    unit = found["unit"].lower()
    base = 1024 if unit.endswith("i") else 1000
    return int(Fraction(found["number"]) * base ** " kmgt".index(unit[:1] or " "))


def parse_duration(text: str) -> float:
    """Turn `90`, `30s`, `10m`, `6h`, `2d` or `1w` into seconds.

    Raises:
        ConfigError: it is not a duration.
    """
    found = _DURATION.fullmatch(text.strip())
    if not found:
        raise ConfigError(f"{text!r} is not a duration; write it like 30s, 6h or 2d")
    return float(found["number"]) * _SECONDS[found["unit"].lower()]


def launch_name(environ: Mapping[str, str] | None = None) -> str:
    """Return the name of this start of the job, the same on all of its ranks; empty when the environment tells none.

    CKPTSYNC_LAUNCH, or else what Slurm tells: job, restart count and step. torchrun tells nothing that would do: agents do not
    agree on the restart count, and it stays as it is when the number of ranks changes.

    Args:
        environ: None reads the process's own.

    Source: https://slurm.schedmd.com/sbatch.html, https://docs.pytorch.org/docs/stable/elastic/run.html
    """
    environ = os.environ if environ is None else environ
    if given := environ.get("CKPTSYNC_LAUNCH"):
        return given
    if slurm := environ.get("SLURM_JOB_ID"):
        return f"slurm-{slurm}-{environ.get('SLURM_RESTART_COUNT', '0')}-{environ.get('SLURM_STEP_ID', '')}"
    return ""


def request_file(environ: Mapping[str, str] | None = None) -> str:
    """Return the file by which a training is asked for a last checkpoint; empty where there is none.

    Args:
        environ: None reads the process's own.
    """
    return (os.environ if environ is None else environ).get("CKPTSYNC_REQUEST_FILE", "")


def _from_environment(environ: Mapping[str, str]) -> dict[str, object]:
    """Sort CKPTSYNC_* variables into option groups."""
    found: dict[str, dict[str, str]] = {}
    top: dict[str, object] = {}
    known = {f"CKPTSYNC_{name.upper()}": name for name in Config.__struct_fields__ if name not in _GROUPS}
    for name, value in environ.items():
        if not name.startswith("CKPTSYNC_") or name in _RESERVED or name.startswith("CKPTSYNC_TEST_"):
            continue
        if name in known:
            top[known[name]] = value
            continue
        group, _, option = name.removeprefix("CKPTSYNC_").lower().partition("_")
        if group not in _GROUPS:
            raise ConfigError(
                f"environment variable {name} is not an option of ckptsync; `ckptsync doctor` prints them all"
            )
        found.setdefault(group, {})[option] = value
    return {**top, **found}


def _from_toml(path: str) -> dict[str, object]:
    """Read a TOML file of option groups."""
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read configuration file {path}: {error.strerror}") from error
    except RecursionError as error:
        raise ConfigError(f"configuration file {path} is nested too deeply") from error
    except ValueError as error:  # also a number of too many digits, and a path with NUL in it
        raise ConfigError(f"configuration file {path!r} is not valid TOML: {error}") from error


def _overlay(below: dict[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """Lay one set of options over another, group by group."""
    merged = dict(below)
    for name, value in above.items():
        lower = merged.get(name)
        merged[name] = {**lower, **value} if isinstance(value, Mapping) and isinstance(lower, Mapping) else value
    return merged


def _with_bytes(options: dict[str, object]) -> dict[str, object]:
    """Let sizes be written with units."""
    for name, option in _SIZES:
        group = options.get(name)
        if isinstance(group, Mapping) and isinstance(size := group.get(option), str):
            options = {**options, name: {**group, option: parse_size(size)}}
    return options


def _with_paths(options: dict[str, object]) -> dict[str, object]:
    """Let several paths be written as one text, as in PATH. An empty one stays, and is refused: it would require nothing."""
    signing = options.get("signing")
    if isinstance(signing, Mapping) and isinstance(paths := signing.get("require"), str):
        return {**options, "signing": {**signing, "require": paths.split(os.pathsep)}}
    return options


def _in_words(problem: str) -> str:
    """Turn `Expected … - at `$.group.option`` into `group.option: expected …`."""
    what, _, where = problem.partition(" - at `$.")
    if not where:
        return problem
    values = _values(where := where.rstrip("`"))
    allowed = f"; it can be {', '.join(values)}" if values else ""
    return f"{where}: {what[:1].lower()}{what[1:]}".replace("`", "") + allowed


def _values(where: str) -> tuple[str, ...]:
    """The values an option `group.option` can have, where they are a few words."""
    group, _, option = where.partition(".")
    kind = get_type_hints(get_type_hints(Config)[group]).get(option) if group in _GROUPS else None
    return get_args(kind) if get_origin(kind) is Literal else ()


def resolve(
    arguments: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    file: str | None = None,
) -> Config:
    """Put the options together from every place they may come from.

    Args:
        arguments: nested like the TOML file; strings are converted. These win.
        environ: None reads the process's own.
        file: a TOML file; None takes CKPTSYNC_CONFIG when that is set.

    Raises:
        ConfigError: an unknown option, or a value out of its range, named.
    """
    environ = os.environ if environ is None else environ
    file = file or environ.get("CKPTSYNC_CONFIG")
    options = _from_toml(file) if file else {}
    options = _overlay(_overlay(options, _from_environment(environ)), arguments or {})
    try:
        return msgspec.convert(_with_paths(_with_bytes(options)), Config, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(f"bad option: {_in_words(str(error))}") from error
    except UnicodeEncodeError as error:
        raise ConfigError("bad option: a name or value is not valid Unicode") from error
