"""Rules are joined with `|`: a save is due when one says so, and a snapshot stays when one keeps it."""

from ckptsync import BestN, EveryNSeconds, EveryNSteps, LatestN, Within
from ckptsync.policy import AnyOf, Candidate, KeepPolicy, Moment, SavePolicy
from ckptsync.snapshot.layout import SnapshotId

save = EveryNSteps(100) | EveryNSeconds(600)
assert isinstance(save, AnyOf)
assert save.is_due(Moment(step=100, saved_step=99, since_s=1.0))
assert save.is_due(Moment(step=42, saved_step=10, since_s=601.0))
assert not save.is_due(Moment(step=42, saved_step=10, since_s=1.0))


class AtNight:
    """A rule of one's own needs no base class."""

    def is_due(self, moment: Moment) -> bool:
        """Save at steps that end in 7."""
        return moment.step % 10 == 7


night: SavePolicy = AtNight()
assert (EveryNSteps(100) | night).is_due(Moment(step=7, saved_step=6, since_s=1.0))

hour_s = 3600.0
candidates = [
    Candidate(id=SnapshotId(1, step, "abcdefgh"), created_s=step * hour_s, metrics={"loss": 1 / step})
    for step in (40, 30, 20, 10)
]
keep: KeepPolicy = LatestN(1) | BestN("loss", "max") | Within(10 * hour_s)
assert sorted(one.step for one in keep.keeps(candidates, now_s=40 * hour_s)) == [10, 30, 40]
