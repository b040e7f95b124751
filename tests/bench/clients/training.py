"""A training loop that saves in one of several ways, and tells what that cost it.

Runs in the peers' environments too, so it uses nothing but torch and what the way itself needs.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

TENSORS = 16
COPIES = 5
WARM_BYTES = 1 << 20
DCP_THREADS = 4
State = dict[str, torch.Tensor]
warnings.filterwarnings("ignore")


@dataclass(frozen=True, slots=True)
class Job:
    """What to do.

    Attributes:
        way: of saving.
        measure: `stall`, what a save costs the loop, or `pace`, how fast steps are while one is under way.
        endpoint: address of the service.
        bucket: which.
        folder: for files.
        size: bytes of the state.
        saves: how many, when it is stalls that are measured.
        window_s: for so long steps are timed without a save, and then with one under way.
    """

    way: str
    measure: str
    endpoint: str
    bucket: str
    folder: str
    size: int
    saves: int
    window_s: float


class Way(Protocol):
    """Saves."""

    def begin(self, step: int, state: State) -> None:
        """Save; returns when the loop may go on."""
        ...

    def wait(self) -> None:
        """Return when it is in the bucket."""
        ...


class Nothing:
    """Saves nothing, to see what the machine does by itself."""

    def begin(self, step: int, state: State) -> None:
        """Do nothing."""

    def wait(self) -> None:
        """Do nothing."""


class Ours:
    """A `CheckpointManager` with its default settings."""

    def __init__(self, job: Job, name: str) -> None:
        from ckptsync import CheckpointManager, Config  # noqa: PLC0415  the peers' environments have none

        self.manager = CheckpointManager(f"s3://{job.bucket}/{name}", config=Config(state_dir=f"{job.folder}/state"))

    def begin(self, step: int, state: State) -> None:
        """Copy it."""
        self.manager.save(step, state=state)

    def wait(self) -> None:
        """Wait for the commit."""
        self.manager.wait()


class Files:
    """`torch.save` into a file in memory, and boto3's `upload_file`, which a thread may do."""

    def __init__(self, job: Job, name: str, *, in_thread: bool) -> None:
        import boto3  # noqa: PLC0415  not in every environment

        self.client = boto3.client("s3", endpoint_url=job.endpoint)
        self.bucket, self.name, self.in_thread = job.bucket, name, in_thread
        self.path = Path(job.folder) / f"{name}.pt"
        self.thread = threading.Thread()

    def begin(self, step: int, state: State) -> None:
        """Write the file, and send it."""
        torch.save(state, self.path)
        arguments = (str(self.path), self.bucket, f"{self.name}/{step}.pt")
        if self.in_thread:
            self.thread = threading.Thread(target=self.client.upload_file, args=arguments, daemon=True)
            self.thread.start()
        else:
            self.client.upload_file(*arguments)

    def wait(self) -> None:
        """Wait for the thread."""
        if self.in_thread:
            self.thread.join()


class Distributed:
    """`torch.distributed.checkpoint.async_save`, with one rank."""

    def __init__(self, job: Job, name: str, writer: Callable[[str], Any]) -> None:
        from torch import distributed  # noqa: PLC0415  loads much

        if not distributed.is_initialized():
            distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
        self.place, self.writer = f"s3://{job.bucket}/{name}", writer
        self.saving: Future[Any] = Future()

    def begin(self, step: int, state: State) -> None:
        """Let it copy the state."""
        import torch.distributed.checkpoint as dcp  # noqa: PLC0415  loads much

        self.saving = dcp.async_save(state, storage_writer=self.writer(f"{self.place}/{step}"))  # type: ignore[assignment]

    def wait(self) -> None:
        """Wait for its thread."""
        self.saving.result()


def _fsspec(job: Job) -> Callable[[str], Any]:
    """What makes writers over s3fs."""
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter  # noqa: PLC0415  needs fsspec

    options = {"client_kwargs": {"endpoint_url": job.endpoint}}
    return lambda place: FsspecWriter(place, thread_count=DCP_THREADS, **options)


def _s3torchconnector(job: Job) -> Callable[[str], Any]:
    """What makes writers of the connector."""
    del job
    from s3torchconnector import S3ClientConfig  # noqa: PLC0415  only where it is measured
    from s3torchconnector.dcp import S3StorageWriter  # noqa: PLC0415  as above

    config = S3ClientConfig(force_path_style=True)
    return lambda place: S3StorageWriter("us-east-1", place, s3client_config=config, thread_count=DCP_THREADS)


