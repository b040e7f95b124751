"""Files of `torch.save`: whole when the directory at their end tells of all that is before it.

Source: torch/serialization.py; caffe2/serialize/inline_container.cc
"""

from __future__ import annotations

from dataclasses import dataclass

from ckptsync.readiness import zipped
from ckptsync.readiness.base import Findings, Folder, Ready
from ckptsync.readiness.contents import Contents, Opened, UnreadableError
from ckptsync.readiness.names import is_temporary, step_in
from ckptsync.readiness.zipped import BrokenError

RULE = "torch"
ENDINGS = (".pt", ".pth", ".bin", ".pth.tar", ".pt.tar", ".ckpt")
_STEPS = ("global_step", "step", "iteration", "iter")


@dataclass(frozen=True, slots=True)
class TorchFile:
    """What a file tells without being loaded.

    Attributes:
        is_torch: whether it is of `torch.save` at all.
        why: it is not whole, in words that follow its name; empty when it is.
        step: that it holds on its uppermost level.
    """

    is_torch: bool
    why: str = ""
    step: int | None = None


def read(opened: Opened) -> TorchFile:
    """Tell what a file is; for `Contents.of`."""
    if not opened.size:
        return TorchFile(is_torch=True, why="is empty")
    if opened.read(0, len(zipped.BEGINNING)) != zipped.BEGINNING:
        return TorchFile(is_torch=False, why="is no file of torch.save")
    try:
        found = zipped.members(opened)
    except BrokenError as error:
        return TorchFile(is_torch=True, why=str(error))
    if not any(member.name.endswith(b"/data.pkl") for member in found):
        return TorchFile(is_torch=False, why="is a zip file, and not one of torch.save")
    return TorchFile(is_torch=True)


def find(folder: Folder, contents: Contents) -> Findings:
    """Find files that are checkpoints by themselves."""
    checkpoints: list[Ready] = []
    waiting: list[str] = []
    claimed: set[str] = set()
    for name, file in folder.files.items():
        if not name.lower().endswith(ENDINGS) or name.startswith(".") or is_temporary(name):
            continue
        try:
            found = contents.of(file, read)
        except UnreadableError as error:
            waiting.append(str(error))
            continue
        claimed.add(name)
        if found.why:
            waiting.append(f"{file.path} {found.why}")
            continue
        step = found.step if found.step is not None else step_in(stem(name))
        checkpoints.append(Ready(step=step, paths=frozenset({file.path}), name=file.path, rule=RULE))
    return Findings(checkpoints=tuple(checkpoints), waiting=tuple(waiting), claimed=frozenset(claimed))


def stem(name: str) -> str:
    """A file's name without its ending."""
    return next((name[: -len(end)] for end in ENDINGS if name.lower().endswith(end)), name)
