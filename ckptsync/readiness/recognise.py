"""One look at a directory: which checkpoints in it are whole, and why others are not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ckptsync.errors import ConfigError
from ckptsync.readiness import (
    dcp,
    deepspeed,
    huggingface,
    keras,
    lightning,
    marker,
    orbax,
    quiet,
    safetensors,
    tensorflow,
    torch,
    units,
)
from ckptsync.readiness.ages import Ages
from ckptsync.readiness.base import NOTHING, Findings, Folder, Ready
from ckptsync.readiness.contents import Contents
from ckptsync.readiness.gathered import Gathered, gathered
from ckptsync.readiness.loose import Loose
from ckptsync.readiness.names import checked_step, is_temporary
from ckptsync.readiness.walk import LEADS_OUT, Walker
from ckptsync.transfer.source import SourceFile, SourceTree

_Find = Callable[[Folder, Contents], Findings]
_FINDERS: Mapping[str, _Find] = {
    marker.RULE: marker.find,
    huggingface.RULE: huggingface.find,
    deepspeed.RULE: deepspeed.find,
    orbax.RULE: orbax.find,
    dcp.RULE: dcp.find,
    tensorflow.RULE: tensorflow.find,
    keras.RULE: keras.find,
}
"""Rules that know what a folder must hold, in the order in which `auto` asks them: who knows more of a folder comes first."""
_PLAIN: Mapping[str, _Find] = {
    lightning.RULE: lightning.find,
    torch.RULE: torch.find,
    safetensors.RULE: safetensors.find,
}
"""Rules of single files, asked after those."""
_IN_UNITS = frozenset({torch.RULE, safetensors.RULE, dcp.RULE})
RULES: tuple[str, ...] = ("auto", *_FINDERS, *_PLAIN, quiet.RULE)
"""Names of all rules; `auto` is all but `quiet`."""
_MAX_DEPTH = 8
"""Checkpoints are looked for in folders of up to this depth."""
_MAX_WAITING = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What one look at a directory found.

    Attributes:
        checkpoints: that are whole, the oldest first: by when their newest file was written, then by step and name.
        snapshots: what is to be committed of them, the oldest first; the newest holds the newest of each other kind, too.
        tree: everything in the directory that can be saved.
        waiting: a sentence for each candidate that is not whole, and why.
        torn: paths of files of candidates that are cut short for sure.
        lacking: paths of files of candidates that lack what all before them have.
    """

    checkpoints: tuple[Ready, ...]
    snapshots: tuple[Ready, ...]
    tree: SourceTree
    waiting: tuple[str, ...]
    torn: frozenset[str] = frozenset()
    lacking: frozenset[str] = frozenset()

    @property
    def unfinished(self) -> frozenset[str]:
        """Paths of files of candidates that are not whole for sure."""
        return self.torn | self.lacking


@dataclass(frozen=True, slots=True)
class _Found:
    """What is in a folder and below it.

    Attributes:
        checkpoints: that are whole.
        waiting: a sentence for each that is not.
        torn: paths of files of candidates that are cut short for sure.
        lacking: paths of files of candidates that lack what all before them have.
        loose: paths of files that no framework ties to others.
    """

    checkpoints: tuple[Ready, ...]
    waiting: tuple[str, ...]
    torn: frozenset[str] = frozenset()
    lacking: frozenset[str] = frozenset()
    loose: frozenset[str] = frozenset()

    @property
    def whole(self) -> frozenset[str]:
        """Paths of all files of checkpoints that are whole."""
        return frozenset().union(*(one.paths for one in self.checkpoints))


