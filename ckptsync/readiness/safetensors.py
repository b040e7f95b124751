"""Files of safetensors: whole when they have the size that the header at their beginning tells.

Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from ckptsync.readiness.base import Findings, Folder, Ready
from ckptsync.readiness.contents import Contents, Opened, UnreadableError
from ckptsync.readiness.names import is_plain, step_along

RULE = "safetensors"
ENDING = ".safetensors"
_LENGTH_BYTES = 8
_MAX_HEADER_BYTES = 100_000_000  # as the library has it


class _Tensor(msgspec.Struct):
    """A tensor's entry; of its fields only where it lies."""

    data_offsets: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """What a file tells; `why` it is not whole follows its name, and is empty when it is."""

    why: str = ""


_header = msgspec.json.Decoder(dict[str, msgspec.Raw])
_tensor = msgspec.json.Decoder(_Tensor)


def read(opened: Opened) -> SafetensorsFile:
    """Tell whether a file is whole; for `Contents.of`."""
    length = int.from_bytes(opened.read(0, _LENGTH_BYTES), "little")
    if opened.size < _LENGTH_BYTES or length > min(_MAX_HEADER_BYTES, opened.size - _LENGTH_BYTES):
        return SafetensorsFile("is cut short" if opened.size else "is empty")
    try:
        entries = _header.decode(opened.read(_LENGTH_BYTES, length))
        tensors = [_tensor.decode(entry) for name, entry in entries.items() if name != "__metadata__"]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return SafetensorsFile("has a header that cannot be read")
    wanted = _LENGTH_BYTES + length + max((tensor.data_offsets[1] for tensor in tensors), default=0)
    if wanted != opened.size:
        return SafetensorsFile(f"should have {wanted} bytes and has {opened.size}")
    return SafetensorsFile()


def find(folder: Folder, contents: Contents) -> Findings:
    """Find files that are checkpoints by themselves."""
    names = [name for name in folder.files if name.lower().endswith(ENDING) and is_plain(name)]
    checkpoints: list[Ready] = []
    waiting: list[str] = []
    torn: set[str] = set()
    for name in names:
        file = folder.files[name]
        try:
            found = contents.of(file, read)
        except UnreadableError as error:
            waiting.append(str(error))
            continue
        if found.why:
            waiting.append(f"{file.path} {found.why}")
            torn.add(name)
        else:
            step = step_along(file.path[: -len(ENDING)])
            checkpoints.append(Ready(step=step, paths=frozenset({file.path}), name=file.path, rule=RULE))
    return Findings(
        checkpoints=tuple(checkpoints),
        waiting=tuple(waiting),
        claimed=frozenset(names),
        torn=frozenset(torn),
        is_loose=True,
    )
