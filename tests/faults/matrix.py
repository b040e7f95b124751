"""The kill matrix: every request of every verb x every fault x every kind of bucket, and what must hold after each.

A dry run counts a verb's requests. Then the verb is run once for each of them and struck there; the bucket is looked at, the
verb is run again, and everything is cleaned up and looked at once more.
"""

from __future__ import annotations

import random
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.tree import fingerprint

from ckptsync.errors import CkptsyncError, StoreError, TransientError
from ckptsync.testing.faults import Call, Fault, Killed

from .beds import IN_MEMORY, Bed, Kind, Trees, make_trees, quick
from .checks import check_clean, check_restores, check_whole
from .scenarios import Scenario

Point = tuple[str, int]
"""A verb of the store, and how many of its requests go well before one is struck."""

FAULTS = ("killed before", "killed after", "error", "error for good", "lost answer")


@dataclass(slots=True)
class Row:
    """One line of the table.

    Attributes:
        scenario: verb of ckptsync.
        fault: what happened to the request.
        kind: of bucket.
        points: requests struck, by verb of the store.
        failures: what was wrong, a line for each request.
    """

    scenario: str
    fault: str
    kind: str
    points: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)


def arm(bed: Bed, fault: str, point: Point) -> None:
    """Let one request meet a fault. After a death nothing reaches the bucket any more, whatever is tried."""
    verb, skip = point
    dead: list[bool] = []

    def strike() -> None:
        if fault.startswith("killed"):
            dead.append(True)
            raise Killed
        raise (StoreError if fault == "error for good" else TransientError)("injected", op=verb)

    def stay_dead(_: Call) -> None:
        if dead:
            raise Killed

    bed.faulty.inject(Fault(stay_dead), times=None)
    if fault in {"killed after", "lost answer"}:
        bed.answers.struck, bed.answers.strike = point, strike
    else:
        bed.faulty.inject(Fault(lambda _: strike()), verb=verb, skip=skip)


class Column:
    """A scenario on one kind of bucket, struck again and again. Use as a context manager."""

    def __init__(self, scenario: Scenario, kind: Kind, trees: Trees, folder: Path) -> None:
        self.scenario, self.kind, self.trees, self.folder = scenario, kind, trees, folder
        self._count = 0
        self._base = self._arranged() if not kind.on_disk else None

    def _fresh_folder(self) -> Path:
        self._count += 1
        folder = self.folder / str(self._count)
        folder.mkdir(parents=True)
        return folder

    def _arranged(self) -> Bed:
        bed = Bed(self.kind, self.trees, self._fresh_folder())
        self.scenario.arrange(bed)
        return bed

    @contextmanager
    def bed(self) -> Iterator[Bed]:
        """What was there before, once more; a directory's files are known by their inodes, so it is made anew."""
        bed = self._base.cloned(self._fresh_folder()) if self._base else self._arranged()
        try:
            yield bed
        finally:
            shutil.rmtree(bed.folder)

    def points(self) -> list[Point]:
        """Every request of the verb, by a dry run."""
        with self.bed() as bed:
            self.scenario.loses(bed)
            bed.heal()
            self.scenario.act(bed)
            seen: Counter[str] = Counter()
            points = []
            for call in bed.faulty.calls:
                points.append((call.verb, seen[call.verb]))
                seen[call.verb] += 1
        return points

    def strike(self, fault: str, point: Point) -> None:
        """Run the verb with one fault, and check everything.

        Raises:
            AssertionError: something that must hold did not.
        """
        with self.bed() as bed:
            loses = self.scenario.loses(bed)
            before = check_whole(bed.plain, bed.verified).keys()
            target = bed.folder / "target"
            stood = fingerprint(target) if target.exists() else None
            bed.heal()
            bed.ledger.sent.clear()
            arm(bed, fault, point)
            done = self._act(bed, fault)
            bed.heal()
            self._check_after_the_fault(bed, before - loses, stood, done=done)
            self._check_again(bed, fault, point, before - loses, done=done)
            check_clean(bed)
            check_restores(bed, [self.scenario.after(bed)])

    def _act(self, bed: Bed, fault: str) -> bool:
        """Run the verb; tells whether it finished. It may not fail otherwise than the fault demands."""
        what = "a death nobody asked for"
        try:
            self.scenario.act(bed)
        except Killed:
            expected = fault.startswith("killed")
        except CkptsyncError as problem:
            expected, what = fault == "error for good", repr(problem)
        else:
            assert not fault.startswith("killed"), "nobody was killed"
            return True
        assert expected, f"failed with {what}"
        return False

    def _check_after_the_fault(self, bed: Bed, stays: set[object], stood: dict[str, str] | None, *, done: bool) -> None:
        """Nothing committed is lost or torn, and a reader sees the old or the new."""
        there = check_whole(bed.plain, bed.verified)
        assert stays <= there.keys(), "a committed snapshot disappeared"
        if self.scenario.target:
            target = bed.folder / "target"
            seen = fingerprint(target) if target.exists() else None
            assert seen in (stood, self.scenario.after(bed)), "the target is neither as it was nor as it shall be"
        allowed = [self.scenario.after(bed)] if done else self.scenario.during(bed)
        check_restores(bed, allowed, over=bed.trees.old)

    def _check_again(self, bed: Bed, fault: str, point: Point, stays: set[object], *, done: bool) -> None:
        """The verb, called again, finishes, and sends nothing twice but what was in flight."""
        if self.scenario.journal_lost:
            bed.lose_journal()
        if not done:
            self.scenario.act(bed)
        in_flight = self.kind.workers
        if fault == "error for good" and point[0] in {"copy", "copy_part"}:
            in_flight += 3  # what cannot be copied is sent, and its file with it
        assert bed.ledger.repeats() <= in_flight, f"sent twice: {Counter(bed.ledger.sent)}"
        if done:
            self.scenario.act(bed)
        assert stays <= check_whole(bed.plain, bed.verified).keys(), "a committed snapshot disappeared"
        assert self.scenario.proves(bed), "the verb finished and has not done its work"
        if self.scenario.target:
            assert fingerprint(bed.folder / "target") == self.scenario.after(bed)
        kept = list(bed.folder.glob("target.*"))
        if fault != "error for good":  # who cannot ask whether content is in the bucket keeps it
            assert not kept, "content of a snapshot was taken for foreign, or litter stays"


def strike_all(
    scenario: Scenario, kind: Kind, *, share: float = 1.0, only: tuple[str, ...] = FAULTS, seed: int = 0
) -> list[Row]:
    """Strike a scenario on a kind of bucket at every request, or at a random share of them, with every fault."""
    dice = random.Random(f"{scenario.name} {kind.name} {seed}")
    rows = [Row(scenario.name, fault, kind.name) for fault in only]
    with quick(), tempfile.TemporaryDirectory(prefix="faults-", dir=IN_MEMORY) as name:
        folder = Path(name)
        column = Column(scenario, kind, make_trees(folder / "trees"), folder / "beds")
        points = column.points()
        for row in rows:
            chosen = points if share >= 1 else dice.sample(points, max(1, round(share * len(points))))
            for point in chosen:
                row.points[point[0]] += 1
                try:
                    column.strike(row.fault, point)
                except Exception as problem:  # noqa: BLE001  whatever it is, the table shows it
                    where = traceback.extract_tb(problem.__traceback__)[-1]
                    row.failures.append(
                        f"{row.scenario} / {row.kind} / {row.fault} / {point[0]} number {point[1] + 1}: "
                        f"{type(problem).__name__}: {problem} ({where.name}, line {where.lineno})"
                    )
    return rows
