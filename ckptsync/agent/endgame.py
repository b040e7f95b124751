"""A notice that this machine will end: decides within a second what its time is used for, does that, and decides anew when numbers change."""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ckptsync.agent.ask import Asker
from ckptsync.agent.backlog import Backlog
from ckptsync.agent.board import Board
from ckptsync.agent.gate import Gate
from ckptsync.agent.gauge import Gauge
from ckptsync.agent.lookout import Candidate
from ckptsync.agent.notice import Notice
from ckptsync.agent.planner import Choice, Outlook, Plan, plan
from ckptsync.clock import Clock
from ckptsync.store.bandwidth import Bandwidth

_AGAIN_S = 0.5
"""So often numbers are looked at while the end is near."""
_OUTLIVED_S = 120.0
"""A machine that is there so long after its deadline will not end: it was migrated, or somebody changed their mind."""
_Wake = Literal["whole", "over"]


@dataclass(slots=True, kw_only=True)
class Endgame:
    """What is known of the end, and done about it. One thread does the work; `tell` and `whole` are for any.

    Attributes:
        backlog: what waits.
        gate: of the bucket; shut to stop the upload under way.
        gauge: tells the rate and what is left.
        board: shows notices and decisions.
        clock: that deadlines are by.
        margin_s: before the deadline all must be over; of a short time it is at most a quarter.
        bandwidth: the cap to be lifted; None when there is none.
        asker: asks the trainer; None asks nobody.
        say: tells people.
        usual_bytes: payload of a checkpoint, by those before and by the size of the newest that is not durable; None when there is none.
        draining: whether the trainer is beyond asking.
    """

    backlog: Backlog
    gate: Gate
    gauge: Gauge
    board: Board
    clock: Clock
    margin_s: float
    bandwidth: Bandwidth | None
    asker: Asker | None
    say: Callable[[str], None]
    usual_bytes: Callable[[int], int | None]
    draining: Callable[[], bool]
    final: Notice | None = None
    plan: Plan | None = None
    _wakes: queue.SimpleQueue[Notice | _Wake] = field(default_factory=queue.SimpleQueue)
    _newest: Candidate | None = None
    _wrote_s: float | None = None
    _asked_s: float | None = None
    _begun_s: float = 0.0
    _kept_s: float = 0.0

    def __post_init__(self) -> None:
        """Begin to count work that may be lost."""
        self._begun_s = self.clock.monotonic()

    # -- for any thread ----------------------------------------------------------------------------------------------

    def tell(self, notice: Notice) -> None:
        """Take in a notice; returns at once, also amid a signal handler."""
        self._wakes.put(notice)

    def whole(self, newest: Candidate) -> None:
        """Say which checkpoint is the newest whole one."""
        if self._newest is None or newest.mark != self._newest.mark:
            self._newest = newest
            self._wrote_s = newest.wrote_s or self._wrote_s
            self._wakes.put("whole")

    def close(self) -> None:
        """Let `work` return."""
        self._wakes.put("over")

    @property
    def awaits(self) -> bool:
        """Whether the trainer was asked, and its last checkpoint is not whole yet."""
        return self._asked_s is not None and (self._newest is None or self._newest.whole_s < self._asked_s)

    def left_s(self) -> float | None:
        """Seconds for work, less the margin; None where nobody says."""
        if self.final is None or self.final.deadline_s is None:
            return None
        return self.final.deadline_s - self._kept_s - self.clock.monotonic()

    # -- one thread --------------------------------------------------------------------------------------------------

    def work(self) -> None:
        """Wait for notices, and see each through to its end."""
        while True:
            try:
                woken = self._wakes.get(timeout=None if self.final is None else _AGAIN_S)
            except queue.Empty:
                self.look_again()
                continue
            if woken == "over":
                return
            if isinstance(woken, Notice):
                self.take_in(woken)
            else:
                self.look_again()

    def take_in(self, notice: Notice) -> None:
        """Show a notice, and begin to act on it where it is final; the earliest deadline counts."""
        self.board.noticed(notice)
        self.say(f"notice of {notice.source}: {notice.message}")
        self.backlog.hurry()
        if not notice.final:
            return
        if self.final is None or _deadline(notice) < _deadline(self.final):
            self.final, self.plan = notice, None
            self._kept_s = min(self.margin_s, max(0.0, _deadline(notice) - self.clock.monotonic()) / 4)
        self.lift_cap()
        self.decide()

    def lift_cap(self) -> None:
        """Send at full speed from now on. Safe to call again, from any thread."""
        bandwidth, self.bandwidth = self.bandwidth, None
        if bandwidth is not None:
            bandwidth.lift()
            self.gauge.forget_rate()  # what was measured was the cap

    def look_again(self) -> None:
        """Decide anew, where a notice is in force and nothing is awaited."""
        if self.final is None:
            return
        left_s = self.left_s()
        if left_s is not None and left_s + self._kept_s < -_OUTLIVED_S:
            self._go_on()
        elif not self.awaits:
            self.decide()

    def decide(self) -> None:
        """Plan, tell a choice that is new, and act."""
        decided = plan(self.outlook())
        if self.plan is None or decided.choice is not self.plan.choice:
            self.say(f"decided to {decided.choice}: {decided.why}")
            self.board.decided(decided.choice, decided.why)
        self.plan = decided
        if decided.choice is Choice.KEEP:
            if self.backlog.pending:
                self.backlog.pause()
                self.gate.shut(decided.why)
            return
        self.gate.open()
        self.backlog.resume()
        if decided.choice is Choice.ASK:
            self._ask()
        else:
            self._let_overtake()

    def outlook(self) -> Outlook:
        """What is known at this moment."""
        waiting, under_way, pending = self.backlog.waiting, self.backlog.under_way, self.backlog.pending
        since_s = self._begun_s if self._newest is None else self._newest.whole_s
        return Outlook(
            left_s=self.left_s(),
            bytes_per_s=self.gauge.bytes_per_s,
            under_way_bytes=self.gauge.left_bytes if under_way else 0,
            waiting_bytes=waiting[-1].bytes if waiting else 0,
            fresh_bytes=self.usual_bytes(pending[-1].bytes if pending else 0),
            fresh_s=self._wrote_s,
            can_ask=self.asker is not None and self._asked_s is None and not self.draining(),
            lost_s=self.clock.monotonic() - since_s,
            asked=self._asked_s is not None,
        )

    def _ask(self) -> None:
        """Ask the trainer, once; where it cannot be reached, decide without it."""
        assert self.final is not None  # noqa: S101  nothing is decided without a notice
        assert self.asker is not None  # noqa: S101  or else it cannot be asked
        self._asked_s = self.clock.monotonic()
        if ways := self.asker.ask(self.final):
            self.say(f"asked the trainer for a last checkpoint by {ways}")
            return
        self.say(f"the trainer could not be asked by {self.asker.name}")
        self.asker = None
        self._asked_s = None
        self.decide()

    def _let_overtake(self) -> None:
        """Stop the upload under way where only the newer checkpoint can be durable in time."""
        left_s, rate, waiting = self.left_s(), self.gauge.bytes_per_s, self.backlog.waiting
        if left_s is None or not rate or not waiting or self.backlog.under_way is None:
            return
        alone_s = waiting[-1].bytes / rate
        if alone_s <= left_s < alone_s + self.gauge.left_bytes / rate:
            self.say(f"{waiting[-1].title} goes first: there is no time for both")
            self.backlog.prefer_newest()
            self.gate.shut("a newer checkpoint goes first")

    def _go_on(self) -> None:
        """Forget a notice that did not come true."""
        self.say("this machine has outlived its deadline; work goes on as before")
        self.final = self.plan = self._asked_s = None
        self.gate.open()
        self.backlog.resume()


def _deadline(notice: Notice) -> float:
    """For comparison."""
    return float("inf") if notice.deadline_s is None else notice.deadline_s
