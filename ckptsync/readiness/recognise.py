"""One look at a directory: which checkpoints in it are whole, and why others are not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
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
)
from ckptsync.readiness.base import Findings, Folder, Ready
from ckptsync.readiness.contents import Contents
from ckptsync.readiness.names import checked_step, is_temporary
from ckptsync.readiness.walk import Walker
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
    lightning.RULE: lightning.find,
    torch.RULE: torch.find,
    safetensors.RULE: safetensors.find,
}
"""In the order in which `auto` asks them: who knows more of a folder comes first."""
RULES: tuple[str, ...] = ("auto", *_FINDERS, quiet.RULE)
"""Names of all rules; `auto` is all but `quiet`."""
_MAX_DEPTH = 8
"""Checkpoints are looked for in folders of up to this depth."""
_MAX_WAITING = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """What one look at a directory found.

    Attributes:
        checkpoints: that are whole, the oldest first: by when their newest file was written, then by step and name.
        tree: everything in the directory that can be saved.
        waiting: a sentence for each candidate that is not whole, and why.
    """

    checkpoints: tuple[Ready, ...]
    tree: SourceTree
    waiting: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """What is in a folder and below it."""

    checkpoints: tuple[Ready, ...]
    waiting: tuple[str, ...]


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
        self._walker, self._contents = Walker(directory), Contents()
        self._known: dict[Folder, _Found] = {}
        self._files: tuple[SourceFile, ...] | None = None
        self._last: _Found | None = None
        self._sorted: tuple[Ready, ...] = ()

    def look(self, now_s: float) -> Looked:
        """Find what is whole at this moment. Safe to call again; what did not change costs next to nothing.

        Args:
            now_s: seconds since the Unix epoch.

        Raises:
            ConfigError: there is no such directory.
            DiskError: it cannot be read.
        """
        root, tree = self._walker.look(int(now_s * 1e9))
        if self._quiet_s is not None:
            findings = quiet.find(root, self._contents, quiet_s=self._quiet_s, now_s=now_s)
            found = _Found(findings.checkpoints, findings.waiting)
        else:
            before, self._known = self._known, {}
            found = self._below(root, 0, before)
        if tree.files is not self._files or found is not self._last:
            self._contents.forget({file.path for file in tree.files})
            self._files, self._last = tree.files, found
            self._sorted = _in_order(found.checkpoints, tree)
        return Looked(checkpoints=self._sorted, tree=tree, waiting=_some(found.waiting))

    def _below(self, folder: Folder, depth: int, before: Mapping[Folder, _Found]) -> _Found:
        """Ask the rules about a folder and those below it; what did not change needs no asking."""
        if folder in before:
            found = before[folder]
            self._known[folder] = found
            return found
        checkpoints: list[Ready] = []
        waiting: list[str] = []
        rest = folder
        for find in self._finders:
            findings = find(rest, self._contents)
            checkpoints += findings.checkpoints
            waiting += findings.waiting
            if findings.all_claimed:
                break
            rest = rest.without(findings.claimed)
        else:
            for name, inner in rest.folders.items():
                if name.startswith("."):
                    continue
                if is_temporary(name):
                    waiting.append(f"{inner.path} is being written, by its name")
                elif depth < _MAX_DEPTH:
                    found = self._below(inner, depth + 1, before)
                    checkpoints += found.checkpoints
                    waiting += found.waiting
        self._known[folder] = _Found(tuple(checkpoints), tuple(waiting))
        return self._known[folder]


def _in_order(checkpoints: Iterable[Ready], tree: SourceTree) -> tuple[Ready, ...]:
    """The oldest first, with nothing that a manifest could not hold."""
    written = {file.path: file.identity.mtime_ns for file in tree.files}
    cleaned = [
        replace(
            one,
            step=checked_step(one.step),
            metrics={name: value for name, value in one.metrics.items() if _is_fit(name, value)},
        )
        for one in checkpoints
    ]

    def age(one: Ready) -> tuple[int, int, str]:
        newest = max((written.get(path, 0) for path in one.paths), default=0)
        return newest, -1 if one.step is None else one.step, one.name

    return tuple(sorted(cleaned, key=age))


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