class Recogniser:
    """Looks at a directory again and again; a file is read once for as long as it stays as it is. For one thread."""

    def __init__(self, directory: Path, *, rule: str = "auto", quiet_s: float | None = None) -> None:
        """Remember where to look; nothing is looked at yet.

        Args:
            directory: on this machine.
            rule: one of `RULES`.
            quiet_s: with the rule `quiet`, for how long nothing in a checkpoint may have changed, in seconds.

        Raises:
            ConfigError: there is no such rule, or `quiet_s` does not go with it.
        """
        if rule not in RULES:
            raise ConfigError(f"there is no rule {rule!r} by which a checkpoint is whole; there are {', '.join(RULES)}")
        if (rule == quiet.RULE) != (quiet_s is not None):
            raise ConfigError(
                "the rule 'quiet' needs quiet_s (--quiet-for), the seconds without a change, and no other rule takes it"
            )
        self._quiet_s = quiet_s
        self._finders = tuple(find for name, find in _FINDERS.items() if rule in {"auto", name})
        self._plain = tuple(find for name, find in _PLAIN.items() if rule in {"auto", name})
        self._in_units = _IN_UNITS if rule == "auto" else _IN_UNITS & {rule}
        self._walker, self._contents, self._shapes = Walker(directory), Contents(), units.Shapes()
        self._ages, self._loose = Ages(), Loose()
        self._known: dict[Folder, _Found] = {}
        self._is_over = False
        self._files: tuple[SourceFile, ...] | None = None
        self._last: _Found | None = None
        self._sorted: tuple[Ready, ...] = ()
        self._torn: frozenset[str] = frozenset()
        self._lacking: frozenset[str] = frozenset()
        self._root: Folder | None = None
        self._cannot_be_saved: tuple[str, ...] = ()
        self._gathered = Gathered(())

    def remember(self, snapshots: Iterable[Iterable[str]]) -> None:
        """Take in what was whole before, by the paths of its files, so that what was deleted since is missed in what comes. Before the first look.

        Args:
            snapshots: committed ones.
        """
        for paths in snapshots:
            self._shapes.remember(paths)

    def training_is_over(self, *, since_first_look: bool = True) -> None:
        """Take it from now on that the training has ended well, so that nothing is to come. Safe to call again.

        Args:
            since_first_look: it began with the first look: parts of a checkpoint that were there by then are of another one's.
        """
        if not self._is_over:
            if not since_first_look:
                self._loose.take_all()
            self._is_over, self._known, self._last = True, {}, None

    def look(self, now_s: float) -> Looked:
        """Find what is whole at this moment. Safe to call again; what did not change costs next to nothing.

        Args:
            now_s: seconds since the Unix epoch.

        Raises:
            ConfigError: there is no such directory.
            DiskError: it cannot be read.
        """
        root, tree = self._walker.look(int(now_s * 1e9))
        if root is not self._root:
            self._root, self._cannot_be_saved = root, tuple(_odd(root))
        if self._quiet_s is not None:
            quiet_s = -math.inf if self._is_over else self._quiet_s
            findings = quiet.find(root, self._contents, quiet_s=quiet_s, now_s=now_s)
            found = _Found(findings.checkpoints, findings.waiting)
        else:
            before, self._known = self._known, {}
            found = self._below(root, 0, before)
        if tree.files is not self._files or found is not self._last:
            self._files, self._last = tree.files, found
            written_ns = {file.path: file.identity.mtime_ns for file in tree.files}
            self._sorted = self._ages.in_order(map(_cleaned, found.checkpoints), written_ns, int(now_s * 1e9))
            whole = found.whole
            self._torn = found.torn - whole
            parts = self._loose.parts(self._sorted, found.loose - whole, root, self._contents, is_over=self._is_over)
            self._gathered = gathered(self._sorted, parts, root, self._contents, is_over=self._is_over)
            self._lacking = (found.lacking - whole) | self._gathered.lacking
            self._contents.forget({file.path for file in tree.files})
        return Looked(
            checkpoints=self._sorted,
            snapshots=self._gathered.snapshots,
            tree=tree,
            waiting=_some((*found.waiting, *self._gathered.waiting, *self._cannot_be_saved)),
            torn=self._torn,
            lacking=self._lacking,
        )

    def _below(self, folder: Folder, depth: int, before: Mapping[Folder, _Found]) -> _Found:
        """Ask the rules about a folder and those below it; what did not change needs no asking."""
        if folder in before:
            found = before[folder]
            self._known[folder] = found
            return found
        findings, rest = self._here(folder)
        checkpoints = [one for finding in findings for one in finding.checkpoints]
        waiting = [why for finding in findings for why in finding.waiting]
        torn = {path for finding in findings for path in _paths(folder, finding.torn)}
        lacking = {path for finding in findings for path in _paths(folder, finding.lacking)}
        loose = {path for finding in findings if finding.is_loose for path in _paths(folder, finding.claimed)}
        for name, inner in rest.folders.items():
            if name.startswith("."):
                continue
            if is_temporary(name):
                waiting.append(f"{inner.path} is being written, by its name")
            elif depth < _MAX_DEPTH:
                found = self._below(inner, depth + 1, before)
                checkpoints += found.checkpoints
                waiting += found.waiting
                torn |= found.torn
                lacking |= found.lacking
                loose |= found.loose
        self._known[folder] = _Found(
            tuple(checkpoints), tuple(waiting), frozenset(torn), frozenset(lacking), frozenset(loose)
        )
        return self._known[folder]

    def _here(self, folder: Folder) -> tuple[list[Findings], Folder]:
        """Ask the rules about a folder alone; what they say, and what is left of it to look into."""
        said: list[Findings] = []
        rest = folder
        for find in (*self._finders, self._units, *self._plain):
            found = find(rest, self._contents)
            said.append(found)
            if found.all_claimed:
                return said, Folder(folder.path, {}, {}, {}, {})
            rest = rest.without(found.claimed)
        return said, rest

    def _units(self, folder: Folder, contents: Contents) -> Findings:
        """Ask about folders of steps that no framework ties together."""
        if not self._in_units:
            return NOTHING
        of_others = huggingface.is_of_others(folder, is_over=self._is_over)
        names = [
            name
            for name, inner in folder.folders.items()
            if units.is_unit(name, inner) and not self._is_tied(inner, of_others=of_others)
        ]
        return units.find(folder, names, contents, self._shapes, rules=self._in_units, is_over=self._is_over)

    def _is_tied(self, folder: Folder, *, of_others: bool) -> bool:
        """Whether a rule knows what a folder must hold."""
        finders = (find for find in self._finders if not (of_others and find is huggingface.find))
        found = (find(folder, self._contents) for find in finders)
        return any(one.all_claimed or one.checkpoints or one.waiting for one in found)


