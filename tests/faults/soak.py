"""Many processes at work for a long time behind a proxy that lets go wrong what goes wrong; then everything is looked at.

    python tests/faults/soak.py [--minutes 30] [--seed 1]

On S3 and on Cloud Storage, for each: two writers that fence each other and are killed at random, two readers, one collector. It
ends with a table, and with status 1 when a reader saw a torn or lost checkpoint, a commit is missing, something is left that
belongs to nothing, or a process grew.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from ckptsync.policy import LatestN
from ckptsync.run import open_run
from ckptsync.snapshot import layout
from ckptsync.testing.gcs import GcsServer
from ckptsync.testing.proxy import Fault, Proxy, answers, faults
from ckptsync.testing.proxy.asked import Asked
from ckptsync.testing.servers import create_bucket, ministack
from ckptsync.verbs.gc import collect
from ckptsync.verbs.verify import verify

ACTOR = Path(__file__).with_name("soak_actor.py")
ROLES = ("writer", "writer", "reader", "reader", "collector")
KILLED = "writer"
KILL_EVERY_S = (10.0, 40.0)
PHASE_S = (4.0, 10.0)
KEEP = 3  # as the collectors do
MEMORY_GROWTH_BYTES = 32 << 20
PATIENCE_S = 120.0
OPTIONS = {
    "CKPTSYNC_HTTP_READ_TIMEOUT_S": "5",
    "CKPTSYNC_HTTP_FINISH_TIMEOUT_S": "10",
    "CKPTSYNC_RETRY_BASE_S": "0.05",
    "CKPTSYNC_RETRY_CAP_S": "2",
    "CKPTSYNC_RETRY_DEADLINE_S": "60",
    "CKPTSYNC_TRANSFER_PART_BYTES": "5MiB",
    "CKPTSYNC_TRANSFER_WORKERS": "4",
    "CKPTSYNC_S3_CHECKSUM": "none",  # the loopback service takes seconds to compute one
}


@dataclass(frozen=True, slots=True)
class Trouble:
    """A fault, and how often it strikes while its phase lasts."""

    fault: Callable[[], Fault]
    chance: float
    method: str = ""
    target: str = ""


def first_reading() -> Callable[[Asked], bool]:
    """Tell whether something is read for the first time: what comes back bad twice in a row is damaged, and rightly refused."""
    read: set[tuple[str, str]] = set()

    def is_first(asked: Asked) -> bool:
        what = (asked.target, asked.head.get("range"))
        if what in read:
            return False
        read.add(what)
        return True

    return is_first


TROUBLES = {
    "all is well": (),
    "slow down": (Trouble(lambda: faults.answered(answers.slow_down(1)), 0.7),),
    "answers lost": (Trouble(faults.lost_answer, 0.1),),
    "lost commits": (Trouble(faults.lost_answer, 0.5, "PUT", "manifests|writers"),),
    "errors": (Trouble(lambda: faults.answered(answers.internal_error()), 0.1),),
    "resets": (Trouble(lambda: faults.broken_every(3 << 20), 1.0), Trouble(faults.dropped, 0.05)),
    "short bodies": (Trouble(lambda: faults.broken_after(700_000, how="close"), 0.2, "GET"),),
    "flipped bits": (
        Trouble(lambda: replace(faults.flipped_bit(1000), only_if=first_reading()), 0.2, "GET", "/data/"),
    ),
    "silence": (Trouble(faults.silence, 0.02),),
    "latency": (Trouble(lambda: faults.delay(0.2), 1.0),),
}


@dataclass(slots=True)
class Bench:
    """One kind of bucket, and who works on it.

    Attributes:
        name: `s3` or `gs`.
        url: the run.
        proxy: what stands before the service.
        environ: what leads a client to the proxy.
        direct: what leads a client past it.
    """

    name: str
    url: str
    proxy: Proxy
    environ: dict[str, str]
    direct: dict[str, str]


@dataclass(slots=True)
class Actor:
    """A process of the soak, begun again whenever it ends."""

    bench: Bench
    role: str
    folder: Path
    until_s: float
    process: subprocess.Popen[bytes] | None = None
    begin_s: float = 0.0
    starts: int = 0
    logs: list[Path] = field(default_factory=list)

    def tend(self, dice: random.Random) -> None:
        """Begin the process when it is time to; note when it ended."""
        now_s = time.monotonic()
        if self.process is not None and self.process.poll() is not None:
            self.process, self.begin_s = None, now_s + dice.uniform(1.0, 8.0)
        if self.process is None and self.begin_s <= now_s < self.until_s - 1:
            self.starts += 1
            self.folder.mkdir(parents=True, exist_ok=True)
            self.logs.append(self.folder / f"{self.starts:04d}.jsonl")
            command = [sys.executable, str(ACTOR), self.role, self.bench.url, str(self.folder / "work")]
            with self.logs[-1].open("wb") as out:
                self.process = subprocess.Popen(
                    [*command, str(self.until_s - now_s)],
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **OPTIONS, **self.bench.environ, "XDG_STATE_HOME": str(self.folder)},
                )

    def end(self, by_s: float) -> None:
        """Wait until it ends; one that does not is asked for its stacks, which are no lines of its log, and killed."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, by_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGUSR1)
            time.sleep(2)
            self.kill()
            self.process.wait(PATIENCE_S)

    def kill(self) -> bool:
        """End it as a machine ends that is taken away."""
        if self.process is None or self.process.poll() is not None:
            return False
        self.process.send_signal(signal.SIGKILL)
        return True

    def lines(self) -> Iterator[tuple[Path, dict[str, object]]]:
        """What it told, by the process that told it."""
        for log in self.logs:
            for line in log.read_text(errors="replace").splitlines():
                try:
                    yield log, json.loads(line)
                except ValueError:
                    yield log, {"what": "WRONG", "problem": f"not a line of ours in {log.name}: {line[:300]}"}


