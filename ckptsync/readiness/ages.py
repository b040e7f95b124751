"""Which checkpoint is newer: by the times of its files, unless a later step comes with an earlier time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ckptsync.readiness.base import Ready
from ckptsync.readiness.names import family

_SET_NS = 10**18
"""A clock that is before 2001 was never set."""
_SLACK_NS = 60 * 10**9


@dataclass(frozen=True, slots=True)
class _Age:
    """Where a checkpoint stands.

    Attributes:
        written_ns: when its newest file was written.
        order_ns: that it is ordered by; the same, or behind those of its kind that were there before.
    """

    written_ns: int
    order_ns: int


@dataclass(slots=True)
class Ages:
    """Remembers what was there at the look before. For one thread.

    Clocks are set back, and files are moved in with the times of another disk. A checkpoint that comes later than others of its kind, and is
    of a later step than all of them, is newer whatever its time. One of an earlier step is newer by its time alone: trainings go back.
    """

    _known: dict[str, _Age] = field(default_factory=dict)

    def in_order(self, checkpoints: Iterable[Ready], written_ns: Mapping[str, int], now_ns: int) -> tuple[Ready, ...]:
        """The oldest first; what has the same time by step and name.

        Args:
            checkpoints: that are whole.
            written_ns: when each file was written, by path.
            now_ns: by the clock of this machine.
        """
        found = list(checkpoints)
        before = [(family(one.name), one.step, self._known[one.name]) for one in found if one.name in self._known]
        known: dict[str, _Age] = {}
        for one in found:
            newest_ns = max((written_ns.get(path, 0) for path in one.paths), default=0)
            age = self._known.get(one.name)
            if age is None or age.written_ns != newest_ns:
                age = _Age(newest_ns, max(newest_ns, _behind(one, before)))
            known[one.name] = age
        self._known = known
        order_ns = {one.name: known[one.name].order_ns for one in found}
        if now_ns > _SET_NS:
            order_ns |= dict(_by_step(found, known, now_ns))
        return tuple(
            sorted(found, key=lambda one: (order_ns[one.name], -1 if one.step is None else one.step, one.name))
        )


def _by_step(found: Iterable[Ready], known: Mapping[str, _Age], now_ns: int) -> Iterator[tuple[str, int]]:
    """Where those stand whose time is still to come, as the clock was set back: behind the last of their kind with an earlier step."""
    told = [one for one in found if one.step is not None]
    ahead = {one.name for one in told if known[one.name].written_ns > now_ns + _SLACK_NS}
    for one in told:
        if one.name in ahead:
            earlier = [other for other in told if other.name not in ahead and family(other.name) == family(one.name)]
            steps = [known[other.name].order_ns for other in earlier if (other.step or 0) < (one.step or 0)]
            yield one.name, max(steps, default=-1) + 1


def _behind(one: Ready, before: Iterable[tuple[str, int | None, _Age]]) -> int:
    """Where it stands at least, as it is of a later step than all that were there before; 0 where it is not."""
    alike = [(step, age) for kind, step, age in before if kind == family(one.name) and step is not None]
    if one.step is None or not alike or one.step <= max(step for step, _ in alike):
        return 0
    return max(age.order_ns for _, age in alike) + 1
