"""Keys as paths: which keys fit into a directory tree, and the walk that lists a tree in key order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

from ckptsync.errors import ConfigError

_Value = TypeVar("_Value")


class Entry(NamedTuple):
    """A name in a folder."""

    name: str
    is_folder: bool


def refusal(key: str) -> str:
    """Tell why a key cannot be a path below a folder; empty when it can."""
    if not key:
        return "it is empty"
    if "\0" in key:
        return "it holds a NUL"
    if not is_text(key):
        return "it is not valid UTF-8"
    for segment in key.split("/"):
        if segment == "":
            return "it has an empty segment"
        if segment in {".", ".."}:
            return f"it has a segment {segment!r}"
    return ""


def is_text(name: str) -> bool:
    """Whether a name is UTF-8; file systems hand out others with surrogates in them."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_key(key: str, reserved: str) -> None:
    """Refuse a key that would leave its folder, or lie in the folder `reserved` where the store keeps its own files.

    Raises:
        ConfigError: the key cannot be used.
    """
    why = refusal(key)
    if not why and (key == reserved or key.startswith(f"{reserved}/")):
        why = f"{reserved} is the store's own folder"
    if why:
        raise ConfigError(f"key {key!r} cannot be used in a directory: {why}")


def walk(
    scan: Callable[[str], Iterable[tuple[Entry, _Value]]], prefix: str, after: str = ""
) -> Iterator[tuple[str, _Value]]:
    """List a tree in ascending order of the UTF-8 bytes of whole keys, one folder in memory per level.

    Folders that cannot hold a wanted key are not scanned.

    Args:
        scan: entries of a folder, in any order, each with a value to hand on; the folder is `""` or ends with `/`.
        prefix: only keys that start with it.
        after: only keys greater than it.

    Yields:
        The key of each file and the value its entry came with.
    """
    top = prefix[: prefix.rfind("/") + 1]
    if top and refusal(top[:-1]):
        return
    stack = [(top, _in_order(scan(top)))]
    while stack:
        folder, entries = stack[-1]
        if (found := next(entries, None)) is None:
            stack.pop()
            continue
        entry, value = found
        key = folder + entry.name
        if entry.is_folder:
            if _may_hold(f"{key}/", prefix, after):
                stack.append((f"{key}/", _in_order(scan(f"{key}/"))))
        elif key.startswith(prefix) and key > after:
            yield key, value


def _in_order(entries: Iterable[tuple[Entry, _Value]]) -> Iterator[tuple[Entry, _Value]]:
    """Sort as the keys below sort: a folder counts with its slash, so `a-b` comes before `a/`."""
    # str compares by code point, which is the order of the UTF-8 bytes
    return iter(sorted(entries, key=lambda found: f"{found[0].name}/" if found[0].is_folder else found[0].name))


def _may_hold(folder: str, prefix: str, after: str) -> bool:
    """Whether a key below `folder`, which is not above `prefix`, can start with it and be greater than `after`."""
    return folder.startswith(prefix) and (folder > after or after.startswith(folder))
