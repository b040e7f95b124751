"""Directories of a `tf.train.CheckpointManager`: what the file `checkpoint` lists is whole, since it is replaced when one is.

Source: tensorflow/python/checkpoint/checkpoint_management.py, checkpoint_state.proto, tensor_bundle/naming.cc
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ckptsync.errors import ConfigError, DiskError, IncompleteError
from ckptsync.readiness import bundle
from ckptsync.readiness.base import NOTHING, Findings, Folder, Ready
from ckptsync.readiness.contents import Contents, Opened, UnreadableError, told

RULE = "tensorflow"
STATE = "checkpoint"
_FIELD = re.compile(r'(\w+)\s*:\s*("(?:[^"\\]|\\.)*"|[^\s"]+)')
_SHARD = re.compile(r"\.data-(\d{5})-of-(\d{5})")
_PART = re.compile(r"(.+)\.(?:index|data-\d{5}-of-\d{5})")
_NUMBER = re.compile(r"-(\d+)$")
_LATEST, _ALL, _TIMES = "model_checkpoint_path", "all_model_checkpoint_paths", "all_model_checkpoint_timestamps"
_MAX_STATE_BYTES = 16 << 20


def find(folder: Folder, contents: Contents) -> Findings:
    """Tell whether the newest checkpoint that is listed in a folder is whole."""
    begun = sorted({found[1] for name in folder.files if (found := _PART.fullmatch(name))})
    if STATE not in folder.files:
        sentences = (f"{folder.inner(name)} is listed by no file {STATE} of TensorFlow's" for name in begun)
        return Findings(waiting=tuple(sentences))
    try:
        ready = newest(folder, contents)
    except ConfigError as error:
        return Findings(waiting=(str(error),)) if begun else NOTHING
    except (IncompleteError, DiskError) as error:
        return Findings(waiting=(str(error),), claimed=frozenset({STATE}))
    own = {path[len(folder.path) + 1 :] if folder.path else path for path in ready.paths}
    if why := _why_not(folder, ready, contents):
        return Findings(waiting=(why,), claimed=frozenset(own))
    return Findings(checkpoints=(ready,), claimed=frozenset(own))


def newest(folder: Folder, contents: Contents) -> Ready:
    """Return the newest checkpoint that `checkpoint` lists with those before it, and the file itself, limited to what is whole.

    Raises:
        ConfigError: `checkpoint` cannot be understood, or lists what lies elsewhere.
        IncompleteError: files of the newest are missing, or `checkpoint` is being written.
        DiskError: it cannot be read.
    """
    state = _state(folder, contents)
    prefix = f"{folder.path}/" if folder.path else ""
    files = {file.path.removeprefix(prefix) for file in folder.all_files()}
    paths = {name: _files_of(name, files) for name in state.names}
    if (lacks := paths[state.latest].lacks) is not None:
        place = folder.files[STATE].location.parent
        raise IncompleteError(f"{STATE} in {place} lists {state.latest}, and {lacks} is not there")
    whole = [name for name in state.names if paths[name].lacks is None]
    found = _NUMBER.search(state.latest)
    return Ready(
        step=int(found[1]) if found else None,
        paths=frozenset(prefix + path for path in {STATE}.union(*(paths[name].found for name in whole))),
        # of a checkpoint that is saved again the index is written in place
        copied=frozenset(f"{prefix}{name}.index" for name in whole),
        replaced={f"{prefix}{STATE}": state.limited_to(whole)},
        name=folder.inner(state.latest),
        rule=RULE,
    )


def _why_not(folder: Folder, ready: Ready, contents: Contents) -> str:
    """A sentence about a file that is shorter than the index tells; empty when there is none."""
    try:
        return next(_short(folder, ready, contents), "")
    except UnreadableError as error:
        return str(error)


def _short(folder: Folder, ready: Ready, contents: Contents) -> Iterator[str]:
    """Sentences about files of the checkpoints that are shorter than they must be."""
    for path in sorted(ready.paths):
        name = path.removeprefix(f"{folder.path}/") if folder.path else path
        file = folder.file_at(name)
        if file is None or not name.endswith(".index"):
            continue
        index = contents.of(file, bundle.read)
        if index.why:
            yield f"{path} {index.why}"
        for number, end in enumerate(index.ends):
            shard = f"{path.removesuffix('.index')}.data-{number:05d}-of-{len(index.ends):05d}"
            found = folder.file_at(shard.removeprefix(f"{folder.path}/") if folder.path else shard)
            if found is not None and found.size < end:
                yield f"{shard} should have {end} bytes and has {found.size}"


@dataclass(frozen=True, slots=True)
class Fields:
    """The file `checkpoint` as it stands there; `why` it is none follows its name, and is empty when it is one."""

    latest: str = ""
    names: tuple[str, ...] = ()
    times: tuple[str, ...] = ()
    rest: tuple[tuple[str, str], ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class _State:
    """The file `checkpoint`.

    Attributes:
        latest: the newest checkpoint, relative to the directory.
        names: all of them, the newest last.
        times: when each was written, as it stands there; empty when it does not tell.
        rest: other fields, as they stand there.
    """

    latest: str
    names: tuple[str, ...]
    times: tuple[str, ...]
    rest: tuple[tuple[str, str], ...]

    def limited_to(self, names: Collection[str]) -> bytes:
        """The file again, listing only some of them."""
        lines = [(_LATEST, _quoted(self.latest))]
        lines += [(_ALL, _quoted(name)) for name in self.names if name in names]
        if len(self.times) == len(self.names):
            lines += [(_TIMES, time) for name, time in zip(self.names, self.times, strict=True) if name in names]
        return "".join(f"{field}: {value}\n" for field, value in [*lines, *self.rest]).encode()


@dataclass(frozen=True, slots=True)
class _Files:
    """Those of one checkpoint, and one that is missing; None when none is."""

    found: frozenset[str]
    lacks: str | None


def _files_of(name: str, files: Collection[str]) -> _Files:
    """Find an index, and as many shards as their names say there are."""
    index = f"{name}.index"
    shards = {path: found for path in files if path.startswith(name) and (found := _SHARD.fullmatch(path[len(name) :]))}
    if index not in files:
        return _Files(frozenset(), index)
    if not shards:
        return _Files(frozenset(), f"{name}.data-00000-of-00001")
    count = max(found[2] for found in shards.values())
    wanted = [f"{name}.data-{number:05d}-of-{count}" for number in range(int(count))]
    lacks = next((path for path in wanted if path not in shards), None)
    return _Files(frozenset([index, *wanted]), lacks)


def read_fields(opened: Opened) -> Fields:
    """Read the file `checkpoint`; for `Contents.of`."""
    try:
        found = _FIELD.findall(opened.read(0, _MAX_STATE_BYTES).decode())
        latest = [_unquoted(value) for field, value in found if field == _LATEST]
        names = tuple(_unquoted(value) for field, value in found if field == _ALL)
    except (UnicodeDecodeError, ValueError, SyntaxError) as error:
        return Fields(why=f"is not TensorFlow's: {error}")
    if not latest or not latest[-1]:
        return Fields(why=f"is not TensorFlow's: it has no {_LATEST}")
    return Fields(
        latest=latest[-1],
        names=names,
        times=tuple(value for field, value in found if field == _TIMES) if latest[-1] in names else (),
        rest=tuple((field, value) for field, value in found if field not in {_LATEST, _ALL, _TIMES}),
    )


def _state(folder: Folder, contents: Contents) -> _State:
    """What the file `checkpoint` tells.

    Raises:
        ConfigError: it cannot be understood, or lists what lies elsewhere.
        SourceChangedError: it is being written to.
        DiskError: it cannot be read.
    """
    file = folder.files[STATE]
    with told():
        fields = contents.of(file, read_fields)
    if fields.why:
        raise ConfigError(f"{file.location} {fields.why}")
    directory = file.location.parent
    newest = _relative(fields.latest, directory)
    names = _in_order([_relative(name, directory) for name in fields.names], newest)
    return _State(newest, names, fields.times, fields.rest)


def _in_order(names: Sequence[str], newest: str) -> tuple[str, ...]:
    """All names; the newest is not always among them."""
    return tuple(names) if newest in names else (*names, newest)


def _relative(name: str, directory: Path) -> str:
    """A checkpoint's name relative to its directory, which may have been moved since it was written.

    Raises:
        ConfigError: it lies elsewhere.
    """
    found = os.path.normpath(name)
    if Path(found).is_absolute():
        for base in (Path(os.path.abspath(directory)), directory.resolve()):  # noqa: PTH100  links are kept here
            if Path(found).is_relative_to(base):
                return Path(found).relative_to(base).as_posix()
        if not (directory / f"{Path(found).name}.index").exists():
            raise ConfigError(f"{directory / STATE} lists {name}, which is not in {directory}")
        return Path(found).name
    if ".." in PurePosixPath(found).parts:
        raise ConfigError(f"{directory / STATE} lists {name}, which is not in {directory}")
    return found


def _unquoted(value: str) -> str:
    """A string of a text proto; its escapes are those of C, of which these are Python's too, and stand for bytes."""
    inner: bytes = ast.literal_eval(f"b{_ascii(value)}")
    return inner.decode()


def _ascii(value: str) -> str:
    """The same literal without letters beyond ASCII."""
    return "".join(
        letter if letter.isascii() else "".join(f"\\x{byte:02x}" for byte in letter.encode()) for letter in value
    )


def _quoted(name: str) -> str:
    """A string as a text proto has it."""
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
