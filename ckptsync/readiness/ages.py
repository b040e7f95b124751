"""Which checkpoint is newer: by the times of its files, unless a later step comes with an earlier time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ckptsync.readiness.base import Ready
from ckptsync.readiness.names import family


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

    def in_order(self, checkpoints: Iterable[Ready], written_ns: Mapping[str, int]) -> tuple[Ready, ...]:
        """The oldest first; what has the same time by step and name.

        Args:
            checkpoints: that are whole.
            written_ns: when each file was written, by path.
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
        return tuple(
            sorted(found, key=lambda one: (known[one.name].order_ns, -1 if one.step is None else one.step, one.name))
        )


def _behind(one: Ready, before: Iterable[tuple[str, int | None, _Age]]) -> int:
    """Where it stands at least, as it is of a later step than all that were there before; 0 where it is not."""
    alike = [(step, age) for kind, step, age in before if kind == family(one.name) and step is not None]
    if one.step is None or not alike or one.step <= max(step for step, _ in alike):
        return 0
    return max(age.order_ns for _, age in alike) + 1
