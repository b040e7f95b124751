"""The verbs a script needs, each opening and closing the run by itself."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from ckptsync.errors import ConfigError
from ckptsync.events import Observer, log_observer
from ckptsync.options import Config
from ckptsync.run import Run, open_run
from ckptsync.snapshot import layout
from ckptsync.snapshot.manifest import Manifest
from ckptsync.tenure import ours
from ckptsync.verbs.export import ARCHIVES, Exported, export_archive
from ckptsync.verbs.ranks import Rank, save_rank
from ckptsync.verbs.restore import Restored
from ckptsync.verbs.restore import restore as restore_from
from ckptsync.verbs.save import Saved
from ckptsync.verbs.save import save as save_to


def save(
    path: str | Path,
    run: str,
    *,
    step: int,
    metrics: Mapping[str, float] | None = None,
    meta: Mapping[str, str] | None = None,
    alias: str | None = None,
    fingerprint: str = "",
    rank: Rank | None = None,
    config: Config | None = None,
    observer: Observer = log_observer,
) -> Saved:
    """Commit a file or directory as the newest snapshot of a run; blocks until it is durable.

    Called again after a kill, with the same path, run and step, it sends only what is missing. The first call of a process
    takes the run over; a later one fails when a newer writer has done so since. Threads that save to one run take turns.

    Args:
        path: a file or a directory, at rest until this returns.
        run: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///dir`, a plain directory, or any URL fsspec understands.
        step: training step, 0 to 999 999 999 999.
        metrics: numbers to choose by later, as in `best:loss:min`.
        meta: free text by name.
        alias: a name that shall stand for the snapshot.
        fingerprint: a digest of the training configuration, kept in the manifest.
        rank: which of the processes we are that save this step together; None when we save it alone.
        config: None resolves environment, TOML file and defaults.
        observer: told of every part; the default logs what people must see.

    Raises:
        ConfigError: an argument cannot be used; nothing was touched.
        SourceChangedError: the path was written to meanwhile; nothing was committed.
        IncompleteError: other ranks have not saved their part in time; nothing was committed.
        FencedError: a newer writer owns the run; nothing was committed.
        StoreError: the bucket failed for good; nothing was committed, and the next call continues.
    """
    step = layout.checked_step(step)
    with _opened(run, config, observer) as opened:
        tenure = ours(opened.place)
        if rank is not None:
            return save_rank(
                opened,
                _named(path),
                rank,
                step=step,
                metrics=metrics or {},
                meta=meta or {},
                alias=alias,
                fingerprint=fingerprint,
                tenure=tenure,
            )
        return save_to(
            opened,
            _named(path),
            step=step,
            metrics=metrics or {},
            meta=meta or {},
            alias=alias,
            fingerprint=fingerprint,
            tenure=tenure,
        )


def restore(
    run: str,
    path: str | Path,
    *,
    snapshot: str | int = "latest",
    include: Sequence[str] = (),
    fallback: bool = True,
    config: Config | None = None,
    observer: Observer = log_observer,
) -> Restored:
    """Let the newest good snapshot of a run appear at `path`, whole and verified, or leave `path` as it was.

    Called again after a kill, it fetches only what is missing.

    Args:
        run: as for `save`.
        path: where to; a directory in use is replaced in one step.
        snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias.
        include: shell patterns on relative paths; none means everything.
        fallback: with `latest`, take the next older snapshot when one is damaged or quarantined.
        config: None resolves environment, TOML file and defaults.
        observer: told of every part; the default logs what people must see.

    Raises:
        NoSnapshotError: there is none: start from zero.
        IntegrityError: every snapshot tried was bad.
        ConfigError: an argument cannot be used.
        DiskError: the disk is full or read-only.
        StoreError: the bucket failed for good; the next call continues.
    """
    if not isinstance(snapshot, str):
        snapshot = str(_whole(snapshot))
    with _opened(run, config, observer) as opened:
        return restore_from(opened, _named(path), snapshot=snapshot, include=include, fallback=fallback)


def export(
    run: str,
    out: str | Path,
    *,
    snapshot: str | int = "latest",
    item: str | None = None,
    dtype: str | None = None,
    strip_prefix: str = "",
    fallback: bool = True,
    config: Config | None = None,
    observer: Observer = log_observer,
) -> Exported:
    """Make one file of a snapshot: the weights of an item, or an archive of all of it. It appears whole and verified, or not at all.

    Called again, it replaces what stands at `out`.

    Args:
        run: as for `save`.
        out: what ends in `.safetensors` gets the tensors of an item, for which PyTorch must be installed; what ends in `.tar` or
            `.tar.zst`, every file.
        snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias.
        item: of weights: an item's name, a file's path, or either with keys behind it, as in `state.model`; None takes the only one.
        dtype: of weights: what floating-point numbers become, `float64`, `float32`, `float16` or `bfloat16`; None leaves them.
        strip_prefix: of weights: taken off each tensor's name that begins with it, as in `module.`.
        fallback: with `latest`, take the next older snapshot when one is damaged or quarantined.
        config: None resolves environment, TOML file and defaults.
        observer: told of every part; the default logs what people must see.

    Raises:
        NoSnapshotError: there is none, or not the one asked for.
        IntegrityError: every snapshot tried was bad.
        ConfigError: an argument cannot be used.
        DiskError: the disk is full or read-only.
        StoreError: the bucket failed for good.
    """
    if not isinstance(snapshot, str):
        snapshot = str(_whole(snapshot))
    options = {"item": item, "dtype": dtype, "strip_prefix": strip_prefix}
    with _opened(run, config, observer) as opened:
        return export_to(opened, _named(out), snapshot=snapshot, fallback=fallback, **options)


def export_to(run: Run, out: Path, *, snapshot: str, fallback: bool = True, **weights: Any) -> Exported:
    """As `export`, from a run that is open; `weights` is what it takes of weights.

    Raises:
        ConfigError: `out` says neither, or what is only of weights was given for an archive.
        CkptsyncError: as `export` raises.
    """
    if out.suffix == ".safetensors":
        try:
            from ckptsync.state.export import export_weights  # noqa: PLC0415  torch is an extra
        except ImportError as error:
            raise ConfigError("exporting weights needs PyTorch: pip install 'ckptsync[torch]'") from error
        return export_weights(run, out, snapshot=snapshot, fallback=fallback, **weights)
    if not out.name.endswith(ARCHIVES):
        raise ConfigError(f"{out} must end in .safetensors for weights, or in {' or '.join(ARCHIVES)} for everything")
    if given := [name for name, value in weights.items() if value]:
        raise ConfigError(f"{given[0].replace('_', ' ')} is of weights, and {out.name} gets every file as it is")
    return export_archive(run, out, snapshot=snapshot, fallback=fallback)


def _named(path: str | Path) -> Path:
    """Take a path; an empty one is a variable that was never set, not the current directory."""
    if path == "":
        raise ConfigError("the path is empty; name a file or directory ('.' is the current one)")
    if not isinstance(path, str | PathLike):
        raise ConfigError(f"the path is {path!r}; name a file or directory")
    if "\0" in str(path):
        raise ConfigError(f"the path {str(path)!r} has a NUL byte in it")
    return Path(path)


@contextmanager
def _opened(run: str, config: Config | None, observer: Observer = log_observer) -> Iterator[Run]:
    """Open a run; None is a variable that was never set, not a directory of that name."""
    if not isinstance(run, str | PathLike):
        raise ConfigError(f"the run is {run!r}; name it like s3://bucket/run")
    with open_run(run, config, observer=observer) as opened:
        yield opened


def _whole(snapshot: object) -> int:
    """Take a step that names a snapshot: any whole number, of numpy too; True is none.

    Raises:
        ConfigError: it is none.
    """
    if not isinstance(snapshot, bool):
        with suppress(TypeError):
            return operator.index(snapshot)  # type: ignore[arg-type]  # whether it is one is what is asked
    raise ConfigError(f"snapshot {snapshot!r} is not a whole number")


def latest(run: str, *, config: Config | None = None) -> Manifest | None:
    """Return the manifest of the newest snapshot that is not quarantined, or None when there is none.

    Args:
        run: as for `save`.
        config: None resolves environment, TOML file and defaults.

    Raises:
        IntegrityError: a newer ckptsync wrote it.
        StoreError: the bucket failed.
    """
    with _opened(run, config) as opened:
        return opened.catalog.latest()


def history(run: str, *, config: Config | None = None) -> list[Manifest]:
    """Return every readable snapshot's manifest, the newest first.

    Args:
        run: as for `save`.
        config: None resolves environment, TOML file and defaults.

    Raises:
        StoreError: the bucket failed.
    """
    with _opened(run, config) as opened:
        return list(opened.catalog.history())
