"""Every option, its range and default; the only reader of the environment and of TOML files.

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
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from ckptsync.errors import ConfigError

KIB, MIB = 1 << 10, 1 << 20

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
NonEmpty = Annotated[str, Meta(min_length=1)]


class Retry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often and how long a request is tried.

    Attributes:
        attempts: tries of one request, 1 or more, counted anew whenever bytes moved. Tries that the service answered by asking
            for a slower pace do not count.
        base_s: the first pause is random between 0 and this; it doubles each time (full jitter).
        cap_s: no pause is longer, unless the service asks for it by Retry-After.
        deadline_s: no new try begins this long after the first, or after bytes moved.
    """

    attempts: Count = 10
    base_s: Positive = 0.25
    cap_s: Positive = 20.0
    deadline_s: Positive = 600.0


class Http(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Time limits of one request.

    Attributes:
        connect_timeout_s: to open a connection.
        read_timeout_s: longest silence while a request is under way; the head of an answer must be whole by then.
        finish_timeout_s: longest silence while Google Cloud Storage puts an upload's parts together, for which it may take minutes.
        stall_timeout_s: content must move by at least `stall_bytes` in any so many seconds, or the connection is given up.
        stall_bytes: 1 or more; below that rate, what arrives does not count as progress that lets `retry` start anew.
    """

    connect_timeout_s: Positive = 10.0
    read_timeout_s: Positive = 60.0
    finish_timeout_s: Positive = 600.0
    stall_timeout_s: Positive = 60.0
    stall_bytes: Count = 64 * KIB


class S3(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Amazon S3 and services that speak its protocol.

    Attributes:
        endpoint_url: another service's address; None leaves it to boto3 (which honours AWS_ENDPOINT_URL[_S3]).
        region: None leaves it to boto3.
        profile: a named profile of the AWS configuration files.
        addressing: `path` puts the bucket into the path; `auto` does so when `endpoint_url` is set.
        checksum: sent with every part and compared with what the service stored. `auto` is `crc64nvme`, quietly unchecked on
            services that do not answer with it; `none` sends no checksum header at all.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    checksum: Literal["auto", "crc64nvme", "none"] = "auto"


class Gcs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Google Cloud Storage.

    Attributes:
        endpoint_url: another address; None honours STORAGE_EMULATOR_HOST, else the real service.
        project: billing project; None leaves it to the credentials.
        anonymous: send no credentials; set by itself when an emulator is used.
    """

    endpoint_url: str | None = None
    project: str | None = None
    anonymous: bool = False


def processors() -> int:
    """How many this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


class Transfer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How bytes are moved.

    Attributes:
        part_bytes: size of a part, 5 MiB to 5 GiB; larger where a file would need more parts than the store takes.
        workers: parts in flight, 1 to 256; memory is bounded by `workers * part_bytes`, and twice that where files are packed. None
            begins with one for each processor and has more while that is faster: up to 32 in the memory of 8.
        processes: that move files of up to 1 MiB where there are thousands of them, 1 to 64. None has one for each processor,
            4 at most, but only this one where `workers` is set. A cap on the rate leaves everything to one.
        copy_unchanged: copy parts the previous snapshot has on the server instead of sending them.
        compress: `zstd` packs files where a sample of them shows that it saves a tenth or more; what is packed can be read
            by ckptsync alone, and needs the extra `zstd` on both sides.
        max_bytes_per_s: cap on payload, up and down together, 1 MiB or more a second; None for none.
        reread_source: read every file again before the commit. Without it a change is noticed by the file's times, which
            the kernel sets late, or on tmpfs never, when a file is written to through a memory map.
    """

    part_bytes: Annotated[int, Meta(ge=5 * MIB, le=5 << 30)] = 16 * MIB
    workers: Annotated[int, Meta(ge=1, le=256)] | None = None
    processes: Annotated[int, Meta(ge=1, le=64)] | None = None
    copy_unchanged: bool = True
    compress: Literal["none", "zstd"] = "none"
    max_bytes_per_s: Annotated[int, Meta(ge=MIB)] | None = None
    reread_source: bool = False

    @property
    def parts_in_flight(self) -> int:
        """Whole parts that are moved at once, and that memory is for."""
        return 8 if self.workers is None else self.workers

    @property
    def threads(self) -> tuple[int, int]:
        """How many a transfer begins with: one for each processor, but 2 at least and 8 at most; and how many it may have."""
        return (max(2, min(processors(), 8)) if self.workers is None else self.workers), self.most_workers

    @property
    def most_workers(self) -> int:
        """Threads that there may be, of which each has a file or a part."""
        return 32 if self.workers is None else self.workers


class Signing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Signatures of manifests, with Ed25519 keys.

    Attributes:
        key: path of a private key in PEM; everything that is committed is signed with it.
        require: paths of public keys in PEM, several joined by `:` where they are one text; a manifest without a valid
            signature by one of them is refused.
    """

    key: NonEmpty | None = None
    require: tuple[NonEmpty, ...] = ()


class Prices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `ckptsync report` reckons with, in any one currency. What is not set is taken from the cloud's list.

    Attributes:
        gib_month: a GiB kept for a month.
        writes_per_1000: a thousand requests that write or list.
        reads_per_1000: a thousand requests that read.
    """

    gib_month: Annotated[float, Meta(ge=0)] | None = None
    writes_per_1000: Annotated[float, Meta(ge=0)] | None = None
    reads_per_1000: Annotated[float, Meta(ge=0)] | None = None


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be set.

    Attributes:
        single_writer: the caller vouches that nobody else writes to the run; needed where a store cannot prove
            conditional puts.
        state_dir: where journals lie; None is `$XDG_STATE_HOME/ckptsync`, or `~/.local/state/ckptsync`.
    """

    retry: Retry = Retry()
    http: Http = Http()
    s3: S3 = S3()
    gcs: Gcs = Gcs()
    transfer: Transfer = Transfer()
    signing: Signing = Signing()
    prices: Prices = Prices()
    single_writer: bool = False
    state_dir: str | None = None

    def state_path(self) -> Path:
        """Return the directory for journals; it may not exist yet."""
        if self.state_dir:
            return Path(self.state_dir)
        base = os.environ.get("XDG_STATE_HOME") or str(Path("~/.local/state").expanduser())
        return Path(base) / "ckptsync"


_GROUPS = ("retry", "http", "s3", "gcs", "transfer", "signing", "prices")
_SIZES = (("transfer", "part_bytes"), ("transfer", "max_bytes_per_s"), ("http", "stall_bytes"))
_RESERVED = frozenset({"CKPTSYNC_RUN", "CKPTSYNC_DIR", "CKPTSYNC_CONFIG", "CKPTSYNC_LAUNCH"})
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
