"""A sample of the matrix with real processes and a real SIGKILL, on a directory, a loopback S3 and a loopback GCS."""

from __future__ import annotations

import random
import signal
import sys
import tempfile
from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path

from support.tree import fingerprint

from ckptsync import names
from ckptsync.config import resolve
from ckptsync.policy import LatestN
from ckptsync.run import Run, open_run
from ckptsync.store.retry import Retrying
from ckptsync.testing.faults import Faulty
from ckptsync.verbs.gc import collect
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save

from .actor import OPTIONS, act
from .checks import check_whole
from .matrix import Row
from .processes import Place, actor, ended, make_tree, place

PLACES = ("directory", "s3", "gcs")
VERBS = ("save", "restore", "gc", "promote")
KILLS = ("kill-before", "kill-after")


def _step(verb: str) -> int:
    """What a verb is told: a step, or gc its grace period."""
    return 0 if verb == "gc" else 2


class Killing:
    """Runs on one kind of bucket, whose verbs are killed."""

    def __init__(self, where: Place, folder: Path) -> None:
        self.where, self.folder = where, folder
        self.old, self.new = make_tree(folder / "old", 1), make_tree(folder / "new", 2)
        self.count = 0

    def url(self, number: int) -> str:
        return f"{self.where.base}/run-{number}"

    def opened(self, number: int) -> AbstractContextManager[Run]:
        """A run, from this process; it shares the journals of those that are killed."""
        config = resolve({**OPTIONS, "state_dir": str(self.folder / "state")})
        return open_run(self.url(number), config, observer=lambda _: None)

    def path(self, verb: str, number: int) -> Path:
        return {"save": self.new, "restore": self.folder / f"target-{number}"}.get(verb, self.folder)

    def killed(self, number: int, verb: str, *fault: object) -> int:
        """Run a verb in a process that a fault ends; returns its exit code."""
        arguments = [verb, self.url(number), self.path(verb, number), _step(verb), *fault]
        return ended(actor(*arguments, environ=self.where.environ, state=self.folder / "state"))[0]

    def arranged(self, verb: str) -> int:
        """A run with the old tree, and the new one where the verb is not what brings it."""
        self.count += 1
        with self.opened(self.count) as run:
            for step, tree in enumerate((self.old, self.new) if verb != "save" else (self.old,), 1):
                save(run, tree, step=step)
        return self.count

    def points(self, verb: str) -> list[tuple[str, int]]:
        """Requests of the verb, each with how many of its kind came before."""
        number = self.arranged(verb)
        with self.opened(number) as run:
            assert isinstance(run.store, Retrying)
            faulty = run.store.inner = Faulty(run.store.inner)
            act(run, verb, self.path(verb, number), _step(verb))
        seen: Counter[str] = Counter()
        points = []
        for call in faulty.calls:
            points.append((call.verb, seen[call.verb]))
            seen[call.verb] += 1
        return points

    def kill(self, verb: str, kill: str, point: tuple[str, int]) -> None:
        """Kill the verb at one request, and check everything.

        Raises:
            AssertionError: something that must hold did not.
        """
        number = self.arranged(verb)
        with self.opened(number) as run:
            before = check_whole(run, set()).keys()
            code = self.killed(number, verb, kill, point[0], "*", point[1])
            if not (kill == "kill-after" and code == 0):  # a request that is refused has no answer to die after
                assert code == -signal.SIGKILL, f"it ended with {code}"
            there = check_whole(run, set())
            newest = {max(before)}
            assert (newest if verb == "gc" else before) <= there.keys(), "a committed snapshot disappeared"
            expected = {"save": [self.old, self.new]}.get(verb, [self.new])
            self._check_restore(run, number, expected)
            act(run, verb, self.path(verb, number), _step(verb))
            assert newest <= check_whole(run, set()).keys()
            self._check_restore(run, number, [self.new])
            if verb == "promote":
                assert names.find(run.catalog, "best").step == 2
            collect(run, LatestN(1), grace_s=0, dry_run=False)
            assert not list(run.store.uploads("")), "uploads left behind"
            check_whole(run, set())
            self._check_restore(run, number, [self.new])

    def _check_restore(self, run: Run, number: int, allowed: list[Path]) -> None:
        target = self.folder / f"seen-{number}"
        restore(run, target)
        assert fingerprint(target) in [fingerprint(tree) for tree in allowed]


def strike(killing: Killing, verb: str, sample: int) -> list[Row]:
    """Kill one verb on one kind of bucket at a random sample of its requests."""
    name = killing.where.name
    dice = random.Random(f"{name} {verb}")
    rows = [Row(verb, f"SIGKILL {kill.removeprefix('kill-')}", name) for kill in KILLS]
    points = killing.points(verb)
    for row, kill in zip(rows, KILLS, strict=True):
        for point in dice.sample(points, min(sample, len(points))):
            row.points[point[0]] += 1
            try:
                killing.kill(verb, kill, point)
            except Exception as problem:  # noqa: BLE001  whatever it is, the table shows it
                row.failures.append(f"{verb} on {name}, {kill} {point[0]} number {point[1] + 1}: {problem!r}")
    return rows


def sample(size: int) -> list[Row]:
    """Kill every verb on every kind of bucket, at so many requests before and after."""
    rows = []
    for name in PLACES:
        with tempfile.TemporaryDirectory(prefix="sigkill-") as folder, place(name, Path(folder)) as where:
            killing = Killing(where, Path(folder))
            for verb in VERBS:
                rows += strike(killing, verb, size)
                struck = sum(row.points.total() for row in rows[-2:])
                sys.stdout.write(f"SIGKILL: {verb} on {name}: {struck} processes killed\n")
                sys.stdout.flush()
    return rows
