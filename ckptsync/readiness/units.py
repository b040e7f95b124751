"""Folders of a step that no framework ties together, as `step-100/model.pt` beside `step-100/optimizer.pt`.

Nothing in such a folder tells when the last of it is there. What its older siblings hold does, and so does a file beside it that names
it and was written after it; the first of its kind is taken once the next has begun, or the training has ended well.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ckptsync.readiness import dcp, safetensors, torch
from ckptsync.readiness.base import Findings, Folder, Ready
from ckptsync.readiness.contents import Contents, UnreadableError
from ckptsync.readiness.habit import HABIT, Shape, wanted
from ckptsync.readiness.names import family, is_plain, number_of_unit, step_along
from ckptsync.readiness.pointers import named_after


@dataclass(slots=True)
class Shapes:
    """What the folders of each kind held that were seen so far; for one thread."""

    _seen: dict[str, dict[int, Shape]] = field(default_factory=dict)
    _told: dict[str, set[int]] = field(default_factory=dict)

    def remember(self, paths: Iterable[str]) -> None:
        """Take in what a checkpoint that was whole held; since then some of it may have been deleted from the disk."""
        held: dict[str, Shape] = {}
        for path in paths:
            above = [str(folder) for folder in PurePosixPath(path).parents if number_of_unit(folder.name) is not None]
            if above:
                held.setdefault(above[0], Shape())[family(path[len(above[0]) + 1 :])] += 1
        for folder, shape in held.items():
            kind, number = family(folder), number_of_unit(PurePosixPath(folder).name) or 0
            seen = self._seen.setdefault(kind, {})
            seen[number] = seen.get(number, Shape()) | shape
            self._told.setdefault(kind, set()).add(number)

    def note(self, kind: str, found: dict[int, Shape]) -> None:
        """Take in what is there now. Of what is gone the newest is remembered, as its successor may come later."""
        before = self._seen.get(kind, {})
        told = {number: before[number] for number in self._told.get(kind, ())}
        gone = max((number for number in before if number not in found), default=None)
        known = told | {number: shape | before.get(number, Shape()) for number, shape in found.items()}
        if gone is not None and gone < max(found, default=0):
            known[gone] = before[gone]
        if known:
            self._seen[kind] = known

    def before(self, kind: str, number: int) -> list[Shape]:
        """What the older ones held, the oldest first; what is known to have been whole counts alone where it is a habit."""
        older = {one: shape for one, shape in sorted(self._seen.get(kind, {}).items()) if one < number}
        told = self._told.get(kind, set()) & older.keys()
        if len(told) < HABIT:
            return [*older.values()]
        return [shape for one, shape in older.items() if one in told or one > max(told)]


@dataclass(frozen=True, slots=True)
class Unit:
    """A folder of a step.

    Attributes:
        folder: with all that is in it.
        number: that its name ends with.
        rule: by which its files are told.
        shape: how many files there are of each name, numbers apart.
    """

    folder: Folder
    number: int
    rule: str
    shape: Shape


def is_unit(name: str, folder: Folder) -> bool:
    """Tell whether a folder is one of a step, and not above such."""
    if number_of_unit(name) is None or not is_plain(name):
        return False
    return not any(number_of_unit(inner) is not None for one in folder.all_folders() for inner in one.folders)


def find(
    above: Folder, units: Sequence[str], contents: Contents, shapes: Shapes, *, rules: frozenset[str], is_over: bool
) -> Findings:
    """Tell which folders of steps are whole.

    Args:
        above: the folder that they are in.
        units: their names.
        contents: of files.
        shapes: what was seen so far; is told of these.
        rules: of whose files at least one must be in a folder.
        is_over: whether the training has ended well, so that all is there that older ones do not speak against.
    """
    kinds: dict[str, list[str]] = {}
    for name in units:
        kinds.setdefault(family(name), []).append(name)
    checkpoints: list[Ready] = []
    waiting: list[str] = []
    claimed: set[str] = set()
    torn: set[str] = set()
    lacking: set[str] = set()
    for kind, names in kinds.items():
        newest = max(number_of_unit(name) or 0 for name in names)
        known = {name: unit for name in names if (unit := _unit(above.folders[name], name, contents, rules))}
        place = family(above.inner(kind))
        shapes.note(place, {unit.number: unit.shape for unit in known.values()})
        claimed |= known.keys()
        less, whole = dict[str, str](), -1
        for name, unit in known.items():
            older = shapes.before(place, unit.number)
            is_all = named_after(above, unit.folder, contents) or (is_over and len(older) < HABIT)
            if broken := dcp.why_not_in(unit.folder, contents):
                waiting.append(broken)
                torn.add(name)
            elif why := "" if is_all else _lacks(unit, wanted(older, is_over=is_over) if older else None, newest):
                less[name] = why
            else:
                checkpoints.append(_ready(unit, contents))
                whole = max(whole, unit.number)
        later = {name: why for name, why in less.items() if known[name].number > whole}
        waiting += later.values()
        lacking |= {name for name in later if shapes.before(place, known[name].number)}
    return Findings(
        checkpoints=tuple(checkpoints),
        waiting=tuple(waiting),
        claimed=frozenset(claimed),
        torn=frozenset(torn),
        lacking=frozenset(lacking),
    )


def _lacks(unit: Unit, before: Shape | None, newest: int) -> str:
    """Why nothing tells that all of it is there; empty when something does."""
    name = unit.folder.path
    if before is not None:
        missing = next(iter(sorted((before - unit.shape).elements())), "")
        return f"{name} has no {missing} yet, as those before it have" if missing else ""
    if unit.number < newest:
        return ""
    return (
        f"{name} is the first of its kind, and nothing tells when all of it is there: it is taken when the next one begins, when the "
        "training has ended well, or when it is marked"
    )


def _unit(folder: Folder, name: str, contents: Contents, rules: frozenset[str]) -> Unit | None:
    """The unit that a folder is; None when nothing in it is known here."""
    number = number_of_unit(name)
    rule = next((rule for rule in _rules_of(folder, contents) if rule in rules), None)
    if number is None or rule is None:
        return None
    prefix = len(folder.path) + 1
    return Unit(folder, number, rule, Counter(family(file.path[prefix:]) for file in folder.all_files()))


def _rules_of(folder: Folder, contents: Contents) -> Iterator[str]:
    """By which rules something in a folder is told."""
    for one in folder.all_folders():
        if dcp.is_one(one):
            yield dcp.RULE
        for name, file in one.files.items():
            lower = name.lower()
            if lower.endswith(safetensors.ENDING):
                yield safetensors.RULE
            elif lower.endswith(torch.ENDINGS):
                try:
                    if contents.of(file, torch.read).is_torch:
                        yield torch.RULE
                except UnreadableError:
                    yield torch.RULE


def _ready(unit: Unit, contents: Contents) -> Ready:
    """The checkpoint; its step is told by its files, or else by its name."""
    folder = unit.folder
    files = (file for file in folder.all_files() if file.path.lower().endswith(torch.ENDINGS))
    steps = [step for file in files if (step := contents.of(file, torch.read).step) is not None]
    step = max(steps) if steps else step_along(folder.path)
    return Ready(step=unit.number if step is None else step, paths=folder.all_paths(), name=folder.path, rule=unit.rule)
