"""`torch.save` and `torch.load`, and safetensors' `save_file` and `load_file`, that take run URLs as well as files.

    from ckptsync.integrations.torch import load, save

    save(model.state_dict(), "s3://bucket/run@100")          # step 100; without @100 the one behind the newest
    model.load_state_dict(load("s3://bucket/run"))           # the newest good snapshot; run@100, run@best:loss:min, …

A run is whatever has `://` in it; a directory is `file:///dir`. Anything else is an ordinary file, and torch's or safetensors' own matter.
A save is durable when it returns. What is loaded goes from the bucket into memory, is verified, and only then read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ckptsync import names
from ckptsync.errors import ConfigError
from ckptsync.events import Observer, log_observer
from ckptsync.options import Config
from ckptsync.run import Run, open_run
from ckptsync.snapshot.manifest import Manifest
from ckptsync.tenure import ours
from ckptsync.transfer.memory_source import MemoryFile, joined
from ckptsync.transfer.source import SourceTree
from ckptsync.verbs.ladder import newest_good
from ckptsync.verbs.save import Saved
from ckptsync.verbs.save import save as save_to

try:
    import torch
except ImportError as missing:
    raise ConfigError("ckptsync.integrations.torch needs PyTorch: pip install 'ckptsync[torch]'") from missing

from ckptsync.state import archive, contents, loading, safetensors
from ckptsync.state.fit import Preflight
from ckptsync.state.items import in_place, tree_of

__all__ = ["Preflight", "load", "load_file", "preflight", "save", "save_file"]

ITEM = "state"
"""Name of the item that `save` makes, as `CheckpointManager.restore(state=…)` has it; its file is `state.pt`."""
TENSORS = "model.safetensors"
"""The file that `save_file` makes."""
_STEP = re.compile(r"[0-9]{1,12}")
_Found = TypeVar("_Found")


def save(
    obj: Any,
    f: Any,
    *args: Any,
    metrics: Mapping[str, float] | None = None,
    meta: Mapping[str, str] | None = None,
    config: Config | None = None,
    observer: Observer = log_observer,
    **kwargs: Any,
) -> Saved | None:
    """Save an object as `torch.save` does, into a file or as the newest snapshot of a run; returns when it is durable.

    Each save to a run is one snapshot: put all that belongs together into one dictionary. Tensors are sent from their own memory. Called again
    after a kill, it begins anew; with the same `@STEP` the later of two counts.

    Args:
        obj: what `torch.save` takes, unchanged until this returns.
        f: `RUN@STEP`; `RUN`, for the step behind the newest; or what else `torch.save` takes.
        args: of `torch.save`, for a file.
        metrics: numbers to choose by later, as in `@best:loss:min`; for a run.
        meta: free text by name; for a run.
        config: for a run; None resolves environment, TOML file and defaults.
        observer: for a run; told of everything that happens.
        kwargs: of `torch.save`, for a file.

    Returns:
        What was committed; None of a file.

    Raises:
        ConfigError: an argument cannot be used; nothing was touched.
        FencedError: a newer writer owns the run; nothing was committed.
        StoreError: the bucket failed for good; nothing was committed.
    """
    if not _is_run(f):
        _refuse_directory(f)
        torch.save(obj, f, *args, **kwargs)
        return None
    _refuse(args, kwargs)

    def tree(run: Run) -> SourceTree:
        return tree_of(in_place(ITEM, obj), now_ns=_now_ns(run))

    return _saved(f, tree, metrics or {}, meta or {}, config, observer)


def load(
    f: Any,
    map_location: Any = None,
    *args: Any,
    weights_only: bool = True,
    item: str | None = None,
    config: Config | None = None,
    observer: Observer = log_observer,
    **kwargs: Any,
) -> Any:
    """Load an object as `torch.load` does, from a file or from a snapshot of a run. Nothing is put on the disk.

    Args:
        f: `RUN`, for the newest good snapshot; `RUN@SNAP`, with an id, a step, `best:METRIC:min|max` or an alias; or what else
            `torch.load` takes.
        map_location: as in `torch.load`.
        args: of `torch.load`, for a file.
        weights_only: as in `torch.load`; False lets a pickle run whatever code it names.
        item: of a run: an item's name, a file's path, or either with keys behind it, as in `model` or `state.optimizer`; None takes
            the only one there is.
        config: for a run; None resolves environment, TOML file and defaults.
        observer: for a run; told of everything that happens.
        kwargs: of `torch.load`, for a file.

    Raises:
        NoSnapshotError: there is none: start from zero.
        ConfigError: an argument cannot be used, or the object holds more than `weights_only` allows.
        IntegrityError: every snapshot tried was bad; nothing of them was read.
        StoreError: the bucket failed for good.
    """
    if not _is_run(f):
        _refuse_directory(f)
        return torch.load(f, map_location, *args, weights_only=weights_only, **kwargs)
    _refuse(args, kwargs)
    archive.check_device(map_location)
    content = _reached(f, lambda run, manifest: contents.fetched(run, manifest, item), config, observer)
    return content.read(map_location=map_location, weights_only=weights_only)


def save_file(
    tensors: Mapping[str, torch.Tensor],
    filename: Any,
    metadata: Mapping[str, str] | None = None,
    *,
    metrics: Mapping[str, float] | None = None,
    config: Config | None = None,
    observer: Observer = log_observer,
) -> Saved | None:
    """Save tensors as `safetensors.torch.save_file` does, or as the file `model.safetensors` of a run's newest snapshot.

    Unlike the library, which refuses tensors that share memory, a run gets each of them whole.

    Args:
        tensors: by name, dense, unchanged until this returns.
        filename: as `f` of `save`.
        metadata: free text by name, kept in the file.
        metrics: numbers to choose by later; for a run.
        config: for a run; None resolves environment, TOML file and defaults.
        observer: for a run; told of everything that happens.

    Returns:
        What was committed; None of a file.

    Raises:
        ConfigError: an argument cannot be used, or a file is named and the library is not installed; nothing was touched.
        FencedError: a newer writer owns the run; nothing was committed.
        StoreError: the bucket failed for good; nothing was committed.
    """
    if not _is_run(filename):
        _refuse_directory(filename)
        _library().save_file(tensors, filename, metadata)
        return None

    def tree(run: Run) -> SourceTree:
        file = MemoryFile.of(TENSORS, safetensors.pieces(tensors, metadata), made_ns=_now_ns(run))
        return joined([file], [], now_ns=_now_ns(run))

    return _saved(filename, tree, metrics or {}, {}, config, observer)


def load_file(
    filename: Any,
    device: Any = "cpu",
    *,
    item: str | None = None,
    config: Config | None = None,
    observer: Observer = log_observer,
) -> dict[str, torch.Tensor]:
    """Load tensors as `safetensors.torch.load_file` does, from a file or from a `.safetensors` file of a snapshot.

    From a run to the host they are views of one block of memory, which stays as long as any of them does.

    Args:
        filename: as `f` of `load`.
        device: where they go.
        item: of a run: the file, with or without its suffix; None takes the only one there is.
        config: for a run; None resolves environment, TOML file and defaults.
        observer: for a run; told of everything that happens.

    Raises:
        NoSnapshotError: there is none: start from zero.
        ConfigError: an argument cannot be used, or a file is named and the library is not installed.
        IntegrityError: every snapshot tried was bad, or the file cannot be read.
        StoreError: the bucket failed for good.
    """
    if not _is_run(filename):
        _refuse_directory(filename)
        found: dict[str, torch.Tensor] = _library().load_file(filename, device)
        return found
    archive.check_device(device)
    only = (safetensors.SUFFIX,)
    content = _reached(filename, lambda run, manifest: contents.fetched(run, manifest, item, only), config, observer)
    return safetensors.load(content.data, name=content.place.path, device=device)


def preflight(f: str, *, config: Config | None = None, observer: Observer = log_observer, **items: Any) -> Preflight:
    """Tell what will come of restoring a snapshot, before anything large moves: that it loads, needs resharding, or will fail, and why.

        print(preflight("s3://bucket/run", model=model, optimizer=optimizer))

    A few kilobytes are fetched, and nothing is changed. `CheckpointManager.restore` does the same by itself.

    Args:
        f: `RUN` or `RUN@SNAP`; a run may be a plain directory here.
        config: None resolves environment, TOML file and defaults.
        observer: told of everything that happens.
        items: as for `CheckpointManager.restore`.

    Raises:
        NoSnapshotError: there is none.
        IntegrityError: every snapshot tried was bad.
        StoreError: the bucket failed for good.
    """
    return _reached(f, lambda run, manifest: loading.preflight(run, manifest, items), config, observer)


def _is_run(f: Any) -> bool:
    """Whether something names a run rather than a file."""
    return isinstance(f, str) and "://" in f


def _refuse_directory(f: Any) -> None:
    """Refuse a directory where a file is meant.

    Raises:
        ConfigError: it is one.
    """
    if isinstance(f, str | os.PathLike) and Path(os.fsdecode(f)).is_dir():
        url = Path(os.fsdecode(f)).absolute().as_uri()
        raise ConfigError(f"{os.fsdecode(f)} is a directory; name a file in it, or the run as {url} or {url}@STEP")


def _refuse(args: Any, kwargs: Mapping[str, Any]) -> None:
    """Refuse what only a file takes.

    Raises:
        ConfigError: there is any.
    """
    if args or kwargs:
        named = ", ".join(kwargs) or "more arguments"
        raise ConfigError(f"{named}: a run takes none of that, only a file does")


def _saved(
    url: str,
    tree: Callable[[Run], SourceTree],
    metrics: Mapping[str, float],
    meta: Mapping[str, str],
    config: Config | None,
    observer: Observer,
) -> Saved:
    """Commit a tree."""
    place, name = names.split(url)
    if name != "latest" and not _STEP.fullmatch(name):
        raise ConfigError(f"{name!r} is no step; save to RUN@STEP, or to RUN for the step behind the newest")
    with open_run(place, config, observer=observer) as run:
        if name == "latest":
            newest = run.catalog.newest_readable()
            step = newest.id.step + 1 if newest else 0
        else:
            step = int(name)
        return save_to(run, tree(run), step=step, metrics=metrics, meta=meta, tenure=ours(run.place))


def _reached(url: str, use: Callable[[Run, Manifest], _Found], config: Config | None, observer: Observer) -> _Found:
    """Use the snapshot that a URL names."""
    place, name = names.split(url)
    with open_run(place, config, observer=observer) as run:
        return newest_good(run, name, fallback=True, use=use).value


def _library() -> Any:
    """The safetensors library.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        from safetensors import torch as library  # noqa: PLC0415  only files need it
    except ImportError as error:
        raise ConfigError(
            "safetensors files need the package safetensors: pip install 'ckptsync[safetensors]'"
        ) from error
    return library


def _now_ns(run: Run) -> int:
    """The time, nanoseconds since the Unix epoch."""
    return int(run.clock.now() * 1e9)
