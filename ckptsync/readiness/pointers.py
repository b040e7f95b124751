"""What names a checkpoint from beside it: links such as `latest.pt`, and small files such as `latest` or `last_checkpoint`."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from ckptsync.readiness.base import Folder
from ckptsync.readiness.contents import Contents, Opened, UnreadableError
from ckptsync.readiness.names import checked_step, is_plain, number_in
from ckptsync.readiness.torch import stem
from ckptsync.transfer.source import SourceFile

_MOST_BYTES = 4096
_WORD = re.compile(r"[\w.=+-]+")
_CONTROLS = frozenset(map(chr, range(32))) - frozenset("\t\n\r")


def read_text(opened: Opened) -> frozenset[str] | None:
    """The words of a small file, and of paths the last names; None when it is no text. For `Contents.of`."""
    if not 0 < opened.size <= _MOST_BYTES:
        return None
    try:
        text = opened.read(0, _MOST_BYTES).decode()
    except UnicodeDecodeError:
        return None
    return None if _CONTROLS.intersection(text) else frozenset(_WORD.findall(text))


def pointing(folder: Folder, name: str, paths: frozenset[str], contents: Contents) -> Iterator[str]:
    """Links and small files in a folder that name a checkpoint.

    Args:
        folder: it lies in.
        name: of it in there.
        paths: of all its files.
        contents: of files.
    """
    for link in folder.links.values():
        target = posixpath.normpath(posixpath.join(posixpath.dirname(link.path), link.target))
        if target in paths or target == folder.inner(name):
            yield link.path
    for file in texts_naming(folder, name, contents):
        yield file.path


def texts_naming(folder: Folder, name: str, contents: Contents) -> Iterator[SourceFile]:
    """Small files in a folder that name something else in it, whole or by its number alone."""
    own, number = {name, stem(name)}, number_in(stem(name))
    for beside, file in folder.files.items():
        if beside == name or not is_plain(beside) or file.size > _MOST_BYTES:
            continue
        try:
            words = contents.of(file, read_text)
        except UnreadableError:
            continue
        if words is not None and (words & own or (number is not None and {_plain(word) for word in words} == {number})):
            yield file


def named_after(above: Folder, folder: Folder, contents: Contents) -> bool:
    """Tell whether a small file names a folder beside it, and was written after everything in there."""
    written = max((file.identity.mtime_ns for file in folder.all_files()), default=0)
    name = folder.path.rpartition("/")[2]
    return any(file.identity.mtime_ns >= written for file in texts_naming(above, name, contents))


def _plain(word: str) -> int | None:
    """A number that is written as such."""
    return checked_step(int(word)) if word.isdecimal() else None
