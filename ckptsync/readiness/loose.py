"""Loose files, of which no framework tells what belongs together: each is a checkpoint by itself, or some are parts of one.

While `model.pt` and `optimizer.pt` are written over in place, one after the other, nothing in them tells that both are of one step. Names do
where they say that a file is a state among others of the same thing, as `last.pt` and `best.pt`; so does what happens: of parts, none stays as
it is while another is written twice.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ckptsync.readiness import safetensors, torch
from ckptsync.readiness.base import Folder, Ready
from ckptsync.readiness.contents import Contents, UnreadableError
from ckptsync.readiness.names import family, is_plain, labels_in, number_in
from ckptsync.transfer.source import SourceFile

_RULES = frozenset({torch.RULE, safetensors.RULE})


def _listed(words: str) -> frozenset[str]:
    """Words as a set."""
    return frozenset(words.split())


_EMERGENCY = _listed("crash crashed emergency interrupt interrupted preempt preempted preemption")
_VERSION = _EMERGENCY | _listed(
    "best last latest newest current final min max lowest highest top new old prev previous backup bak init initial "
    "pretrained base"
)
"""Words that tell one state of a thing from another."""
_WHOLE = _EMERGENCY | _listed(
    "best last latest newest current final resume save saved checkpoint checkpoints chkpt ckpt ckpts snapshot snapshots"
)
"""Words that say that a file is a checkpoint."""
_NOTHING = _listed(
    "model models weight weights pytorch torch acc accuracy auc bleu cer dev dice err error eval fid iou loss mae "
    "map metric miou mse perplexity ppl psnr return reward rmse rouge score ssim test train val valid validation wer"
)
"""Words that tell no part from another: a model, a measure."""
_TIME = _listed("epoch epochs ep step steps iter iteration iterations global round update")
"""Words that stand beside a number; without one they may name a part that counts."""
_MODEL = _listed("model models net network weight weights")
"""Words that say that it is a model, and perhaps no more."""
_PART = _listed("args opt optim optimizer random rng sampler scaler sched scheduler")
"""Words of what is no checkpoint by itself."""
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")
_OPTIMIZER = re.compile(r"opt$|opt_|optim")
_MOST_NAMED = 4
_ENDS_WAIT = "when the training has ended well, or when it is marked"
_LONELY = f"is a part of a checkpoint by its name, and no rest of it is there: it is taken {_ENDS_WAIT}"
_FIRST = f"may be the first part of a checkpoint: it is taken when the next one is written, {_ENDS_WAIT}"


@dataclass(frozen=True, slots=True)
class Kind:
    """Files of one name, numbers apart, or one that is written over in place.

    Attributes:
        key: what its versions have in common.
        name: path of the newest.
        words: of its path that are none of those above; parts of a checkpoint differ in them.
        is_version: whether its name tells which of several states it is.
        in_place: whether it has no number, so that the next version replaces this one.
        is_whole: whether the newest can be taken, as far as it tells itself.
        newest_ns: when it was written.
        before_ns: when the version before it was, as far as it was seen; 0 for none.
    """

    key: str
    name: str
    words: frozenset[str]
    is_version: bool
    in_place: bool
    is_whole: bool
    newest_ns: int
    before_ns: int


@dataclass(frozen=True, slots=True)
class Parts:
    """Files that are not to be taken one by one.

    Attributes:
        names: paths of those that are not to be taken.
        waiting: a sentence about each checkpoint of which they are.
        together: paths of those that are all there, as the training has ended well.
    """

    names: frozenset[str] = frozenset()
    waiting: tuple[str, ...] = ()
    together: frozenset[str] = frozenset()


@dataclass(slots=True)
class Loose:
    """Remembers when each kind was written, the last two times. For one thread."""

    _times: dict[str, tuple[int, int]] = field(default_factory=dict)
    _at_first: dict[str, int] | None = None
    _was_whole: set[str] = field(default_factory=set)

    def parts(
        self, checkpoints: Sequence[Ready], torn: Iterable[str], root: Folder, contents: Contents, *, is_over: bool
    ) -> Parts:
        """Tell which files are parts of a checkpoint, of which nothing tells when all of it is there. Safe to call again.

        Args:
            checkpoints: that are whole.
            torn: paths of loose files that are not.
            root: the directory.
            contents: of files.
            is_over: whether the training has ended well, so that what it has written is of one step.
        """
        kinds = list(self._kinds(checkpoints, torn, root))
        if self._at_first is None:
            self._at_first = {kind.key: kind.newest_ns for kind in kinds}
        held: set[str] = set()
        together: set[str] = set()
        waiting: list[str] = []
        for group in _entangled(kinds):
            if is_over and any(map(self._is_written, group)):
                together |= {kind.key for kind in group}
                continue
            held |= {kind.key for kind in group}
            if any(kind.is_whole for kind in group):
                waiting.append(_sentence(sorted(kind.name for kind in group)))
        alone = [kind for kind in kinds if kind.is_whole and kind.key not in held | together and not is_over]
        for kind in sorted(alone, key=lambda one: bool(one.words & _PART)):
            others = [other for other in kinds if other is not kind]
            if why := self._why_not_alone(kind, others, held, root, contents):
                held.add(kind.key)
                waiting.append(f"{kind.name} {why}")
        for kind in kinds:
            if beside := [] if is_over else self._held_by(kind, kinds):
                held |= {other.key for other in beside}
                waiting.append(f"{kind.name} is not whole, and was before: what lies beside it is taken with it")
        self._was_whole |= {kind.key for kind in kinds if kind.is_whole}
        named = {one.name: _key(one.name) for one in checkpoints} | {kind.name: kind.key for kind in kinds}
        return Parts(
            names=frozenset(name for name, key in named.items() if key in held),
            waiting=tuple(waiting),
            together=frozenset(name for name, key in named.items() if key in together),
        )

    def take_all(self) -> None:
        """Take what was there at the first look for written since, as somebody says."""
        self._at_first = {}

    def _is_written(self, kind: Kind) -> bool:
        """Whether it was written since the first look."""
        return (self._at_first or {}).get(kind.key) != kind.newest_ns

    def _held_by(self, kind: Kind, kinds: Sequence[Kind]) -> list[Kind]:
        """What was taken together with a file that is written over just now, and was not written twice since."""
        if kind.is_whole or not kind.in_place or kind.key not in self._was_whole:
            return []
        return [one for one in kinds if one.is_whole and one.words == kind.words and one.before_ns <= kind.newest_ns]

    def _kinds(self, checkpoints: Sequence[Ready], torn: Iterable[str], root: Folder) -> Iterator[Kind]:
        """Loose files, by kind."""
        files: dict[str, list[tuple[SourceFile, bool]]] = {}
        whole = {one.name for one in checkpoints if one.rule in _RULES and one.paths == {one.name}}
        there = {path: file for path in whole.union(torn) if (file := root.file_at(path)) is not None}
        for path, file in there.items():
            files.setdefault(_key(path), []).append((file, path in whole))
        times, self._times = self._times, {}
        for key, found in files.items():
            seen = {file.identity.mtime_ns for file, _ in found} | set(times.get(key, ()))
            before_ns, newest_ns = sorted({0, *seen})[-2:]
            self._times[key] = (before_ns, newest_ns)
            newest, is_whole = max(found, key=lambda one: one[0].identity.mtime_ns)
            yield _kind(key, newest.path, is_whole=is_whole, times=self._times[key])

    def _why_not_alone(
        self, kind: Kind, others: Sequence[Kind], held: Collection[str], root: Folder, contents: Contents
    ) -> str:
        """Why a file may be a part of something that is not there yet; empty when its name, its content or its past tells otherwise."""
        if kind.words & _PART:
            return "" if any(not other.words & _PART and other.key not in held for other in others) else _LONELY
        words = _all_words(kind.name)
        says_whole = not words & _MODEL and (words & _WHOLE or (not kind.in_place and words <= _TIME))
        has_next = not kind.in_place and any(other.before_ns and not other.in_place for other in others)
        is_first = not kind.before_ns and not has_next and kind.key not in (self._at_first or {})
        is_left = any(other.words == kind.words or other.before_ns > kind.newest_ns for other in others)
        if says_whole or is_left or not is_first:
            return ""
        return "" if _holds_optimizer(root.file_at(kind.name), contents) else _FIRST


def _entangled(kinds: Sequence[Kind]) -> Iterator[list[Kind]]:
    """Kinds that may be parts of one checkpoint, in groups."""
    left = list(kinds)
    while left:
        group = [left.pop()]
        for one in group:
            more = [other for other in left if _may_be_parts(one, other)]
            group += more
            left = [other for other in left if other not in more]
        if len(group) > 1:
            yield group


def _may_be_parts(one: Kind, other: Kind) -> bool:
    """Whether two kinds may be parts of one checkpoint."""
    if not (one.in_place or other.in_place) or (one.words == other.words and (one.is_version or other.is_version)):
        return False
    return not (one.newest_ns < other.before_ns or other.newest_ns < one.before_ns)


def _sentence(names: Sequence[str]) -> str:
    """Why a group is not taken."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return (
        f"{', '.join(names[:_MOST_NAMED])}{more} may be parts of one checkpoint, and are written over in place: nothing tells when all "
        "of them are of one step; mark them when they are, or let --ready quiet wait for a pause"
    )


