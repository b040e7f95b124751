"""Looks at the directory: what is whole there, and was so at the look before, too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ckptsync.agent.ledger import mark_of
from ckptsync.clock import Clock
from ckptsync.errors import ConfigError
from ckptsync.readiness.base import Ready
from ckptsync.readiness.recognise import Looked, Recogniser
from ckptsync.transfer.held import chosen
from ckptsync.transfer.source import SourceTree

SETTLE_S = 0.2
"""Kernels stamp files with a clock of up to 10 ms, and late where they are mapped: what is whole must be the same for so long."""


_MOST_TOLD = 3
_LONG_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A checkpoint that is whole.

    Attributes:
        ready: what its files tell.
        tree: its files alone.
        mark: what tells it from all others.
        own_mark: the same without what comes along with it from beside.
        whole_s: when it was seen to be whole, by the monotonic clock.
        at_s: the same, in seconds since 1970.
        at_start: whether it was there at the first look.
        wrote_s: how long its writing was watched; None when it was not.
    """

    ready: Ready
    tree: SourceTree
    mark: str
    own_mark: str
    whole_s: float
    at_s: float
    at_start: bool
    wrote_s: float | None = None

    @property
    def bytes(self) -> int:
        """Of its files."""
        return self.tree.size

    @property
    def title(self) -> str:
        """Its name for people."""
        return self.ready.name or str(self.tree.root)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a look found.

    Attributes:
        candidates: whole ones, the oldest first, those that have to settle yet left out.
        settling: whether there are such.
        waiting: why others are not whole, a sentence each.
        overdue: those of them that have stood for a minute by now, each once.
        news: those of them that did not stand there at the first look.
        lacking: paths of those of them that lack what all before them have.
        tree: everything in the directory; None while there is none.
        never: whether none was whole at any look so far.
    """

    candidates: tuple[Candidate, ...] = ()
    settling: bool = False
    waiting: tuple[str, ...] = ()
    overdue: tuple[str, ...] = ()
    news: tuple[str, ...] = ()
    lacking: frozenset[str] = frozenset()
    tree: SourceTree | None = None
    never: bool = False

    def is_gone(self, candidate: Candidate) -> bool:
        """Whether a checkpoint that was whole is not there any more; one that is written over is."""
        name = candidate.ready.name
        paths = () if self.tree is None else (file.path for file in self.tree.files)
        return bool(name) and not any(path == name or path.startswith(f"{name}/") for path in paths)

    def left_over(self, rule: str) -> Iterator[str]:
        """What is in the directory and no checkpoint: a sentence for each, or one for all.

        Args:
            rule: by which a checkpoint is whole.
        """
        for why in self.waiting[:_MOST_TOLD]:
            yield f"not committed: {why}"
        if (more := len(self.waiting) - _MOST_TOLD) > 0:
            yield f"not committed: {more} more that are not whole"
        files = 0 if self.tree is None else len(self.tree.files)
        if self.never and files and not self.waiting:
            yield f"nothing was committed: by the rule {rule!r} there was no checkpoint among the files, of which there are {files}"


@dataclass(slots=True)
class _Seen:
    """Since when a mark is known."""

    whole_s: float
    at_s: float
    at_start: bool
    wrote_s: float | None = None


@dataclass(slots=True)
class Lookout:
    """Looks again and again. For one thread at a time.

    Attributes:
        directory: need not be there yet.
        rule: by which a checkpoint is whole.
        quiet_s: of the rule `quiet`.
        clock: tells the time.
    """

    directory: Path
    rule: str
    quiet_s: float | None
    clock: Clock
    _recogniser: Recogniser | None = None
    _seen: dict[str, _Seen] = field(default_factory=dict)
    _looked: bool = False
    _ever_whole: bool = False
    _at_first: frozenset[str] = frozenset()
    _waiting_since_s: dict[str, float] = field(default_factory=dict)
    _writing_since_s: float | None = None

    def __post_init__(self) -> None:
        """Refuse a rule that there is not.

        Raises:
            ConfigError: there is no such rule.
        """
        self._recogniser = Recogniser(self.directory, rule=self.rule, quiet_s=self.quiet_s)

    def remember(self, snapshots: Iterable[Iterable[str]]) -> None:
        """As `Recogniser.remember`."""
        if self._recogniser is not None:
            self._recogniser.remember(snapshots)

    def training_is_over(self, *, since_first_look: bool) -> None:
        """As `Recogniser.training_is_over`."""
        if self._recogniser is not None:
            self._recogniser.training_is_over(since_first_look=since_first_look)

    def look(self) -> Found:
        """Look once.

        Raises:
            DiskError: the directory cannot be read.
        """
        now_s = self.clock.monotonic()
        if self._recogniser is None or not self.directory.is_dir():
            self._looked, self._seen = True, {}
            return Found()
        try:
            looked = self._recogniser.look(self.clock.now())
        except ConfigError:  # it was removed at this moment
            return Found()
        candidates = tuple(self._candidates(looked, now_s))
        if not self._looked:
            self._looked, self._at_first = True, frozenset(looked.waiting)
        self._ever_whole = self._ever_whole or bool(candidates)
        self._watch_writing(looked, now_s)
        settled = tuple(one for one in candidates if now_s - one.whole_s >= SETTLE_S)
        return Found(
            candidates=settled,
            settling=len(settled) < len(candidates),
            waiting=looked.waiting,
            overdue=tuple(self._overdue(looked.waiting, now_s)),
            news=tuple(why for why in looked.waiting if why not in self._at_first),
            lacking=looked.lacking,
            tree=looked.tree,
            never=not self._ever_whole,
        )

    def _candidates(self, looked: Looked, now_s: float) -> Iterable[Candidate]:
        """What is whole, with what is remembered of it."""
        seen: dict[str, _Seen] = {}
        for ready in looked.snapshots:
            tree = chosen(looked.tree, ready.paths)
            mark = mark_of(ready.name, tree)
            own = chosen(tree, ready.paths - ready.beside) if ready.beside else tree
            known = self._seen.get(mark)
            if known is None:
                wrote_s = None if self._writing_since_s is None else now_s - self._writing_since_s
                known = _Seen(now_s, self.clock.now(), not self._looked, wrote_s)
            seen[mark] = known
            yield Candidate(
                ready=ready,
                tree=tree,
                mark=mark,
                own_mark=mark_of(ready.name, own) if ready.beside else mark,
                whole_s=known.whole_s,
                at_s=known.at_s,
                at_start=known.at_start,
                wrote_s=known.wrote_s,
            )
        self._seen = seen

    def _overdue(self, waiting: Iterable[str], now_s: float) -> Iterator[str]:
        """Sentences that have stood for long; each is told once for as long as it stands."""
        self._waiting_since_s = {why: self._waiting_since_s.get(why, now_s) for why in waiting}
        for why, since_s in self._waiting_since_s.items():
            if now_s - since_s >= _LONG_S:
                self._waiting_since_s[why] = math.inf
                yield why

    def _watch_writing(self, looked: Looked, now_s: float) -> None:
        """Note since when something is there that is not whole yet."""
        if not looked.waiting:
            self._writing_since_s = None
        elif self._writing_since_s is None:
            self._writing_since_s = now_s
