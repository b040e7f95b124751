"""What interruptions cost a training job: computed from what its snapshots tell, without asking anybody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from ckptsync.snapshot.cost import Loop
from ckptsync.snapshot.layout import SnapshotId, parse_snapshot_id

_MOST_S = 1e12
"""Figures in a manifest may be anything; so many seconds are more than any."""
NO_STEP = -1
_SLACK_S = 5.0
"""Clocks and commits may take so long to agree."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A snapshot, as a report sees it.

    Attributes:
        snapshot: its id.
        step: training step.
        epoch: which writer of the run.
        committed_s: when, seconds since the Unix epoch by the writer's clock.
        host: who committed.
        pid: the process.
        ranks: how many brought it; 0 when there was a single writer.
        bytes: of its files.
        bytes_sent: that its save sent.
        bytes_reused: that were in the bucket already or were copied there.
        upload_s: seconds that its save took.
        exposed_s: seconds of work that a crash would have lost right before it was committed; None for the first.
        loop: what the training loop told; None when something else saved.
        metrics: None stands for values that are no numbers.
        quarantined: it was found bad.
    """

    snapshot: str
    step: int
    epoch: int
    committed_s: float
    host: str
    pid: int
    ranks: int = 0
    bytes: int = 0
    bytes_sent: int = 0
    bytes_reused: int = 0
    upload_s: float = 0.0
    exposed_s: float | None = None
    loop: Loop | None = None
    metrics: dict[str, float | None]
    quarantined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A stretch of work without interruption.

    Attributes:
        host: of the writer.
        begun_s: when it began, or its first snapshot that is left did, seconds since the Unix epoch.
        ended_s: when its last snapshot was committed.
        first_step: of its first snapshot that is left.
        last_step: of its last.
        saves: how many it committed or, where it tells, began.
        stalled_s: seconds that the loop waited for them; None when it does not tell.
        resume_s: seconds that it took to restore; likewise.
    """

    host: str
    begun_s: float
    ended_s: float
    first_step: int
    last_step: int
    saves: int
    stalled_s: float | None
    resume_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interruption:
    """Where work stopped and was taken up again.

    Attributes:
        kind: `restart` by another process, or `rollback` by the same one.
        last_step: of the newest snapshot before it that is known of.
        resumed_step: of the snapshot it went on from; -1 for the very beginning.
        steps_lost: that are known to have been done, and were not in the snapshot it went on from.
        stopped_s: when that newest snapshot was committed, seconds since the Unix epoch.
        gap_s: from there to the first snapshot behind the interruption.
        lost_s: the part of the gap that brought no step forward: what was done and not saved, what was done again, the time
            until a machine was there, and the restore. None when the pace is not known.
        resume_s: seconds of the restore; None when nobody told.
        host: of who went on.
    """

    kind: Literal["restart", "rollback"]
    last_step: int
    resumed_step: int
    steps_lost: int
    stopped_s: float
    gap_s: float
    lost_s: float | None
    resume_s: float | None
    host: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Where the time went, as far as snapshots that are left tell.

    Attributes:
        wall_s: from the beginning of the first process to the last commit.
        stalled_s: of those, spent waiting for saves; None when nobody told.
        lost_s: of those, lost to interruptions.
        percent: what is left for training; None when there is too little to tell.
        step_s: seconds a step takes, saves included; None when unknown.
    """

    wall_s: float
    stalled_s: float | None
    lost_s: float
    percent: float | None
    step_s: float | None


def seconds(value: float) -> float:
    """Return a figure from a manifest as seconds that can be reckoned with."""
    return min(max(value, 0.0), _MOST_S)


def is_same_process(one: Point, other: Point) -> bool:
    """Tell whether the process that committed `one` went on to commit `other`; two ranks of one launch count as one.

    In containers every host and process may have the same name and number; then the time it says it runs tells them apart.
    """
    if one.epoch == other.epoch:
        return True
    if one.ranks or other.ranks or (one.host, one.pid) != (other.host, other.pid):
        return False
    if one.loop is None or other.loop is None:
        return one.loop is other.loop
    ran_s = seconds(other.loop.running_s) - seconds(one.loop.running_s)
    passed_s = other.committed_s - one.committed_s
    return abs(ran_s - passed_s) <= _SLACK_S + one.upload_s + other.upload_s


def is_interrupted(one: Point, other: Point) -> bool:
    """Tell whether work stopped between two snapshots that follow each other.

    A training loop keeps its epoch until it goes back. A program that saves by calling `ckptsync save` takes another one each
    time, so that this alone proves nothing there: only a step that is not higher does, another host, or another launch of ranks.
    """
    if other.step <= one.step:
        return True
    if one.epoch == other.epoch:
        return False
    return other.loop is not None or one.host != other.host or bool(other.ranks)


def exposed_s(point: Point, before: Point | None) -> float | None:
    """Return how many seconds of work a crash would have lost right before a snapshot was committed.

    The loop tells the time since its last save, whose snapshot may be gone; else it is that since the snapshot before it.
    """
    if point.loop is not None and point.loop.saves > 1:
        return seconds(point.loop.interval_s) + point.upload_s
    return None if before is None else seconds(point.committed_s - before.committed_s + before.upload_s)


def pace_s(points: Sequence[Point]) -> float | None:
    """Return the seconds a step takes, saves included; None when no process left two snapshots."""
    paces = [
        (later.committed_s - sooner.committed_s) / (later.step - sooner.step)
        for sooner, later in pairwise(points)
        if not is_interrupted(sooner, later) and later.committed_s > sooner.committed_s
    ]
    return median(paces) if paces else None


def processes(points: Sequence[Point]) -> tuple[Process, ...]:
    """Return the stretches of work between interruptions, in order."""
    return tuple(_process(stretch) for stretch in _stretches(points))


def _stretches(points: Sequence[Point]) -> Iterator[list[Point]]:
    """Cut where work was interrupted."""
    stretch: list[Point] = []
    for point in points:
        if stretch and is_interrupted(stretch[-1], point):
            yield stretch
            stretch = []
        stretch.append(point)
    if stretch:
        yield stretch


def _process(stretch: Sequence[Point]) -> Process:
    """Sum up a stretch; what its last snapshot tells holds for all of it."""
    first, last = stretch[0], stretch[-1]
    before_s = first.upload_s + (seconds(first.loop.running_s) if first.loop else 0.0)
    return Process(
        host=last.host,
        begun_s=first.committed_s - before_s,
        ended_s=max(last.committed_s, first.committed_s),
        first_step=first.step,
        last_step=last.step,
        saves=max(len(stretch), last.loop.saves if last.loop else 0),
        stalled_s=seconds(last.loop.stalled_s) if last.loop else None,
        resume_s=seconds(last.loop.resume_s) if last.loop else None,
    )


def interruptions(points: Sequence[Point], step_s: float | None) -> tuple[Interruption, ...]:
    """Return what each interruption cost, in order.

    Args:
        points: snapshots, the oldest first.
        step_s: seconds a step takes; None when unknown.
    """
    found: list[Interruption] = []
    for number, (before, after) in enumerate(pairwise(points), start=1):
        if is_interrupted(before, after):
            found.append(_interruption(points, number, step_s))
    return tuple(found)


def unseen(points: Sequence[Point], newest_epoch: int) -> int:
    """Return how many more times work stopped, of which no snapshot is left that shows it.

    Each process of a training loop takes an epoch, and retention leaves those of some without a snapshot. Beside snapshots of
    other programs, which take one for each save, an epoch proves nothing.

    Args:
        points: snapshots, the oldest first.
        newest_epoch: that anybody claimed; 0 when that is not known.
    """
    if not points:
        return 0
    found = points[0].epoch - 1 if points[0].loop else 0
    for before, after in pairwise(points):
        if before.loop and after.loop:
            found += max(0, after.epoch - before.epoch - 1)
    return found + (max(0, newest_epoch - points[-1].epoch) if points[-1].loop else 0)


def _interruption(points: Sequence[Point], number: int, step_s: float | None) -> Interruption:
    """Compare what was reached before a point with what it went on from."""
    last, after = points[number - 1], points[number]
    resumed = _went_on_from(points, number)
    rolled_back = is_same_process(last, after)
    told, earlier_told = after.loop or Loop(), (rolled_back and last.loop) or Loop()
    gap_s = seconds(after.committed_s - last.committed_s)
    forward_s = None if step_s is None else (after.step - resumed) * step_s
    return Interruption(
        kind="rollback" if rolled_back else "restart",
        last_step=max(last.step, resumed),
        resumed_step=resumed,
        steps_lost=max(0, last.step - resumed, told.steps_redone - earlier_told.steps_redone),
        stopped_s=last.committed_s,
        gap_s=gap_s,
        lost_s=None if forward_s is None else max(0.0, gap_s - forward_s),
        resume_s=seconds(told.resume_s - earlier_told.resume_s) if after.loop else None,
        host=after.host,
    )


def _went_on_from(points: Sequence[Point], number: int) -> int:
    """Step of the snapshot that was restored: as told, or the newest from which this step can be reached."""
    after = points[number]
    if after.loop is not None:
        told: SnapshotId | None = parse_snapshot_id(after.loop.resumed_from)
        return NO_STEP if told is None else min(told.step, after.step)
    earlier = (points[index].step for index in range(number - 1, -1, -1))
    return next((step for step in earlier if step < after.step), NO_STEP)


def share(work: Sequence[Process], stops: Iterable[Interruption], step_s: float | None) -> Share:
    """Return where the time went.

    Args:
        work: stretches, in order.
        stops: what came between them.
        step_s: seconds a step takes; None when unknown.
    """
    wall_s = max(0.0, max(one.ended_s for one in work) - work[0].begun_s) if work else 0.0
    told = [one.stalled_s for one in work if one.stalled_s is not None]
    lost_s = sum(stop.gap_s if stop.lost_s is None else stop.lost_s for stop in stops)
    away_s = sum(told) + lost_s
    return Share(
        wall_s=wall_s,
        stalled_s=sum(told) if told else None,
        lost_s=lost_s,
        percent=100 * max(0.0, 1 - away_s / wall_s) if wall_s and step_s is not None else None,
        step_s=step_s,
    )
