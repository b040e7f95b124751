"""Measures what a step costs that N ranks save together, on a bucket in memory with a real one's latency and limits.

    python tests/faults/many_ranks.py [--write]     # --write renews docs/reference/many-ranks.md

All ranks are threads of this process, each with its own retries and its own view of the bucket. Requests are counted at the
bucket, tries that it refused included. Seconds are real ones.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from unittest import mock

from ckptsync.errors import TransientError
from ckptsync.events import Event
from ckptsync.options import Config, Retry, Transfer
from ckptsync.run import run_on
from ckptsync.snapshot.manifest import Provenance
from ckptsync.store.base import Store, StoreWrapper
from ckptsync.store.memory import MemoryStore
from ckptsync.store.retry import Retrying
from ckptsync.verbs.ranks import Rank, save_rank

T = TypeVar("T")

CASES = ((4, 1.0), (16, 1.0), (64, 1.0), (256, 1.0), (1024, 1.0), (1024, 0.05))
"""Ranks, and what share of a real bucket's rate the bucket takes."""
LATENCY_S = 0.03
# Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance.html
WRITES_PER_S, READS_PER_S = 3500, 5500
_WRITES = frozenset({"put", "delete", "copy", "begin", "put_part", "copy_part", "finish", "abort"})
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "many-ranks.md"


class Bucket(StoreWrapper):
    """Takes its time over each request, and refuses those that are too many in a second."""

    def __init__(self, inner: Store, share: float) -> None:
        super().__init__(inner)
        self._share = share
        self.requests: Counter[str] = Counter()
        self.refused = 0
        self.reported_s = self.committed_s = 0.0
        self._lock = threading.Lock()
        self._recent: Counter[tuple[bool, int]] = Counter()
        self._dice = random.Random(1)

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        writes = verb in _WRITES
        with self._lock:
            second = writes, int(time.monotonic())
            self._recent[second] += 1
            busy = self._recent[second] > self._share * (WRITES_PER_S if writes else READS_PER_S)
            self.requests[f"{verb} {key.partition('/')[0]}"] += 1
            self.refused += busy
            pause_s = LATENCY_S * self._dice.uniform(0.5, 2.0)
        time.sleep(pause_s)
        if busy:
            raise TransientError("slow down", op=verb, key=key, throttled=True, retry_after_s=1.0)
        answer = request()
        if verb == "put" and key.startswith("ranks/") and not key.endswith("committer"):
            self.reported_s = time.monotonic()
        if verb == "put" and key.startswith("manifests/"):
            self.committed_s = time.monotonic()
        return answer


@dataclass(frozen=True, slots=True)
class Measured:
    """One step of so many ranks.

    Attributes:
        world: ranks.
        share: of a real bucket's rate that the bucket takes.
        requests: by verb and folder, of all ranks.
        refused: requests the bucket was too busy for.
        commit_s: from the last report to the commit.
        manifests: commits that were tried.
    """

    world: int
    share: float
    requests: Counter[str]
    refused: int
    commit_s: float
    manifests: int

    def matching(self, *verbs: str) -> float:
        """Requests of some kinds for each rank."""
        return sum(count for name, count in self.requests.items() if name.startswith(verbs)) / self.world


def measure(world: int, share: float) -> Measured:
    """Save one step, each rank a file of its own and one that all have."""
    bucket = Bucket(MemoryStore(), share)
    failures: list[BaseException] = []
    with tempfile.TemporaryDirectory() as folder:

        def one(rank: int) -> None:
            config = Config(
                transfer=Transfer(workers=1),
                state_dir=f"{folder}/state-{rank}",
                retry=Retry(attempts=20),
            )
            source = Path(folder) / f"node-{rank}"
            store = Retrying(bucket, config.retry, observer=_ignore)
            chosen = Rank(rank=rank, world=world, launch="simulated", timeout_s=600)
            try:
                save_rank(run_on(store, config, observer=_ignore), source, chosen, step=100)
            except BaseException as error:  # noqa: BLE001  told below
                failures.append(error)

        for rank in range(world):
            source = Path(folder) / f"node-{rank}"
            source.mkdir()
            (source / f"shard-{rank:05d}.bin").write_bytes(rank.to_bytes(4, "big") * 256)
            (source / "config.json").write_bytes(b"{}")
        with mock.patch("ckptsync.verbs.sending.provenance", return_value=Provenance()):
            threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    if failures:
        raise failures[0]
    return Measured(
        world,
        share,
        bucket.requests,
        bucket.refused,
        bucket.committed_s - bucket.reported_s,
        bucket.requests["put manifests"],
    )


def _ignore(event: Event) -> None:
    del event


def table(rows: Sequence[Measured]) -> str:
    """The figures as Markdown."""
    head = (
        "| ranks | writes/s taken | requests a rank | … to write | … to report | commits tried | refused "
        "| last report to commit |\n|---|---|---|---|---|---|---|---|\n"
    )
    return head + "".join(
        f"| {row.world} | {row.share * WRITES_PER_S:.0f} | {sum(row.requests.values()) / row.world:.1f} "
        f"| {row.matching('put journals', 'put data', 'stat journals', 'stat data', 'get data'):.1f} "
        f"| {row.matching('put ranks'):.1f} | {row.manifests} | {row.refused} | {row.commit_s:.2f} s |\n"
        for row in rows
    )


def main() -> None:
    """Measure, print, and with `--write` renew the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="renew docs/reference/many-ranks.md")
    parser.add_argument("--world", type=int, help="measure this number of ranks only")
    parser.add_argument("--share", type=float, default=1.0, help="of a real bucket's rate, with --world")
    options = parser.parse_args()
    cases = [(options.world, options.share)] if options.world else CASES
    found = table([measure(world, share) for world, share in cases])
    sys.stdout.write(found)
    if options.write:
        text = PAGE.read_text()
        before, begin, rest = text.partition("<!-- measured -->\n")
        end = rest.partition("<!-- end -->")[2]
        PAGE.write_text(f"{before}{begin}\n{found}\n<!-- end -->{end}")


if __name__ == "__main__":
    main()
