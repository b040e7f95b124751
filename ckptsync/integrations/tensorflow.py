"""Directories that `tf.train.CheckpointManager` writes, into a run and out of it.

    with CheckpointDirectory("s3://bucket/run", "checkpoints", keep=LatestN(3)) as synced:
        synced.restore()                                  # before the manager looks there
        manager = tf.train.CheckpointManager(checkpoint, "checkpoints", max_to_keep=3)
        checkpoint.restore(manager.latest_checkpoint)
        for step in range(int(checkpoint.step), 10_000):
            train(step)
            if step % 100 == 0:
                manager.save(checkpoint_number=step)
                synced.save()

TensorFlow itself is not imported: its file `checkpoint` tells which checkpoints are whole, since it is replaced when one is.

Source: tensorflow/python/checkpoint/checkpoint_management.py, checkpoint_state.proto, tensor_bundle/naming.cc
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ckptsync.directory import SyncedDirectory
from ckptsync.errors import ConfigError, DiskError, IncompleteError
from ckptsync.readiness.base import Ready
from ckptsync.transfer.source import SourceTree

STATE = "checkpoint"
_FIELD = re.compile(r'(\w+)\s*:\s*("(?:[^"\\]|\\.)*"|[^\s"]+)')
_SHARD = re.compile(r"\.data-(\d{5})-of-(\d{5})")
_NUMBER = re.compile(r"-(\d+)$")
_LATEST, _ALL, _TIMES = "model_checkpoint_path", "all_model_checkpoint_paths", "all_model_checkpoint_timestamps"
_MAX_STATE_BYTES = 16 << 20


class CheckpointDirectory(SyncedDirectory):
    """A directory of a `tf.train.CheckpointManager`, or of whatever else keeps TensorFlow's file `checkpoint` there.

    A snapshot has the checkpoints which that file lists, whole, and the file itself, with paths relative to the directory: so
    `tf.train.latest_checkpoint` works wherever it is restored. Other files are left alone. Of older checkpoints that are still
    listed nothing is sent again. The step is the number at the end of the newest one's name.
    """

    def ready(self, tree: SourceTree) -> Ready | None:
        """As `SyncedDirectory` asks for it."""
        state = _read(self.directory)
        if state is None:
            return None
        files = {file.path for file in tree.files}
        paths = {name: _files_of(name, files) for name in state.names}
        if (lacks := paths[state.latest].lacks) is not None:
            raise IncompleteError(f"{STATE} in {self.directory} lists {state.latest}, and {lacks} is not there")
        whole = [name for name in state.names if paths[name].lacks is None]
        found = _NUMBER.search(state.latest)
        return Ready(
            step=int(found[1]) if found else None,
            paths=frozenset({STATE}.union(*(paths[name].found for name in whole))),
            copied=frozenset(
                f"{name}.index" for name in whole
            ),  # of a checkpoint that is saved again it is written in place
            replaced={STATE: state.limited_to(whole)},
        )


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


def _read(directory: Path) -> _State | None:
    """Read the file `checkpoint`; None when there is none.

    Raises:
        ConfigError: it cannot be understood, or lists what lies elsewhere.
        DiskError: it cannot be read.
    """
    try:
        content = (directory / STATE).read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DiskError(f"cannot read {directory / STATE}: {error.strerror}") from error
    try:
        fields = _FIELD.findall(content[:_MAX_STATE_BYTES].decode())
        latest = [_unquoted(value) for field, value in fields if field == _LATEST]
        names = [_unquoted(value) for field, value in fields if field == _ALL]
    except (UnicodeDecodeError, ValueError, SyntaxError) as error:
        raise ConfigError(f"{directory / STATE} is not TensorFlow's: {error}") from error
    if not latest or not latest[-1]:
        raise ConfigError(f"{directory / STATE} is not TensorFlow's: it has no {_LATEST}")
    newest = _relative(latest[-1], directory)
    return _State(
        newest,
        _in_order([_relative(name, directory) for name in names], newest),
        tuple(value for field, value in fields if field == _TIMES) if latest[-1] in names else (),
        tuple((field, value) for field, value in fields if field not in {_LATEST, _ALL, _TIMES}),
    )


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
