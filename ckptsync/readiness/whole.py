"""Whether every file of a checkpoint is whole, as far as its format tells."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec

from ckptsync.readiness import safetensors, torch
from ckptsync.readiness.base import Folder
from ckptsync.readiness.contents import Contents, Opened, UnreadableError
from ckptsync.readiness.names import is_temporary
from ckptsync.transfer.source import SourceFile

_MAX_JSON_BYTES = 64 << 20
_json = msgspec.json.Decoder(msgspec.Raw)


def why_not(files: Iterable[SourceFile], contents: Contents) -> str:
    """Return a sentence about one file that is not whole; empty when none is known to be cut short or still written."""
    return next((why for file in files if (why := _why_not(file, contents))), "")


def why_not_in(folder: Folder, contents: Contents) -> str:
    """Return a sentence about something in a folder that is not whole, has a temporary name or cannot be saved; empty when nothing is."""
    for one in folder.all_folders():
        if odd := next(iter(one.odd.items()), None):
            return f"{one.inner(odd[0])} {odd[1]}"
        if begun := next((name for name in (*one.files, *one.folders) if is_temporary(name)), None):
            return f"{one.inner(begun)} is being written, by its name"
    return why_not(folder.all_files(), contents)


def _why_not(file: SourceFile, contents: Contents) -> str:
    """What one file lacks."""
    name = file.path.lower()
    try:
        if name.endswith(torch.ENDINGS):
            found = contents.of(file, torch.read)
            return f"{file.path} {found.why}" if found.is_torch and found.why else ""
        if name.endswith(safetensors.ENDING):
            why = contents.of(file, safetensors.read).why
            return f"{file.path} {why}" if why else ""
        if name.endswith(".json"):
            why = contents.of(file, read_json)
            return f"{file.path} {why}" if why else ""
    except UnreadableError as error:
        return str(error)
    return ""


def why_no_json(files: Iterable[SourceFile], contents: Contents) -> str:
    """Return a sentence about one file that should be JSON and is not; empty when all are."""
    try:
        found = ((file, contents.of(file, read_json)) for file in files)
        return next((f"{file.path} {why}" for file, why in found if why), "")
    except UnreadableError as error:
        return str(error)


def read_json(opened: Opened) -> str:
    """Tell why a JSON file is not whole; for `Contents.of`."""
    if not opened.size:
        return "is empty"
    if opened.size > _MAX_JSON_BYTES:
        return ""
    return "" if is_json(opened.read(0, opened.size)) else "is cut short or damaged"


def is_json(content: bytes) -> bool:
    """Tell whether this is JSON, with the infinities that Python writes as well."""
    try:
        _json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        if b"NaN" not in content and b"Infinity" not in content:
            return False
        try:
            json.loads(content)
        except (ValueError, RecursionError):
            return False
    return True
