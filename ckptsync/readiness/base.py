"""What a rule is given and what it finds."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from ckptsync.snapshot.manifest import LinkEntry
from ckptsync.transfer.source import SourceFile, SourceTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """A checkpoint that is whole.

    Attributes:
        step: training step, as far as the files tell it.
        paths: of its files, relative to the directory.
        copied: those which the framework writes to in place, next time.
        replaced: content by path that is to be saved instead of the file's.
        name: of its folder or file, relative to the directory; empty for the directory itself.
        rule: by which it is whole.
        metrics: finite numbers of this very step, as far as the files tell them.
        beside: those of `paths` that are no part of it and come along, so that a restore brings them back.
        joined: names of what is part of it beside the first, as `optimizer_100.pt` of `model_100.pt`.
        best: name of the checkpoint that it calls the best so far, which the training will come back to; empty for none.
    """

    step: int | None
    paths: frozenset[str]
    copied: frozenset[str] = frozenset()
    replaced: Mapping[str, bytes] = field(default_factory=dict)
    name: str = ""
    rule: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    beside: frozenset[str] = frozenset()
    joined: tuple[str, ...] = ()
    best: str = ""


def sibling(name: str, path: str) -> str:
    """Return the name of what lies beside a checkpoint, of a path that another machine may have written; empty for none."""
    above, last = name.rpartition("/")[0], path.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return f"{above}/{last}" if above and last else last


@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """A folder as it was found, and everything below it.

    Attributes:
        path: relative to the directory; empty for the directory itself.
        files: by name, those that can be saved.
        links: by name, symbolic links that stay inside the directory.
        folders: by name.
        odd: by name, why what is there cannot be saved.
    """

    path: str
    files: Mapping[str, SourceFile]
    links: Mapping[str, LinkEntry]
    folders: Mapping[str, Folder]
    odd: Mapping[str, str]

    def inner(self, name: str) -> str:
        """Path of an entry, relative to the directory."""
        return f"{self.path}/{name}" if self.path else name

    def all_files(self) -> Iterator[SourceFile]:
        """Every file below it."""
        for folder in self.all_folders():
            yield from folder.files.values()

    def all_folders(self) -> Iterator[Folder]:
        """It, and every folder below it."""
        left = [self]
        while left:
            folder = left.pop()
            yield folder
            left.extend(folder.folders.values())

    def all_paths(self) -> frozenset[str]:
        """Of every file and link below it."""
        files = {file.path for file in self.all_files()}
        return frozenset(files.union(*({link.path for link in one.links.values()} for one in self.all_folders())))

    @property
    def names(self) -> frozenset[str]:
        """Of the files and folders right in it."""
        return frozenset({*self.files, *self.folders})

    def without(self, names: Collection[str]) -> Folder:
        """The same folder without some of its entries."""
        if not names:
            return self
        return Folder(
            self.path,
            {name: file for name, file in self.files.items() if name not in names},
            {name: link for name, link in self.links.items() if name not in names},
            {name: folder for name, folder in self.folders.items() if name not in names},
            {name: why for name, why in self.odd.items() if name not in names},
        )

    def file_at(self, path: str) -> SourceFile | None:
        """The file at a path relative to this folder."""
        above, _, name = path.rpartition("/")
        folder = self.folder_at(above)
        return folder.files.get(name) if folder is not None else None

    def folder_at(self, path: str) -> Folder | None:
        """The folder at a path relative to this one, which is at the empty path."""
        folder: Folder | None = self
        for name in path.split("/") if path else ():
            folder = folder.folders.get(name) if folder is not None else None
        return folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a rule says of a folder.

    Attributes:
        checkpoints: that are whole.
        waiting: a sentence for each that is not, and why.
        claimed: names of entries that are spoken for.
        all_claimed: whether everything in the folder is.
        torn: names of entries that are cut short for sure.
        lacking: names of entries that lack what all before them have, and are newer than those.
        is_loose: whether they are files that no framework ties to others.
    """

    checkpoints: tuple[Ready, ...] = ()
    waiting: tuple[str, ...] = ()
    claimed: frozenset[str] = frozenset()
    all_claimed: bool = False
    torn: frozenset[str] = frozenset()
    lacking: frozenset[str] = frozenset()
    is_loose: bool = False


NOTHING = Findings()


def folder_of(tree: SourceTree) -> Folder:
    """Sort what was found in a directory into its folders."""
    made: dict[str, tuple[dict[str, SourceFile], dict[str, LinkEntry], dict[str, Folder]]] = {}

    def at(path: str) -> tuple[dict[str, SourceFile], dict[str, LinkEntry], dict[str, Folder]]:
        if path not in made:
            made[path] = ({}, {}, {})
            if path:
                above, _, name = path.rpartition("/")
                at(above)[2][name] = Folder(path, *made[path], odd={})
        return made[path]

    root = at("")
    for directory in tree.directories:
        at(directory.path)
    for file in tree.files:
        above, _, name = file.path.rpartition("/")
        at(above)[0][name] = file
    for link in tree.links:
        above, _, name = link.path.rpartition("/")
        at(above)[1][name] = link
    return Folder("", *root, odd={})
