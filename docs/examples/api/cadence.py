"""Rules that learn from what saves cost, and from how often the run is interrupted."""

from ckptsync.cadence import AtMostOverhead, EarlyThenRarer, YoungDaly
from ckptsync.policy import Moment

ramp = EarlyThenRarer(first=1, factor=2, most=1000)
saved, saves = -1, []
for step in range(20):
    if ramp.is_due(Moment(step=step, saved_step=saved, since_s=1.0)):
        saved = step
        saves.append(step + 1)
assert saves == [1, 2, 4, 8, 16]


def after(since_s: float) -> Moment:
    """So many seconds behind a save that kept the loop waiting for 2 s and was uploaded in 30 s."""
    return Moment(step=9, saved_step=0, since_s=since_s, stall_s=2.0, upload_s=30.0, mtbf_s=10_000.0)


assert not AtMostOverhead(percent=1).is_due(after(199))
assert AtMostOverhead(percent=1).is_due(after(200))
assert not YoungDaly().is_due(after(199))  # sqrt(2 x 2 s x 10 000 s) = 200 s
assert YoungDaly().is_due(after(200))
