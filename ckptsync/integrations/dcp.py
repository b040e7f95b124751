"""torch.distributed.checkpoint into a run and out of it: every rank sends its shards, and all of them are one snapshot or none.

    import torch.distributed.checkpoint as dcp
    from ckptsync.integrations.dcp import RunReader, RunWriter

    dcp.save(state, storage_writer=RunWriter("s3://bucket/run", step=100))
    dcp.load(state, storage_reader=RunReader("s3://bucket/run"))

The files are those of torch's own `FileSystemWriter`: a snapshot that was restored into a folder is loaded with `FileSystemReader`.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from msgspec import UNSET, UnsetType
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import (
    LoadItemType,
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItemType,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from ckptsync.clock import SYSTEM
from ckptsync.errors import ConfigError, IntegrityError
from ckptsync.events import Observer, log_observer
from ckptsync.goodput import Goodput
from ckptsync.integrations._metadata import metadata_of
from ckptsync.integrations._shards import ShardFile
from ckptsync.options import Config
from ckptsync.readiness.dcp import METADATA
from ckptsync.run import Run, open_run
from ckptsync.snapshot.cost import Loop
from ckptsync.snapshot.manifest import Manifest, checked_meta, copied_metrics
from ckptsync.state import archive
from ckptsync.tenure import Tenure
from ckptsync.transfer.memory_source import MemoryFile, joined
from ckptsync.verbs.fetch import fetch
from ckptsync.verbs.ladder import newest_good
from ckptsync.verbs.lease import Leases
from ckptsync.verbs.ranks import DEFAULT_TIMEOUT_S, Rank, deliver_rank, save_rank

_LAUNCH = uuid.uuid4().hex
_LAUNCHES: dict[str, tuple[str, int]] = {}
"""By run, under which launch this process as the coordinator saved last, and which step."""
_TENURES: dict[str, Tenure] = {}
_GOODPUTS: dict[str, Goodput] = {}


@dataclass(frozen=True, slots=True)
class _Share:
    """What the coordinator tells a rank, by way of its plan."""

    rank: int
    world: int
    launch: str
    step: int


class RunWriter(StorageWriter):
    """Saves one step, or with `step` set anew before each save, one after the other.

    Every rank sends its own shards from its own memory. The coordinator, which torch lets finish when all ranks have, adds the metadata
    and commits; until then the snapshot before stays the latest. Replicas of one tensor are stored once, by the rank that torch
    chose for it.
    """

    def __init__(
        self,
        run: str | Path,
        *,
        step: int,
        metrics: Mapping[str, float] | None = None,
        meta: Mapping[str, str] | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        config: Config | None = None,
        observer: Observer = log_observer,
    ) -> None:
        """Ask the bucket nothing yet.

        Args:
            run: `s3://bucket/prefix`, `gs://bucket/prefix`, a directory that all ranks share, or any URL fsspec understands whose
                store can create conditionally.
            step: training step, the same on all ranks. From when it is set, the loop counts as waiting for the save, for `ckptsync report`.
            metrics: numbers to choose by later.
            meta: free text by name.
            timeout_s: how long the commit may wait for the other ranks, in seconds.
            config: None resolves environment, TOML file and defaults.
            observer: told of everything that happens.
        """
        super().__init__()
        self.run = str(run)
        self._goodput = _goodput(self.run)
        self._loop: Loop | UnsetType = UNSET
        self.step = step
        self.metrics, self.meta = copied_metrics(metrics or {}), checked_meta(meta or {})
        self._timeout_s, self._config, self._observer = timeout_s, config, observer
        self._share: _Share | None = None

    @property
    def step(self) -> int:
        """Training step that is saved next."""
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._step, self._since_s = step, SYSTEM.monotonic()

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begin a save. A run has no folders to choose from: `checkpoint_id` must be the run, or None."""
        if checkpoint_id is not None and str(checkpoint_id) != self.run:
            raise ConfigError(
                f"checkpoint_id is {str(checkpoint_id)!r}; leave it out: the run and the step name a snapshot"
            )
        self._share = None

    def set_up_storage_writer(self, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:  # noqa: FBT001  torch's
        """As torch asks for it; nothing is to be set up."""
        del is_coordinator, args
        if threading.current_thread() is not threading.main_thread():
            self._loop_goes_on()
        if kwargs.get("use_collectives") is False:
            raise ConfigError("ranks that save without collectives do not agree on a plan; leave use_collectives on")

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """Take a rank's plan as it is.

        Raises:
            ConfigError: a tensor is sparse; nothing was sent.
        """
        for item in plan.items:
            if item.tensor_data is not None and item.tensor_data.properties.layout != torch.strided:
                layout = str(item.tensor_data.properties.layout).removeprefix("torch.")
                raise ConfigError(
                    f"{item.index.fqn} is {layout}, and only dense tensors are saved here; save it densely"
                )
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """Tell every rank which one it is, and under which launch all of them save.

        Within a launch steps only rise. So a step that does not is saved under another launch, which takes the next epoch.

        Raises:
            FencedError: the step is not higher than the last one, and a newer launch or writer owns the run.
        """
        world = len(plans)
        with self._opened() as run:
            launch, last = _LAUNCHES.get(run.url, (_LAUNCH, -1))
            if self.step <= last:
                _tenure(run).join(run.catalog.claims, launch)  # who was overtaken stays so
                launch = uuid.uuid4().hex
                _tenure(run).join(run.catalog.claims, launch)
            _LAUNCHES[run.url] = launch, self.step
        return [
            dataclasses.replace(plan, storage_data=_Share(rank, world, launch, self.step))
            for rank, plan in enumerate(plans)
        ]

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Send this rank's shards; the future is done when they are in the bucket."""
        share = plan.storage_data
        assert isinstance(share, _Share)  # noqa: S101  the plan is `prepare_global_plan`'s
        self._share = share
        file = ShardFile(f"__{share.rank}_0.distcp")
        for item in plan.items:
            data = planner.resolve_data(item)
            if item.type == WriteItemType.BYTE_IO:
                assert isinstance(data, io.BytesIO)  # noqa: S101  so torch defines it
                file.add(item.index, [data.getbuffer()])
            else:
                assert isinstance(data, torch.Tensor)  # noqa: S101  so torch defines it
                tensor = data.detach().cpu().contiguous()
                tensor = tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
                flat = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                file.add(item.index, archive.pieces_of(tensor, [flat]), keep=tensor)
        with self._opened() as run:
            deliver_rank(
                run,
                joined([file.made(_now_ns(run))] if file.pieces else [], [], now_ns=_now_ns(run)),
                self._rank(share, share.rank),
                step=share.step,
                tenure=_tenure(run),
            )
        return _done(file.results)

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Add the metadata, and commit. Only the coordinator is asked to."""
        assert self._share is not None  # noqa: S101  it has written its own shards before
        metadata.storage_data = {result.index: result.storage_data for rank in results for result in rank}
        metadata.storage_meta = StorageMeta()
        content = memoryview(pickle.dumps(metadata))
        if threading.current_thread() is threading.main_thread():
            self._loop_goes_on()
        with self._opened() as run:
            save_rank(
                run,
                joined([MemoryFile.of(METADATA, [content], made_ns=_now_ns(run))], [], now_ns=_now_ns(run)),
                self._rank(self._share, self._share.world),
                step=self._share.step,
                metrics=self.metrics,
                meta=self.meta,
                tenure=_tenure(run),
                loop=self._loop,
            )

    def _loop_goes_on(self) -> None:
        """It has waited: for all of a save, or for the copy that `async_save` takes before it begins in another thread."""
        self._loop = self._goodput.saving(self._since_s)

    def _rank(self, share: _Share, number: int) -> Rank:
        """One of those that save together: the ranks, and the coordinator once more with the metadata."""
        return Rank(rank=number, world=share.world + 1, launch=share.launch, timeout_s=self._timeout_s)

    def _opened(self) -> Any:
        """Open the run."""
        return open_run(self.run, self._config, observer=self._observer)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Tell torch that it cannot choose this writer by a path alone: the step would be missing."""
        del checkpoint_id
        return False

    def storage_meta(self) -> StorageMeta | None:
        """Tell nothing more than torch knows."""
        return None


class RunReader(StorageReader):
    """Loads a snapshot that was saved by any number of ranks: each fetches the parts that hold what it needs, verified before use."""

    def __init__(
        self,
        run: str | Path,
        *,
        snapshot: str | int = "latest",
        weights_only: bool = True,
        config: Config | None = None,
        observer: Observer = log_observer,
    ) -> None:
        """Ask the bucket nothing yet.

        Args:
            run: as for `RunWriter`.
            snapshot: an id, a step, `latest`, `best:METRIC:min|max` or an alias. Ranks read the one that the coordinator has found.
            weights_only: as in `torch.load`, for what is no tensor; False lets a pickle run whatever code it names.
            config: None resolves environment, TOML file and defaults.
            observer: told of everything that happens.
        """
        super().__init__()
        self.run = str(run)
        self.snapshot = str(snapshot)
        self.step: int | None = None
        self._weights_only = weights_only
        self._config, self._observer = config, observer
        self._metadata: Metadata | None = None
        self._goodput = _goodput(self.run)
        self._since_s = SYSTEM.monotonic()

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """Begin a load; see `RunWriter.reset`."""
        if checkpoint_id is not None and str(checkpoint_id) != self.run:
            raise ConfigError(
                f"checkpoint_id is {str(checkpoint_id)!r}; leave it out, and name a snapshot by `snapshot`"
            )
        self._since_s = SYSTEM.monotonic()

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Find the snapshot, and read what it holds. `step` is known from now on.

        Raises:
            NoSnapshotError: there is none.
            IntegrityError: every snapshot tried was bad.
        """
        del args, kwargs
        with open_run(self.run, self._config, observer=self._observer) as run:
            reached = newest_good(run, self.snapshot, fallback=True, use=metadata_of)
        metadata = reached.value
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.checkpoint_id = reached.manifest.snapshot
        self.step = reached.manifest.id.step
        return metadata

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *args: Any, **kwargs: Any) -> None:  # noqa: FBT001  torch's
        """Take what the coordinator has found."""
        del is_coordinator, args, kwargs
        self._metadata = metadata

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """Take a rank's plan as it is."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """Take all plans as they are."""
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Fetch what this rank needs, and once all of it is good, load it.

        Raises:
            ConfigError: it holds more than `weights_only` allows; nothing was loaded.
            IntegrityError: it is not what was committed.
        """
        assert self._metadata is not None  # noqa: S101  torch has set it up
        assert self._metadata.storage_meta is not None  # noqa: S101  `read_metadata` puts it there
        places: dict[Any, _StorageInfo] = self._metadata.storage_data
        spans: dict[str, list[tuple[int, int]]] = {}
        for item in plan.items:
            place = places[item.storage_index]
            spans.setdefault(place.relative_path, []).append((place.offset, place.length))
        with self._reading(str(self._metadata.storage_meta.checkpoint_id)) as (run, manifest):
            contents = fetch(run, manifest, list(spans), spans=spans)
            found: list[tuple[ReadItem, memoryview]] = []
            for item in plan.items:
                place = places[item.storage_index]
                content = contents[place.relative_path][place.offset : place.offset + place.length]
                unsafe = item.type == LoadItemType.BYTE_IO and self._weights_only
                found.append((item, _safe(content, item.storage_index.fqn) if unsafe else content))
            for item, content in found:
                _load(item, content, planner)
            self._goodput.resumed(run.store, manifest.snapshot, manifest.id.step, self._since_s)
        return _done(None)

    @contextmanager
    def _reading(self, snapshot: str) -> Iterator[tuple[Run, Manifest]]:
        """Hold a lease on the snapshot."""
        with open_run(self.run, self._config, observer=self._observer) as run:
            reached = newest_good(run, snapshot, fallback=False, use=lambda _, manifest: manifest)
            with Leases(run).on(reached.manifest.id) as reading:
                yield reading, reached.manifest

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Tell torch that it cannot choose this reader by a path alone."""
        del checkpoint_id
        return False


def _safe(content: memoryview, name: str) -> memoryview:
    """Read a value without running code, and write it anew: torch's planner runs whatever a pickle names."""
    torch.save(archive.load(content, name=name), made := io.BytesIO())
    return made.getbuffer()


def _load(item: ReadItem, content: memoryview, planner: LoadPlanner) -> None:
    """Hand one shard, or what is wanted of it, to the planner."""
    if item.type == LoadItemType.BYTE_IO:
        planner.load_bytes(item, io.BytesIO(content))
        return
    tensor = archive.load(content, name=item.storage_index.fqn, map_location="cpu")
    for dimension, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
        tensor = tensor.narrow(dimension, offset, length)
    target = planner.resolve_tensor(item).detach()
    if target.size() != tensor.size():
        raise IntegrityError(
            f"{item.storage_index.fqn} is {list(tensor.size())} in the bucket, not {list(target.size())}"
        )
    target.copy_(tensor)
    planner.commit_tensor(item, target)


def _done(result: Any) -> Future[Any]:
    """A future that is done."""
    done: Future[Any] = Future()
    done.set_result(result)
    return done


def _goodput(run: str) -> Goodput:
    """What this process's loop spends its time on, by run."""
    return _GOODPUTS.setdefault(run, Goodput(SYSTEM))


def _tenure(run: Run) -> Tenure:
    """This process's right to write a run."""
    return _TENURES.setdefault(run.url, Tenure())


def _now_ns(run: Run) -> int:
    """The time, nanoseconds since the Unix epoch."""
    return int(run.clock.now() * 1e9)
