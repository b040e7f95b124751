"""Files of `torch.save`: whole when the directory at their end tells of all that is before it.

Files of the format before PyTorch 1.6 are whole when they end behind the last storage that they tell of. Folders of a step are looked
at by `units`.

Source: torch/serialization.py, `_save` and `_legacy_save`; caffe2/serialize/inline_container.cc
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from ckptsync.readiness import zipped
from ckptsync.readiness.base import Findings, Folder, Ready, sibling
from ckptsync.readiness.contents import Contents, Opened, UnreadableError
from ckptsync.readiness.names import checked_step, is_plain, step_along
from ckptsync.readiness.opcodes import Named
from ckptsync.readiness.pickled import PickleError, scan
from ckptsync.readiness.zipped import BrokenError

RULE = "torch"
ENDINGS = (".pth.tar", ".pt.tar", ".pt", ".pth", ".bin", ".ckpt")
_ALWAYS = (".pth.tar", ".pt.tar", ".pt", ".pth", ".ckpt")
"""Endings that nothing else has, so that it is told when such a file is not whole."""
_ENDING = re.compile(r"\.[A-Za-z]\w{0,15}$")
_BEST = re.compile(rb"best_model_path(?:q.|r.{4})?X(.{4})", re.DOTALL)
"""Two texts in a row, the first put into the memo; by then the length of the second (BINUNICODE)."""
_STEPS = ("global_step", "step", "iteration", "iter")
_MAX_PICKLE_BYTES = 8 << 20
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_MAX_LEGACY_BYTES = 16 << 20
_ITEM_BYTES = {
    name: size
    for size, names in {
        1: "Byte Char Bool QInt8 QUInt8 QUInt4x2 QUInt2x4 Untyped",
        2: "Half BFloat16 Short",
        4: "Float Int QInt32",
        8: "Double Long ComplexFloat",
        16: "ComplexDouble",
    }.items()
    for name in names.split()
}


@dataclass(frozen=True, slots=True)
class TorchFile:
    """What a file tells without being loaded.

    Attributes:
        is_torch: whether it is of `torch.save` at all.
        why: it is not whole, in words that follow its name; empty when it is.
        step: that it holds on its uppermost level.
        keys: of its uppermost level; empty when it is no dictionary, or a very large one.
        best: path of the best checkpoint so far, as Lightning's `ModelCheckpoint` notes it; empty when there is none.
    """

    is_torch: bool
    why: str = ""
    step: int | None = None
    keys: frozenset[str] = frozenset()
    best: str = ""


def read(opened: Opened) -> TorchFile:
    """Tell what a file is; for `Contents.of`."""
    if not opened.size:
        return TorchFile(is_torch=True, why="is empty")
    beginning = opened.read(0, len(_LEGACY))
    try:
        if zipped.BEGINNING.startswith(beginning[: len(zipped.BEGINNING)]):
            return _zip(opened)
        if _LEGACY.startswith(beginning):
            return _legacy(opened)
    except (BrokenError, PickleError) as error:
        return TorchFile(is_torch=True, why=str(error))
    return TorchFile(is_torch=False, why="is no file of torch.save")


def _zip(opened: Opened) -> TorchFile:
    """A file of today's format."""
    found = zipped.members(opened)
    pickle = next((member for member in found if member.name.endswith(b"/data.pkl")), None)
    if pickle is None:
        return TorchFile(is_torch=False, why="is a zip file, and not one of torch.save")
    content = zipped.stored(opened, pickle, _MAX_PICKLE_BYTES + 1)
    if content is None or len(content) > _MAX_PICKLE_BYTES:
        return TorchFile(is_torch=True)
    return replace(_told(scan(content).mapping), best=_best(content))


def _best(pickle: bytes) -> str:
    """The text behind the first `best_model_path`, wherever that is."""
    if (found := _BEST.search(pickle)) is None:
        return ""
    begin = found.end()
    return pickle[begin : begin + int.from_bytes(found[1], "little")].decode("utf-8", "replace")


def _told(mapping: Mapping[str, object]) -> TorchFile:
    """What the uppermost level of a state tells."""
    steps = [step for name in _STEPS if (step := checked_step(mapping.get(name))) is not None]
    return TorchFile(is_torch=True, step=steps[0] if steps else None, keys=frozenset(mapping))


def _legacy(opened: Opened) -> TorchFile:
    """A file of the format before PyTorch 1.6: pickles, then for each storage its number of items and the items."""
    data = opened.read(0, _MAX_LEGACY_BYTES)
    storages: dict[str, tuple[str, int]] = {}

    def watch(what: object, argument: object) -> None:
        if what is None and isinstance(argument, tuple) and len(argument) > 4 and isinstance(argument[1], Named):  # noqa: PLR2004  items
            storages[str(argument[2])] = (argument[1].name.removesuffix("Storage"), argument[4])

    end = len(_LEGACY)
    for _ in range(2):  # version of the protocol, and of the machine
        end = scan(data, end).end
    state = scan(data, end, watch=watch)
    end = scan(data, state.end).end  # keys, in the order of the storages
    for name, items in storages.values():
        if name not in _ITEM_BYTES or not isinstance(items, int):
            raise BrokenError(f"has storages of a kind that is not known here: {name}")
    wanted = end + sum(8 + items * _ITEM_BYTES[name] for name, items in storages.values())
    if wanted != opened.size:
        raise BrokenError(f"should have {wanted} bytes and has {opened.size}")
    return _told(state.mapping)


def find(folder: Folder, contents: Contents) -> Findings:
    """Find files that are checkpoints by themselves."""
    found = files(folder, [name for name in folder.files if is_candidate(name)], contents, RULE)
    return replace(found, is_loose=True)


def files(folder: Folder, names: Iterable[str], contents: Contents, rule: str) -> Findings:
    """Look into files, each a checkpoint by itself; those that are none of `torch.save` are left to others."""
    checkpoints: list[Ready] = []
    waiting: list[str] = []
    claimed: set[str] = set()
    torn: set[str] = set()
    for name in names:
        file = folder.files[name]
        try:
            found = contents.of(file, read)
        except UnreadableError as error:
            claimed.add(name)
            waiting.append(str(error))
            continue
        if found.why:
            if found.is_torch or name.lower().endswith(_ALWAYS):
                waiting.append(f"{file.path} {found.why}")
                claimed.add(name)
                torn |= {name} if found.is_torch else set()
            continue
        claimed.add(name)
        step = found.step if found.step is not None else step_along(stem(file.path))
        checkpoints.append(
            Ready(
                step=step,
                paths=frozenset({file.path}),
                name=file.path,
                rule=rule,
                best=sibling(file.path, found.best),
            )
        )
    return Findings(
        checkpoints=tuple(checkpoints), waiting=tuple(waiting), claimed=frozenset(claimed), torn=frozenset(torn)
    )


def is_candidate(name: str, endings: tuple[str, ...] = ENDINGS) -> bool:
    """Tell whether a file of this name may be a checkpoint by itself."""
    return is_plain(name) and name.lower().endswith(endings)


def stem(name: str) -> str:
    """A file's name without its ending."""
    known = (name[: -len(end)] for end in ENDINGS if name.lower().endswith(end))
    return next(known, None) or _ENDING.sub("", name)
