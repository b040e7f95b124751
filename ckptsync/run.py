"""A run, opened: its bucket, its catalog and the options, handed to every verb."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from ckptsync.catalog import Catalog
from ckptsync.clock import SYSTEM, Clock
from ckptsync.config import resolve
from ckptsync.events import Observer, log_observer
from ckptsync.options import Config, processors
from ckptsync.signing import read_keys
from ckptsync.store import open_store
from ckptsync.store.base import Store
from ckptsync.transfer.helpers import Crew
from ckptsync.transfer.pipe import Setup

_MOST_PROCESSES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What every verb works on.

    Attributes:
        url: the run URL, without credentials.
        store: its bucket, with retries.
        catalog: its snapshots.
        config: the options in force.
        observer: told of everything that happens.
        clock: replaced in tests.
        processes: that may move small files, this one included; more than one only where others can open the store too.
    """

    url: str
    store: Store
    catalog: Catalog
    config: Config
    observer: Observer
    clock: Clock
    processes: int = 1

    @property
    def directory(self) -> Path | None:
        """Where the run lies on this machine's disk; None when it does not."""
        return Path(unquote(urlsplit(self.url).path)) if self.url.startswith("file://") else None

    def overlaps(self, path: Path) -> bool:
        """Whether the run lies below a path on this machine's disk, at it, or above it, whatever links lead there."""
        if self.directory is None:
            return False
        directory, other = self.directory.resolve(), path.resolve()
        return directory.is_relative_to(other) or other.is_relative_to(directory)

    @property
    def place(self) -> str:
        """What tells the run from all others: a directory without links, or the URL."""
        return str(self.directory.resolve()) if self.directory else self.url

    def crew(self, *, snapshot: str = "", shared: bool = False, folder: bytes = b"") -> Crew | None:
        """Processes that may help, as `Setup` tells them; None when this one is to be alone."""
        setup = Setup(url=self.url, config=self.config, snapshot=snapshot, shared=shared, folder=folder)
        return Crew(setup, self.processes) if self.processes > 1 else None

    def rest(self) -> None:
        """Let the time pass in which the service would refuse to change again what was just put; none where it is not so strict."""
        if pause_s := self.store.traits.rewrite_pause_s:
            self.clock.sleep(pause_s)


@contextmanager
def open_run(
    url: str | Path, config: Config | None = None, *, observer: Observer = log_observer, clock: Clock = SYSTEM
) -> Iterator[Run]:
    """Open a run for as long as the `with` block lasts. Nothing is asked of the store yet.

    Args:
        url: `s3://bucket/prefix`, `gs://bucket/prefix`, `file:///dir`, a plain directory, or any URL fsspec understands.
        config: None resolves environment, TOML file and defaults.
        observer: told of everything that happens.
        clock: replaced in tests.

    Raises:
        ConfigError: the URL or an option cannot be used.
    """
    config = resolve() if config is None else config
    with open_store(str(url), config, clock=clock, observer=observer) as store:
        run = run_on(store, config, observer=observer, clock=clock)
        yield replace(run, processes=_processes(run))


def _processes(run: Run) -> int:
    """How many processes are of use: a bucket is far, and small files in it cost processor time."""
    transfer = run.config.transfer
    is_ours_alone = run.url.startswith(("s3://", "gs://")) and transfer.max_bytes_per_s is None
    if not is_ours_alone or not sys.executable or getattr(sys, "frozen", False):
        return 1
    if transfer.processes is not None:
        return transfer.processes
    return 1 if transfer.workers is not None else min(processors(), _MOST_PROCESSES)


def run_on(store: Store, config: Config, *, observer: Observer = log_observer, clock: Clock = SYSTEM) -> Run:
    """Make a run of a store that is open already, as tests and wrappers need it.

    Raises:
        ConfigError: a key that the options name cannot be used.
    """
    keys = read_keys(config.signing, observer=observer)
    catalog = Catalog(store, single_writer=config.single_writer, clock=clock, keys=keys)
    return Run(url=store.url, store=store, catalog=catalog, config=config, observer=observer, clock=clock)
