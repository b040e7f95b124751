"""When to save and what to keep: pure functions over what is known of the loop and of each snapshot, joined with `|`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ckptsync.errors import ConfigError
from ckptsync.snapshot.layout import SnapshotId


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A committed snapshot, as retention sees it.

    Attributes:
        id: newer epochs come first, then higher steps.
        created_s: when it was committed, seconds since the Unix epoch by the store's clock.
        metrics: from the manifest; None for values that are no numbers. They may be read when they are first looked at.
        quarantined: it was found bad.
    """

    id: SnapshotId
    created_s: float
    metrics: Mapping[str, float | None]
    quarantined: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """Where a training loop stands, as a policy that says when to save sees it.

    Attributes:
        step: the one that was just done.
        saved_step: of the last save, or the one that was restored; -1 when there was neither.
        since_s: seconds since the last save began; since the loop began when there was none.
        stall_s: seconds that the last save kept the loop waiting; None before the first.
        upload_s: seconds from the beginning of the last save to its commit; None before the first.
        mtbf_s: mean seconds between the interruptions of this run; None when too little is known.
        under_way_s: seconds since the save that is under way began; None when none is.
    """

    step: int
    saved_step: int
    since_s: float
    stall_s: float | None = None
    upload_s: float | None = None
    mtbf_s: float | None = None
    under_way_s: float | None = None


class SavePolicy(Protocol):
    """Says when a training loop saves."""

    def is_due(self, moment: Moment) -> bool:
        """Return whether to save now."""
        ...