WAYS: dict[str, Callable[[Job, str], Way]] = {
    "nothing": lambda _, __: Nothing(),
    "manager": Ours,
    "files": lambda job, name: Files(job, name, in_thread=False),
    "files in a thread": lambda job, name: Files(job, name, in_thread=True),
    "dcp fsspec": lambda job, name: Distributed(job, name, _fsspec(job)),
    "dcp s3torchconnector": lambda job, name: Distributed(job, name, _s3torchconnector(job)),
}


# -- what is measured ----------------------------------------------------------------------------------------------------


def weights(size: int) -> State:
    """A state of so many bytes."""
    return {f"layer{number}": torch.rand(size // TENSORS // 4) for number in range(TENSORS)}


def copy_s(state: State) -> float:
    """Seconds of one copy of a state into memory that is there already."""
    copies = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    times_s = []
    for _ in range(COPIES):
        begun_s = time.perf_counter()
        for name, tensor in state.items():
            copies[name].copy_(tensor)
        times_s.append(time.perf_counter() - begun_s)
    return statistics.median(times_s)


def memory_bytes(*, forget: bool = False) -> tuple[int, int]:
    """Memory in use and the most that was; `forget` begins to measure the latter anew."""
    if forget:
        Path("/proc/self/clear_refs").write_text("5")
    told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(told["VmRSS"].split()[0]) << 10, int(told["VmHWM"].split()[0]) << 10


def stall(job: Job, way: Way) -> dict[str, Any]:
    """Save again and again; how long the loop waited, and what memory that took beyond the state."""
    state = weights(job.size)
    reference_s = copy_s(state)
    before_bytes, _ = memory_bytes(forget=True)
    stalls_s, durable_s = [], []
    for step in range(job.saves):
        for tensor in state.values():
            tensor.add_(1)  # else there would be nothing to send
        begun_s = time.perf_counter()
        way.begin(step, state)
        stalls_s.append(time.perf_counter() - begun_s)
        way.wait()
        durable_s.append(time.perf_counter() - begun_s)
    peak = memory_bytes()[1] - before_bytes
    return {"copy_s": reference_s, "stalls_s": stalls_s, "durable_s": durable_s, "peak_bytes": peak}


def steps_s(model: torch.nn.Module, window_s: float) -> list[float]:
    """Train for so long; what each step took."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    inputs = torch.randn(128, 512)
    times_s: list[float] = []
    until_s = time.perf_counter() + window_s
    while (begun_s := time.perf_counter()) < until_s:
        optimizer.zero_grad()
        model(inputs).square().mean().backward()
        optimizer.step()
        times_s.append(time.perf_counter() - begun_s)
    return times_s


def pace(job: Job, way: Way) -> dict[str, Any]:
    """Time steps without a save, and with one under way; the save itself is no step."""
    state = weights(job.size)
    layers = [layer for _ in range(4) for layer in (torch.nn.Linear(512, 512), torch.nn.ReLU())]
    model = torch.nn.Sequential(*layers)
    steps_s(model, job.window_s / 5)
    before_s = steps_s(model, job.window_s)
    ended = threading.Event()

    def watch() -> None:
        way.wait()
        ended.set()

    way.begin(0, state)
    if job.way != "nothing":
        threading.Thread(target=watch, daemon=True).start()
    during_s = steps_s(model, job.window_s)
    return {"before_s": shares(before_s), "during_s": shares(during_s), "was_under_way": not ended.is_set()}


def shares(times_s: list[float]) -> dict[str, float]:
    """Median, 99th percentile and number."""
    cuts = statistics.quantiles(times_s, n=100) if len(times_s) > 1 else times_s * 99
    return {"p50": cuts[49], "p99": cuts[98], "count": len(times_s)}


def main() -> None:
    """Do the job that standard input tells, print what it cost, and end without waiting for a save."""
    job = Job(**json.loads(sys.stdin.read()))
    torch.set_num_threads(1)
    warm = WAYS[job.way](job, "warm")
    warm.begin(0, weights(WARM_BYTES))
    warm.wait()
    way = WAYS[job.way](job, "run")
    result = stall(job, way) if job.measure == "stall" else pace(job, way)
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
