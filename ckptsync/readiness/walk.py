"""One look at everything in a directory, in which what stayed as it was costs next to nothing."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from ckptsync.errors import ConfigError, DiskError, ManifestError
from ckptsync.readiness.base import Folder
from ckptsync.snapshot.layout import check_path
from ckptsync.snapshot.manifest import DirectoryEntry, LinkEntry, link_stays_inside
from ckptsync.transfer.folders import is_partial
from ckptsync.transfer.source import Identity, SourceFile, SourceTree

LEADS_OUT = "is a link that leads out of"
_MAX_DEPTH = 64
"""Folders that lie deeper are no checkpoint's."""


@dataclass(slots=True)
class _Seen:
    """A folder as it was at the last look."""

    folder: Folder
    mode: int


class Walker:
    """Looks at a directory again and again. What did not change is the same object as before."""

    def __init__(self, directory: Path) -> None:
        """Remember where; nothing is looked at yet."""
        self._directory = directory
        self._seen: dict[str, _Seen] = {}
        self._tree: SourceTree | None = None
        self._root: Folder | None = None

    def look(self, now_ns: int) -> tuple[Folder, SourceTree]:
        """Find everything there is by one pass over the directory. Safe to call again.

        What disappears meanwhile was not there; what cannot be saved or read is in `Folder.odd`.

        Args:
            now_ns: nanoseconds since the Unix epoch.

        Raises:
            ConfigError: there is no such directory.
            DiskError: it cannot be read.
        """
        try:
            mode = stat.S_IMODE(self._directory.stat().st_mode)
            with os.scandir(self._directory) as entries:
                found = list(entries)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(f"{self._directory} is no directory") from error
        except OSError as error:
            raise DiskError(f"cannot read {self._directory}: {error.strerror}") from error
        before, self._seen = self._seen, {}
        root = self._folder("", found, before, 0, mode)
        if self._tree is None or root is not self._root or mode != self._tree.mode:
            self._tree = _tree(
                self._directory, root, {path: seen.mode for path, seen in self._seen.items()}, now_ns, mode
            )
        self._root = root
        tree = SourceTree(
            self._directory, "directory", self._tree.files, self._tree.links, self._tree.directories, now_ns, mode
        )
        return root, tree

    def _folder(
        self, path: str, entries: list[os.DirEntry[str]], before: dict[str, _Seen], depth: int, mode: int
    ) -> Folder:
        """Sort the entries of a folder; the same object as before, where all is as before."""
        last = before[path].folder if path in before else _EMPTY
        files: dict[str, SourceFile] = {}
        links: dict[str, LinkEntry] = {}
        folders: dict[str, Folder] = {}
        odd: dict[str, str] = {}
        known, prefix, same = last.files, f"{path}/" if path else "", True
        for entry in entries:
            name = entry.name
            try:
                if entry.is_file(follow_symlinks=False):
                    found, file = entry.stat(follow_symlinks=False), known.get(name)
                    if file is None or not _is_still(file.identity, found):
                        same, file = False, _file(prefix + name, entry, found)
                    files[name] = file
                elif entry.is_dir(follow_symlinks=False):
                    if not is_partial(name):
                        folders[name] = self._inner(prefix + name, entry, before, depth + 1)
                elif entry.is_symlink():
                    links[name] = _link(prefix + name, self._directory, entry)
                else:
                    odd[name] = "is neither a file, a folder nor a link"
            except FileNotFoundError:
                continue
            except (ManifestError, _OddError) as error:
                odd[name] = _why(error)
            except OSError as error:
                odd[name] = f"cannot be read: {error.strerror}"
        same = same and len(files) == len(known) and links == last.links and odd == last.odd
        same = same and folders.keys() == last.folders.keys()
        same = same and all(folder is last.folders[name] for name, folder in folders.items())
        folder = last if same and last is not _EMPTY else Folder(path, files, links, folders, odd)
        self._seen[path] = _Seen(folder, mode)
        return folder

    def _inner(self, path: str, entry: os.DirEntry[str], before: dict[str, _Seen], depth: int) -> Folder:
        """Look into a folder."""
        if depth > _MAX_DEPTH:
            raise _OddError("lies too deep")
        check_path(path)
        mode = stat.S_IMODE(entry.stat(follow_symlinks=False).st_mode)
        with os.scandir(entry.path) as entries:
            found = list(entries)
        if path in before and before[path].mode != mode:
            del before[path]  # its mode is part of the tree
        return self._folder(path, found, before, depth, mode)


class _OddError(Exception):
    """Something cannot be part of a snapshot."""


_EMPTY = Folder("", {}, {}, {}, {})


def _is_still(seen: Identity, found: os.stat_result) -> bool:
    """As `SourceFile.is_still`, without making an object for each file of each look."""
    return (
        found.st_mtime_ns == seen.mtime_ns
        and found.st_size == seen.size
        and found.st_ino == seen.inode
        and found.st_ctime_ns == seen.ctime_ns
        and found.st_dev == seen.device
    )


def _why(error: ManifestError | _OddError) -> str:
    """Why an entry cannot be saved, as the rest of a sentence about it."""
    return str(error) if isinstance(error, _OddError) else f"cannot be saved by this name, rename it: {error}"


def _file(path: str, entry: os.DirEntry[str], found: os.stat_result) -> SourceFile:
    """A file that is new, or has changed."""
    return SourceFile(check_path(path), Path(entry.path), Identity.of(found), stat.S_IMODE(found.st_mode))


def _link(path: str, root: Path, entry: os.DirEntry[str]) -> LinkEntry:
    """A link that stays inside; absolute ones are made relative, as saves have them."""
    target = os.readlink(entry.path)  # noqa: PTH115  as text
    if target.startswith("/"):
        target = os.path.relpath(target, os.path.dirname(os.path.abspath(entry.path)))  # noqa: PTH100, PTH120  as above
    if not link_stays_inside(path, target):
        raise _OddError(f"{LEADS_OUT} {root}")
    return LinkEntry(path=check_path(path), target=target)


def _tree(directory: Path, root: Folder, modes: dict[str, int], now_ns: int, mode: int) -> SourceTree:
    """Everything as saves want it."""
    folders = sorted(root.all_folders(), key=lambda folder: folder.path)
    links = [link for folder in folders for link in folder.links.values()]
    return SourceTree(
        directory,
        "directory",
        tuple(sorted(root.all_files(), key=lambda file: file.path)),
        tuple(sorted(links, key=lambda link: link.path)),
        tuple(DirectoryEntry(path=folder.path, mode=modes[folder.path]) for folder in folders if folder.path),
        now_ns,
        mode,
    )