@contextmanager
def benches(seed: int) -> Iterator[list[Bench]]:
    """Both kinds of bucket, each behind a proxy of its own."""
    with ExitStack() as stack:
        s3 = stack.enter_context(ministack())
        create_bucket(s3, "soak")
        gcs = stack.enter_context(GcsServer(buckets=["soak"]))
        before_s3 = stack.enter_context(Proxy(s3.url, seed=seed, log_entries=1000))
        before_gcs = stack.enter_context(Proxy(gcs.url, seed=seed, log_entries=1000))
        aws = dict(s3.environ)
        yield [
            Bench("s3", "s3://soak/run", before_s3, {**aws, "AWS_ENDPOINT_URL_S3": before_s3.url}, aws),
            Bench(
                "gs",
                "gs://soak/run",
                before_gcs,
                {"STORAGE_EMULATOR_HOST": before_gcs.url},
                {"STORAGE_EMULATOR_HOST": gcs.url},
            ),
        ]


def trouble(bench: Bench, dice: random.Random, struck: Counter[str]) -> float:
    """Begin the next phase of a proxy; returns how long it lasts in seconds."""
    entries = bench.proxy.entries()
    struck[f"{bench.name} faults"] += sum(bool(entry.faults) for entry in entries)
    struck[f"{bench.name} requests"] += len(entries)
    bench.proxy.heal()
    name = dice.choice(list(TROUBLES))
    lasts_s = dice.uniform(*PHASE_S)
    for one in TROUBLES[name]:
        bench.proxy.inject(one.fault(), method=one.method, target=one.target, chance=one.chance, for_s=lasts_s)
    struck[f"phases of {name}"] += 1
    return lasts_s


def work(actors: Sequence[Actor], until_s: float, dice: random.Random) -> Counter[str]:
    """Let everybody work, and things go wrong, until it is time."""
    struck: Counter[str] = Counter()
    phase_ends_s = dict.fromkeys((actor.bench.name for actor in actors), 0.0)
    next_kill_s = time.monotonic() + dice.uniform(*KILL_EVERY_S)
    while time.monotonic() < until_s:
        for actor in actors:
            actor.tend(dice)
        for bench in {actor.bench.name: actor.bench for actor in actors}.values():
            if time.monotonic() >= phase_ends_s[bench.name]:
                phase_ends_s[bench.name] = time.monotonic() + trouble(bench, dice, struck)
        if time.monotonic() >= next_kill_s:
            struck["kills"] += dice.choice([actor for actor in actors if actor.role == KILLED]).kill()
            next_kill_s = time.monotonic() + dice.uniform(*KILL_EVERY_S)
        time.sleep(0.1)
    for bench in {actor.bench.name: actor.bench for actor in actors}.values():
        bench.proxy.heal()
    for actor in actors:
        actor.end(time.monotonic() + PATIENCE_S)
    return struck


