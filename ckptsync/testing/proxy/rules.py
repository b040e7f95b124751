"""When a fault strikes."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from ckptsync.testing.proxy.asked import Asked
from ckptsync.testing.proxy.faults import Fault


@dataclass(slots=True, kw_only=True)
class Rule:
    """Which requests a fault strikes.

    Attributes:
        fault: what happens.
        method: of the request; empty means any.
        target: regular expression, searched for in path and query, percent-decoded.
        changes: regular expression, searched for in `bucket/name` of the object it changes; empty means any request. Finishing
            an upload changes its object, a part does not.
        header: name of a field the request must have, or `name: expression` for one whose value must match.
        skip: so many requests that fit go well first.
        times: so many after those are struck; None for all.
        until_s: none is struck from then on, by the proxy's monotonic clock; None for no end.
        chance: of a request that would be struck to be struck indeed, 0.0 to 1.0; the others count as struck.
        seen: requests that fitted.
        struck: requests that were struck.
    """

    fault: Fault
    method: str = ""
    target: re.Pattern[str]
    changes: re.Pattern[str]
    header: str = ""
    skip: int = 0
    times: int | None = 1
    until_s: float | None = None
    chance: float = 1.0
    seen: int = field(default=0, init=False)
    struck: int = field(default=0, init=False)

    def strikes(self, asked: Asked, dice: random.Random) -> bool:
        """Count a request that fits, and tell whether the fault strikes it."""
        if not self._fits(asked) or (self.fault.only_if is not None and not self.fault.only_if(asked)):
            return False
        self.seen += 1
        due = self.skip < self.seen and (self.times is None or self.seen <= self.skip + self.times)
        hit = due and (self.chance >= 1.0 or dice.random() < self.chance)
        self.struck += hit
        return hit

    def _fits(self, asked: Asked) -> bool:
        """Whether the rule is about this request."""
        if self.until_s is not None and asked.at_s >= self.until_s:
            return False
        if self.method not in {"", asked.head.method} or not self.target.search(asked.target):
            return False
        if self.changes.pattern and not (asked.changes and self.changes.search(asked.changes)):
            return False
        name, _, pattern = self.header.partition(":")
        value = asked.head.get(name)
        return not name or (bool(value) and re.search(pattern.strip(), value) is not None)
