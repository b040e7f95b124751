"""How often to save where that depends on what saving costs and on how often the job is interrupted. Joined with `|` like all policies."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ckptsync.errors import ConfigError
from ckptsync.policy import Joinable, Moment


@dataclass(frozen=True, slots=True)
class EarlyThenRarer(Joinable):
    """Saves often while little is done, and ever more rarely: when `factor` times the steps of the last save are done.

    Attributes:
        first: steps until the first save, 1 or more.
        factor: more than 1; 2 saves at 1, 2, 4, 8… steps.
        most: steps between saves at the most, 1 or more.
    """

    first: int = 1
    factor: float = 2.0
    most: int = 1000

    def __post_init__(self) -> None:
        if not (self.first >= 1 and self.factor > 1 and self.most >= 1):
            raise ConfigError("EarlyThenRarer: first and most must be 1 or more, and factor more than 1")

    def is_due(self, moment: Moment) -> bool:
        """Return whether so many more steps are done."""
        done, saved = moment.step + 1, moment.saved_step + 1
        return done - saved >= min(self.most, max(self.first, math.ceil(saved * (self.factor - 1))))


@dataclass(frozen=True, slots=True)
class AtMostOverhead(Joinable):
    """Saves as often as it may cost: the loop waits for saves `percent` of its time at most, and no save for the one before.

    Attributes:
        percent: more than 0, at most 100.
    """

    percent: float

    def __post_init__(self) -> None:
        if not 0 < self.percent <= 100:  # noqa: PLR2004  so many are a whole
            raise ConfigError(f"AtMostOverhead: {self.percent} percent; it must be more than 0 and at most 100")

    def is_due(self, moment: Moment) -> bool:
        """Return whether the last save is paid for, and over; the first is due at once, to learn what one costs."""
        return _is_over(moment) and moment.since_s >= (moment.stall_s or 0.0) * 100 / self.percent


@dataclass(frozen=True, slots=True)
class YoungDaly(Joinable):
    """Saves as often as loses least time, to saves and to interruptions together: every sqrt(2 x stall x mtbf) seconds.

    It waits longer while a save is under way: the loop waits for none.

    Sources: Young, "A first order approximation to the optimum checkpoint interval", CACM 17(9), 1974; Daly, "A higher order
    estimate of the optimum checkpoint interval for restart dumps", FGCS 22(3), 2006.

    Attributes:
        mtbf_s: mean seconds between interruptions, more than 0; None takes those of this run, and `unknown_s` before the second.
        unknown_s: seconds between interruptions while nothing is known of them, more than 0.
    """

    mtbf_s: float | None = None
    unknown_s: float = 4 * 3600.0

    def __post_init__(self) -> None:
        if not ((self.mtbf_s is None or self.mtbf_s > 0) and self.unknown_s > 0):
            raise ConfigError("YoungDaly: mtbf_s and unknown_s must be more than 0")

    def is_due(self, moment: Moment) -> bool:
        """Return whether the interval is over, and the last save; the first is due at once, to learn what one costs."""
        mtbf_s = self.mtbf_s or moment.mtbf_s or self.unknown_s
        return _is_over(moment) and moment.since_s >= math.sqrt(2 * (moment.stall_s or 0.0) * mtbf_s)


def _is_over(moment: Moment) -> bool:
    """Whether the loop would not wait for the save before: none is under way, and where nobody tells, its time is over."""
    return moment.under_way_s is None and moment.since_s >= (moment.upload_s or 0.0)