class KeepPolicy(Protocol):
    """Chooses snapshots that stay. It is asked again when one of those it was asked about turns out to be damaged.

    It may also have a method `leans_on`, which saves gc from reading all it keeps: see `relied_on`.
    """

    def keeps(self, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
        """Return what stays.

        Args:
            candidates: every committed snapshot, the newest first.
            now_s: seconds since the Unix epoch.
        """
        ...


def retained(policy: KeepPolicy, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
    """Return what stays of a run: what the policy keeps of the good ones, and always the newest of those.

    Bad ones take no good one's place: they stay where the policy would keep them as if they were good, beside what it keeps
    without them. While none is good, all stay.

    Args:
        policy: the user's.
        candidates: every committed snapshot, the newest first.
        now_s: seconds since the Unix epoch.
    """
    good = [candidate for candidate in candidates if not candidate.quarantined]
    if not good:
        return {candidate.id for candidate in candidates}
    kept = policy.keeps(good, now_s) | {good[0].id}
    return kept if len(good) == len(candidates) else kept | policy.keeps(candidates, now_s)


def relied_on(policy: KeepPolicy, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
    """Return those because of which others may go: were one of them no good, `retained` might keep another in its place.

    A policy may narrow them down by a method `leans_on`, with the arguments of `keeps`; without one, they are all it keeps.

    Args:
        policy: the user's.
        candidates: every committed snapshot, the newest first.
        now_s: seconds since the Unix epoch.
    """
    good = [candidate for candidate in candidates if not candidate.quarantined]
    if not good:
        return set()
    relied = _leaned_on(policy, good, now_s) | {good[0].id}
    return relied if len(good) == len(candidates) else relied | _leaned_on(policy, candidates, now_s)


def _leaned_on(policy: KeepPolicy, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
    """Ask a policy; one that does not say leans on all it keeps."""
    found: set[SnapshotId] = getattr(policy, "leans_on", policy.keeps)(candidates, now_s)
    return found


class Joinable:
    """Lets policies be joined with `|`: what either keeps is kept, and when either is due, a save is."""

    __slots__ = ()

    def __or__(self, other: Any) -> AnyOf:
        return AnyOf(policies=(self, _checked_part(other)))

    def __ror__(self, other: Any) -> AnyOf:
        return AnyOf(policies=(_checked_part(other), self))


@dataclass(frozen=True, slots=True)
class AnyOf(Joinable):
    """Keeps what any of its policies keeps, and saves when any of them is due."""

    policies: tuple[Any, ...]

    def is_due(self, moment: Moment) -> bool:
        """Return whether any is due."""
        return any(policy.is_due(moment) for policy in self.policies)

    def keeps(self, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
        """Return the union."""
        return set[SnapshotId]().union(*(policy.keeps(candidates, now_s) for policy in self.policies))

    def leans_on(self, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
        """Return what any of them leans on."""
        return set[SnapshotId]().union(*(_leaned_on(policy, candidates, now_s) for policy in self.policies))


@dataclass(frozen=True, slots=True)
class LatestN(Joinable):
    """Keeps the newest `n` snapshots, 1 or more."""

    n: int

    def __post_init__(self) -> None:
        _at_least_one("LatestN", self.n)

    def keeps(self, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
        """Return the first `n`."""
        del now_s
        return {candidate.id for candidate in candidates[: self.n]}


@dataclass(frozen=True, slots=True)
class BestN(Joinable):
    """Keeps the `n` snapshots with the least (`min`) or greatest (`max`) value of a metric; newer ones win ties."""

    metric: str
    mode: Literal["min", "max"]
    n: int = 1

    def __post_init__(self) -> None:
        _at_least_one("BestN", self.n)
        if self.mode not in {"min", "max"}:
            raise ConfigError(f"BestN: mode is {self.mode!r}; it must be 'min' or 'max'")

    def keeps(self, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
        """Return those with a value, best first."""
        del now_s
        sign = 1 if self.mode == "min" else -1
        scored = [
            (sign * value, index, candidate.id)
            for index, candidate in enumerate(candidates)
            if (value := candidate.metrics.get(self.metric)) is not None
        ]
        return {snapshot for _, _, snapshot in sorted(scored)[: self.n]}


@dataclass(frozen=True, slots=True)
class EveryNSteps(Joinable):
    """Keeps snapshots whose step is a multiple of `n`, 1 or more; saves when one has been reached or passed."""

    n: int

    def __post_init__(self) -> None:
        _at_least_one("EveryNSteps", self.n)

    def is_due(self, moment: Moment) -> bool:
        """Return whether a multiple was reached since the last save."""
        return moment.step // self.n > moment.saved_step // self.n

    def keeps(self, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
        """Return the multiples."""
        del now_s
        return {candidate.id for candidate in candidates if candidate.id.step % self.n == 0}

    def leans_on(self, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
        """Return nothing: whether one is kept has nothing to do with the others."""
        del candidates, now_s
        return set()


@dataclass(frozen=True, slots=True)
class EveryNSeconds(Joinable):
    """Saves when `seconds_s` seconds, more than 0, have passed since the last save; keeps the first snapshot of every such span."""

    seconds_s: float

    def __post_init__(self) -> None:
        if not self.seconds_s > 0:
            raise ConfigError(f"EveryNSeconds: {self.seconds_s} seconds are no interval; it must be more than 0")

    def is_due(self, moment: Moment) -> bool:
        """Return whether the time is over."""
        return moment.since_s >= self.seconds_s

    def keeps(self, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
        """Return the oldest of each span of the clock."""
        del now_s
        return set({candidate.created_s // self.seconds_s: candidate.id for candidate in candidates}.values())


@dataclass(frozen=True, slots=True)
class Within(Joinable):
    """Keeps snapshots committed in the last `seconds_s` seconds, more than 0."""

    seconds_s: float

    def __post_init__(self) -> None:
        if not self.seconds_s > 0:  # so that NaN is refused too
            raise ConfigError(f"Within: {self.seconds_s} seconds would keep nothing")

    def keeps(self, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
        """Return the young ones."""
        return {candidate.id for candidate in candidates if now_s - candidate.created_s <= self.seconds_s}

    def leans_on(self, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
        """Return nothing: whether one is kept has nothing to do with the others."""
        del candidates, now_s
        return set()


def checked_save(policy: SavePolicy | None) -> SavePolicy | None:
    """Return what says when to save, as it is.

    Raises:
        ConfigError: it, or a part of it, does not.
    """
    _check(policy, "save", "is_due", "says when to save", "EveryNSteps(100)")
    return policy


def checked_keep(policy: KeepPolicy | None) -> KeepPolicy | None:
    """Return what says which snapshots stay, as it is.

    Raises:
        ConfigError: it, or a part of it, does not.
    """
    _check(policy, "keep", "keeps", "says what stays", "LatestN(3)")
    return policy


def _check(policy: object, argument: str, method: str, does: str, example: str) -> None:
    """Refuse what is no such policy, at once and not amid the training; of those that are joined, each is looked at."""
    if policy is None:
        return
    for part in _parts(policy):
        if isinstance(part, type):
            raise ConfigError(f"{argument} is the class {part.__name__}, not a value of it, as {example} is")
        if not callable(getattr(part, method, None)):
            where = argument if part is policy else f"a part of {argument}"
            raise ConfigError(f"{where} is {part!r}; it must be a policy that {does}, as {example}")


def _parts(policy: object) -> Iterator[object]:
    """What a policy is joined of; itself when it is one alone."""
    if isinstance(policy, AnyOf):
        for part in policy.policies:
            yield from _parts(part)
    else:
        yield policy


def _checked_part(part: object) -> object:
    """Return what is to be joined with a policy.

    Raises:
        ConfigError: it is no policy.
    """
    if isinstance(part, type):
        raise ConfigError(f"{part.__name__} is a class; join values of it with |, as LatestN(3) | EveryNSteps(100)")
    if not any(callable(getattr(part, method, None)) for method in ("is_due", "keeps")):
        raise ConfigError(f"{part!r} is no policy; join policies with |, as LatestN(3) | EveryNSteps(100)")
    return part


def _at_least_one(name: str, n: int) -> None:
    """Refuse counts that would keep nothing."""
    if n < 1:
        raise ConfigError(f"{name}: {n} would keep nothing; it must be 1 or more")
