"""What one snapshot holds: the newest checkpoint, what belongs to it, and the newest of each other kind.

A restore brings one snapshot back and nothing else. A training that writes `last.pt` and `best.pt`, or a generator and a discriminator in two
folders, must find both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ckptsync.readiness.base import Folder, Ready
from ckptsync.readiness.contents import Contents
from ckptsync.readiness.habit import HABIT, Shape, wanted
from ckptsync.readiness.loose import Parts, beside, is_another_state
from ckptsync.readiness.names import family, number_in, ranks_in
from ckptsync.readiness.pointers import pointing
from ckptsync.readiness.torch import stem

_FIRST = (
    "{} is of one rank, and nothing tells yet how many there are: what the ranks write is taken when the next step begins, when the "
    "training has ended well, or when it is marked"
)


@dataclass(frozen=True, slots=True)
class Gathered:
    """What is to be committed.

    Attributes:
        snapshots: the oldest first.
        waiting: why something newer is not among them, a sentence each.
        lacking: paths of what lacks something that all before it have.
    """

    snapshots: tuple[Ready, ...]
    waiting: tuple[str, ...] = ()
    lacking: frozenset[str] = frozenset()


def gathered(
    checkpoints: Sequence[Ready], parts: Parts, root: Folder, contents: Contents, *, is_over: bool
) -> Gathered:
    """Say what is to be committed.

    Args:
        checkpoints: that are whole, the oldest first.
        parts: which of them are not to be taken one by one.
        root: the directory.
        contents: of files.
        is_over: whether the training has ended well, so that all is there that older ones do not speak against.
    """
    groups = _groups([one for one in checkpoints if one.name not in parts.names])
    waiting = list(parts.waiting)
    if len(groups) == 1 and not is_over and any(ranks_in(one.name) and number_in(stem(one.name)) for one in groups[0]):
        waiting.append(_FIRST.format(groups.pop()[-1].name))
    lacking: set[str] = set()
    while len(groups) > 1 and (missing := _missing(groups, is_over=is_over)):
        group = groups.pop()
        waiting.append(f"{group[-1].name} has no {missing} beside it yet, as those before it have")
        lacking.update(*(one.paths for one in group))
    if not groups:
        return Gathered((), tuple(waiting))
    newest = _joined(groups[-1])
    carried = _carried(groups)
    full = _pointed(_with(newest, carried), (*groups[-1], *carried), root, contents)
    if parts.together & full.paths:
        full = replace(full, paths=full.paths | beside(parts.together, root))
    full = replace(full, beside=full.paths - newest.paths)
    older = (_joined(group) for group in groups[:-1])
    return Gathered(
        (*(one for one in older if not one.paths <= full.paths), full), tuple(waiting), frozenset(lacking) - full.paths
    )


def _groups(checkpoints: Sequence[Ready]) -> list[list[Ready]]:
    """What lies beside each other and has the same number, as `model_100.pt` and `optimizer_100.pt`; the oldest first."""
    groups: dict[object, list[Ready]] = {}
    for one in checkpoints:
        above, _, name = one.name.rpartition("/")
        number = number_in(stem(name)) if name else None
        key = one.name if number is None else (above, number)
        before = groups.pop(key, [])  # what is written last decides where it stands
        groups[key] = [*before, one]
    return list(groups.values())


def _missing(groups: Sequence[Sequence[Ready]], *, is_over: bool) -> str:
    """Name of a kind that the newest group lacks, and older ones of its kinds have; empty when there is none, or too few are older."""
    own = {family(one.name) for one in groups[-1]}
    alike = [kinds for group in groups[:-1] if (kinds := {family(one.name) for one in group}) & own]
    if (is_over and len(alike) < HABIT) or not any("#" in kind for kind in own):
        return ""
    before = set((+wanted([Shape(kinds) for kinds in alike], is_over=is_over)).elements())
    parts = (kind for kind in before - own if not any(is_another_state(kind, one) for one in own))
    return min(parts, default="").rpartition("/")[2]


def _joined(group: Sequence[Ready]) -> Ready:
    """One checkpoint of several; it is named after the first, which stays while more come."""
    if len(group) == 1:
        return group[0]
    steps = [one.step for one in group if one.step is not None]
    joined = tuple(one.name for one in group[1:])
    return _with(replace(group[0], step=max(steps, default=None), joined=joined), group[1:])


def _carried(groups: Sequence[Sequence[Ready]]) -> list[Ready]:
    """The newest of each kind that the newest group has none of, and what the newest calls its best."""
    known = {family(one.name) for one in groups[-1]}
    best = {one.best for one in groups[-1]}
    carried: list[Ready] = []
    for group in reversed(groups[:-1]):
        if any(one.name in best or family(one.name) not in known for one in group):
            carried += group
            known |= {family(one.name) for one in group}
    return carried


def _with(one: Ready, more: Sequence[Ready]) -> Ready:
    """A checkpoint, and what comes along with it; the first that tells a step counts."""
    steps = (other.step for other in (one, *more) if other.step is not None)
    replaced = {path: content for other in (one, *more) for path, content in other.replaced.items()}
    return replace(
        one,
        step=next(steps, None),
        paths=one.paths.union(*(other.paths for other in more)),
        copied=one.copied.union(*(other.copied for other in more)),
        replaced=replaced,
    )


def _pointed(full: Ready, members: Sequence[Ready], root: Folder, contents: Contents) -> Ready:
    """The same with what names its members from beside them."""
    more: set[str] = set()
    for one in members:
        above, _, name = one.name.rpartition("/")
        folder = root.folder_at(above)
        if name and folder is not None:
            more |= {path for path in pointing(folder, name, one.paths, contents) if path not in full.paths}
    return replace(full, paths=full.paths | more)