def problems_of(actor: Actor) -> Iterator[str]:
    """What one process said that must not be, and whether it grew."""
    where = f"{actor.bench.name} {actor.role}"
    by_log: dict[Path, list[dict[str, object]]] = {}
    for log, line in actor.lines():
        if line["what"] == "WRONG":
            yield f"{where}: {line['problem']}"
        elif line["what"] == "footprint":
            by_log.setdefault(log, []).append(line)
    for marks in by_log.values():
        if len(marks) < 20:
            continue
        quarter = len(marks) // 4
        for name, slack in (("memory_bytes", MEMORY_GROWTH_BYTES), ("threads", 2), ("files", 4)):
            early, late = (
                median(float(str(mark[name])) for mark in part)
                for part in (marks[quarter : 2 * quarter], marks[-quarter:])
            )
            if late > early + slack:
                yield f"{where}: {name} grew from {early:.0f} to {late:.0f} in {len(marks)} rounds"


def problems_in_the_bucket(bench: Bench, actors: Sequence[Actor]) -> Iterator[str]:
    """What is wrong with what is left: every snapshot, every commit that was told, and what belongs to nothing."""
    os.environ.update({**OPTIONS, **bench.direct})
    told = [line for actor in actors for _, line in actor.lines()]
    saved = {str(line["snapshot"]): float(str(line["at_s"])) for line in told if line["what"] == "saved"}
    for line in told:
        for one in line["removed"] if line["what"] == "collected" and isinstance(line["removed"], list) else ():
            newer = [other for other, at_s in saved.items() if other > one and at_s < float(str(line["at_s"]))]
            if len(newer) < KEEP - 1:  # a writer may be killed between its commit and its line
                yield f"{bench.name}: {one} was removed when only {len(newer)} were newer"
    removed = {
        str(one)
        for actor in actors
        for _, line in actor.lines()
        if line["what"] == "collected" and isinstance(line["removed"], list)
        for one in line["removed"]
    }
    with open_run(bench.url) as run:
        run.catalog.claims.claim()  # so that what the last writer left is of a writer that was overtaken
        collected = collect(run, LatestN(KEEP), grace_s=0, dry_run=False)
        removed |= set(collected.removed)
        there = {str(listed.id) for listed in run.catalog.listed()}
        failed = any(line["what"] == "failed" for line in told)  # a collector that failed does not tell what it removed
        for snapshot in sorted(saved.keys() - removed - there):
            if not failed or snapshot in sorted(saved)[-KEEP:]:
                yield f"{bench.name}: {snapshot} was committed, and is neither there nor removed by a collector"
        for snapshot in sorted(there):
            if bad := verify(run, snapshot).bad:
                yield f"{bench.name}: {snapshot} is damaged: {bad[0].reason}"
        known = {listed.id for listed in run.catalog.listed()}
        keys = {file.key for one in known for file in run.catalog.get(one).files}
        loose = [found.key for found in run.store.list(layout.DATA) if found.key not in keys]
        uploads = [upload.key for upload in run.store.uploads("")]
        if loose or uploads or collected.foreign:
            yield f"{bench.name}: left behind: {loose[:3]} {uploads[:3]} {collected.foreign[:3]}"


def main() -> int:
    """Work, then look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with benches(options.seed) as found, tempfile.TemporaryDirectory(prefix="ckptsync-soak-") as name:
        until_s = time.monotonic() + 60 * options.minutes
        actors = [
            Actor(bench, role, Path(name) / f"{bench.name}-{number}-{role}", until_s)
            for bench in found
            for number, role in enumerate(ROLES)
        ]
        try:
            counts = work(actors, until_s, dice)
        finally:
            for actor in actors:
                actor.kill()
        for actor in actors:
            counts[f"{actor.bench.name} {actor.role} starts"] += actor.starts
            for _, line in actor.lines():
                counts[f"{actor.bench.name} {line['what']}"] += 1
        problems = [problem for actor in actors for problem in problems_of(actor)]
        for bench in found:
            problems += problems_in_the_bucket(bench, [actor for actor in actors if actor.bench is bench])
    for what, count in sorted(counts.items()):
        sys.stdout.write(f"{what:28} {count}\n")
    for problem in problems:
        sys.stdout.write(f"PROBLEM {problem}\n")
    sys.stdout.write(f"soak of {options.minutes:g} minutes, seed {options.seed}: {len(problems)} problems\n")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