def _odd(root: Folder) -> Iterator[str]:
    """A sentence for each entry that cannot be saved, where a checkpoint may be meant."""
    for folder in root.all_folders():
        for name, why in folder.odd.items():
            if torch.is_candidate(name) or (folder is root and why.startswith(LEADS_OUT)):
                yield f"{folder.inner(name)} {why}"


def _paths(folder: Folder, names: Iterable[str]) -> Iterator[str]:
    """Paths of the files of some entries."""
    for name in names:
        if name in folder.files:
            yield folder.files[name].path
        elif name in folder.folders:
            yield from (file.path for file in folder.folders[name].all_files())


def _cleaned(one: Ready) -> Ready:
    """The same with nothing that a manifest could not hold."""
    metrics = {name: value for name, value in one.metrics.items() if _is_fit(name, value)}
    return replace(one, step=checked_step(one.step), metrics=metrics)


def _is_fit(name: str, value: float) -> bool:
    """Whether a manifest can hold a metric, and `best:NAME:min` address it."""
    return bool(name) and ":" not in name and "=" not in name and math.isfinite(value)


def _some(sentences: tuple[str, ...]) -> tuple[str, ...]:
    """The first ones, when there are many."""
    if len(sentences) <= _MAX_WAITING:
        return sentences
    return (*sentences[:_MAX_WAITING], f"{len(sentences) - _MAX_WAITING} more are not whole")


def look(directory: Path, *, rule: str = "auto", quiet_s: float | None = None, now_s: float) -> Looked:
    """Find what is whole at this moment, once. Who looks again and again uses a `Recogniser`.

    Args:
        directory: on this machine.
        rule: one of `RULES`.
        quiet_s: with the rule `quiet`, for how long nothing in a checkpoint may have changed, in seconds.
        now_s: seconds since the Unix epoch.

    Raises:
        ConfigError: there is no such rule, or no such directory.
        DiskError: it cannot be read.
    """
    return Recogniser(directory, rule=rule, quiet_s=quiet_s).look(now_s)