def beside(parts: Iterable[str], root: Folder) -> frozenset[str]:
    """Paths of files of other formats in the folders in which parts lie: once the training has ended well, they are of the same step."""
    folders = (root.folder_at(above) for above in {path.rpartition("/")[0] for path in parts})
    files = (entry for folder in folders if folder is not None for entry in folder.files.items())
    return frozenset(
        file.path
        for name, file in files
        if is_plain(name) and not torch.is_candidate(name, (*torch.ENDINGS, safetensors.ENDING))
    )


def _key(path: str) -> str:
    """What versions of the same thing have in common: the path, or of a file with a number the path without numbers."""
    name = torch.stem(path.rpartition("/")[2])
    return path if number_in(name) is None else family(path)


def is_another_state(one: str, other: str) -> bool:
    """Whether a path names a version of what another names, as `best_2.pt` of `epoch_2.pt`, and no part beside it."""
    return bool(_all_words(one) & _VERSION) and _told(one) - _TIME == _told(other) - _TIME


def _told(path: str) -> frozenset[str]:
    """Words of a path that tell parts from each other; where there is no number, those of time do, too."""
    return (_all_words(path) | labels_in(path)) - _VERSION - _WHOLE - _NOTHING


def _all_words(path: str) -> frozenset[str]:
    """Of a path, in small letters."""
    return frozenset(word.lower() for word in _WORD.findall(torch.stem(path)))


def _kind(key: str, path: str, *, is_whole: bool, times: tuple[int, int]) -> Kind:
    """What a file's name and times tell."""
    told, in_place = _told(path), key == path
    return Kind(
        key=key,
        name=path,
        words=told if in_place else told - _TIME,
        is_version=bool(_all_words(path) & _VERSION) or not in_place,
        in_place=in_place,
        is_whole=is_whole,
        newest_ns=times[1],
        before_ns=times[0],
    )


def _holds_optimizer(file: SourceFile | None, contents: Contents) -> bool:
    """Whether a file tells the state of an optimizer, by the keys of its uppermost level."""
    if file is None or not file.path.lower().endswith(torch.ENDINGS):
        return False
    try:
        keys = contents.of(file, torch.read).keys
    except UnreadableError:
        return False
    return any(_OPTIMIZER.match(key.lower()) for key in keys)
