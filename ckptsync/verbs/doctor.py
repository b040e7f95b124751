"""Doctor: proves by doing that a bucket and this machine can do what saves and restores need, and says what is missing."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Any

import msgspec

from ckptsync.errors import (
    CkptsyncError,
    ConfigError,
    CredentialsError,
    DeniedError,
    NoSnapshotError,
    UnsupportedError,
)
from ckptsync.options import SECRETS, Config
from ckptsync.redaction import redacted
from ckptsync.run import Run
from ckptsync.verbs import doctor_checks as bucket
from ckptsync.verbs.doctor_checks import Finding, Probe, State
from ckptsync.verbs.verify import verify

_PACKAGES = (
    "ckptsync",
    "blake3",
    "msgspec",
    "boto3",
    "botocore",
    "awscrt",
    "google-cloud-storage",
    "fsspec",
    "cryptography",
    "zstandard",
    "torch",
)
_A_FEW_PERCENT = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finding.

    Attributes:
        name: what was tried.
        state: `warn` works with less, or was not tried; `fail` must be put right.
        detail: a sentence; `configuration` has one option a line.
    """

    name: str
    state: State
    detail: str


# Name, check, and the checks that must not have failed before.
_BUCKET: tuple[tuple[str, Callable[[Probe], Finding], tuple[str, ...]], ...] = (
    ("put", bucket.can_put, ()),
    ("get", bucket.can_get, ("put",)),
    ("range", bucket.can_get_range, ("put", "get")),
    ("stat", bucket.can_stat, ("put",)),
    ("conditional put", bucket.puts_conditionally, ("put",)),
    ("race", bucket.has_one_winner, ("put", "conditional put")),
    ("multipart", bucket.has_multipart, ("put",)),
    ("uploads", bucket.lists_uploads, ("put",)),
    ("abort", bucket.aborts, ("put",)),
    ("copy", bucket.copies, ("put",)),
    ("copy part", bucket.copies_parts, ("multipart",)),
    ("odd key", bucket.takes_odd_keys, ("put", "get")),
    ("clock", bucket.agrees_on_time, ("put", "stat")),
    ("upload rate", bucket.sends_at, ("put",)),
    ("download rate", bucket.receives_at, ("get", "upload rate")),
    ("delete", bucket.deletes, ("put",)),
)


def diagnose(run: Run) -> Iterator[Check]:
    """Yield one finding after another, as they are made. What was put into the bucket is deleted again.

    A right that is missing is named, and the other checks go on. When the bucket cannot be reached at all, only this
    machine is looked at. Raises nothing of ours.

    Args:
        run: where; it need not hold anything yet.
    """
    reached, reach = _reach(run)
    yield reach
    if reached:
        yield from _bucket(run)
        yield _check("newest snapshot", partial(_newest, run))
    yield _check("signing", partial(_signing, run))
    yield _check("state directory", partial(_state_directory, run.config))
    yield Check(name="versions", state="ok", detail=_versions())
    yield Check(name="configuration", state="ok", detail=_configuration(run))


def _reach(run: Run) -> tuple[bool, Check]:
    """Whether it makes sense to ask the bucket anything, and the first finding."""
    probe = Probe(run)
    try:
        state, detail = bucket.can_list(probe)
    except DeniedError as error:  # other rights may be there
        return True, Check(name="list", state="fail", detail=_missing(error))
    except CredentialsError as error:
        hint = "; in a container on EC2, the metadata service needs a hop limit of 2" if _is_s3(run) else ""
        return False, Check(name="list", state="fail", detail=f"{error}{hint}")
    except CkptsyncError as error:
        return False, Check(name="list", state="fail", detail=str(error))
    return True, Check(name="list", state=state, detail=detail)


def _is_s3(run: Run) -> bool:
    return run.url.startswith("s3://")


def _bucket(run: Run) -> Iterator[Check]:
    """Everything that is tried in the bucket."""
    failed: set[str] = set()
    with _probing(run) as probe:
        for name, check, needs in _BUCKET:
            if missing := [need for need in needs if need in failed]:
                made = Check(name=name, state="warn", detail=f"not tried, because {missing[0]!r} failed")
                failed.add(name)
            else:
                made = _check(name, partial(check, probe))
            if made.state == "fail":
                failed.add(name)
            yield made


@contextmanager
def _probing(run: Run) -> Iterator[Probe]:
    """Lend a folder in the bucket, and clear it whatever happens; what cannot be deleted has been told by then."""
    probe = Probe(run)
    try:
        yield probe
    finally:
        with suppress(CkptsyncError):
            probe.clean_up()


def _check(name: str, check: Callable[[], Finding]) -> Check:
    """Do one check; whatever it raises is its finding."""
    try:
        state, detail = check()
    except DeniedError as error:
        return Check(name=name, state="fail", detail=_missing(error))
    except UnsupportedError as error:
        return Check(name=name, state="warn", detail=str(error))
    except (CkptsyncError, OSError) as error:
        return Check(name=name, state="fail", detail=str(error))
    return Check(name=name, state=state, detail=detail)


def _missing(error: DeniedError) -> str:
    """A finding about a right; the store's sentence names it."""
    return f"a right is missing: {error}"


def _newest(run: Run) -> Finding:
    """Read the newest snapshot's manifest and one part of it."""
    try:
        found = verify(run, percent=_A_FEW_PERCENT)
    except NoSnapshotError:
        return "ok", "there is no snapshot yet"
    if found.bad:
        bad = found.bad[0]
        return "fail", f"snapshot {found.snapshot} is damaged: {bad.path}: {bad.reason}; run `verify`"
    return "ok", f"snapshot {found.snapshot} can be read ({found.parts_checked} of {found.parts_total} parts tried)"


def _signing(run: Run) -> Finding:
    """Which keys are in force."""
    keys = run.catalog.keys
    signs = (
        f"what this machine commits is signed by {keys.signer.public.id}" if keys.signer else "nothing is signed here"
    )
    if not keys.required:
        return "ok", f"{'on' if keys.signer else 'off'}: {signs}, and signatures are not looked at"
    asked = f"manifests must be signed by {' or '.join(key.id for key in keys.required)}"
    try:
        keys.check_can_commit()
    except ConfigError as error:
        return "warn", f"{asked}; this machine can restore and not save: {error}"
    return "ok", f"on: {signs}, and {asked}"


def _state_directory(config: Config) -> Finding:
    """Write a file where journals will lie."""
    folder = config.state_path()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"journal")
            file.flush()
    except OSError as error:
        return "warn", (
            f"journals cannot be written to {folder} ({error.strerror}): a killed save is continued from the bucket's own "
            "records, more slowly; set state_dir"
        )
    return "ok", f"{folder} can be written to, {shutil.disk_usage(folder).free >> 20} MiB are free"


def _versions() -> str:
    """What is installed."""
    found = [f"python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _configuration(run: Run) -> str:
    """Every option in force, one a line; credentials inside addresses are left out."""
    lines = [f"run = {redacted(run.url)}"]
    options: dict[str, Any] = msgspec.to_builtins(run.config)
    for name, value in options.items():
        group = value.items() if isinstance(value, dict) else ()
        lines += [f"{name}.{option} = {_shown(setting, secret=option in SECRETS)}" for option, setting in group]
        lines += [] if group else [f"{name} = {_shown(value)}"]
    return "\n".join(lines)


def _shown(value: object, *, secret: bool = False) -> str:
    """An option's value as TOML would have it; of a secret, only that there is one."""
    if value is None:
        return "unset"
    if secret:
        return "(hidden)"
    return redacted(msgspec.json.encode(value).decode())
