"""Tables: every peer over one way to the service, in rounds whose order alternates."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bench import processes
from bench.measure import DIRECTIONS, SEED, Direction, Place, Sample, measure
from bench.peers import Cloud, Peer, version_of
from ckptsync.testing.servers import ceph_rgw, create_bucket

MIB = 1 << 20
CEPH_BYTES = 6 << 30
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  a folder of our own is made in it
ROOM = 4
"""How many times an object must fit: the blob, what is fetched, and what torch writes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """One way to the service.

    Attributes:
        name: for the page.
        delay_s: in each direction.
        rate: as `tc` writes it; empty for none.
        tls: whether bytes are encrypted.
        server: a production server in the place of the sink; empty for none.
        size: bytes that are moved over it, at most.
    """

    name: str
    delay_s: float = 0.0
    rate: str = ""
    tls: bool = False
    server: Literal["", "ceph"] = ""
    size: int = 192 * MIB


PLAIN = Shape("loopback")


def say(text: str) -> None:
    """Tell whoever waits."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


@contextmanager
def placed(size: int, shape: Shape = PLAIN) -> Iterator[Place]:
    """Start a sink with a blob of so many random bytes, and the way to it."""
    # an end by signal must not leave files in memory behind
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    root = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None
    free = shutil.disk_usage(root or tempfile.gettempdir()).free
    if free < ROOM * size:
        raise SystemExit(f"{free // MIB} MiB are free for files; objects of {size // MIB} MiB need {ROOM} times that")
    with tempfile.TemporaryDirectory(prefix="ckptsync-bench-", dir=root) as name, ExitStack() as stack:
        folder = Path(name)
        blob = folder / "blob"
        with blob.open("wb") as file:
            for at in range(0, size, MIB):
                file.write(os.urandom(min(MIB, size - at)))
        pem, authority = processes.certificate(folder) if shape.tls else (None, None)
        sink = stack.enter_context(processes.sink(blob, pem))
        port = sink.ports["https" if shape.tls else "http"]
        if shape.delay_s:
            port = stack.enter_context(processes.delayed(port, shape.delay_s)).ports["tcp"]
        endpoint = f"{'https' if shape.tls else 'http'}://{processes.HOST}:{port}"
        if not shape.server:
            yield Place(sink, endpoint, folder, blob, size, authority)
            return
        server = stack.enter_context(ceph_rgw(memory_bytes=CEPH_BYTES))
        for bucket in ("bench", "kept"):
            create_bucket(server, bucket)
        yield Place(sink, server.url, folder, blob, size, variables={**server.environ, "AWS_ENDPOINT_URL": server.url})


def table(peers: Sequence[Peer], cloud: Cloud, shape: Shape, size: int, rounds: int) -> dict[str, Any]:
    """Measure these peers; a peer that fails once is told with its reason and not tried again."""
    for peer in peers:
        version_of(peer)  # installs it, before anything is measured
    samples: list[Sample] = []
    with placed(size, shape) as place:

        def measured(peer: Peer, direction: Direction, number: int) -> Sample:
            return measure(peer, cloud, direction, place, check=number == 0)

        for number in range(rounds):
            # afresh: ckptsync would find its parts there already, and what torch writes would fill the memory
            processes.ask(place.sink.ports["http"], "/-/reset")
            processes.put(place.sink.ports["http"], f"/bench/{SEED}", place.blob)
            for sample in one_round(peers, number, samples, measured):
                say(f"{number + 1} {shape.name:10} {line(sample)}")
    return {"cloud": cloud, "shape": asdict(shape), "size": size, "rounds": rounds, "samples": [*map(asdict, samples)]}


def one_round(
    peers: Sequence[Peer], number: int, samples: list[Sample], measured: Callable[[Peer, Direction, int], Sample]
) -> Iterator[Sample]:
    """Measure each peer both ways, in an order that alternates, and add that to `samples`; who failed once is left out."""
    for peer in peers if number % 2 == 0 else reversed(peers):
        for direction in DIRECTIONS:
            if any(sample.error for sample in samples if sample.peer == peer.name):
                break
            samples.append(measured(peer, direction, number))
            yield samples[-1]


def line(sample: Sample) -> str:
    """One sample, to read while it goes."""
    a_gb = 1e9 / sample.size
    figures = sample.error or (
        f"{sample.cpu_s * a_gb:6.2f} CPU-s/GB {sample.size / max(sample.wall_s, 1e-9) / 1e6:7.0f} MB/s"
        f"  start {sample.start_up_cpu_s:5.2f} s  peak {sample.peak_rss_bytes // MIB:5} MiB"
        f"  service {sample.sink_cpu_s * a_gb:5.2f}"
    )
    return f"{sample.cloud:3} {sample.peer:30} {sample.direction} {figures}"
