"""A checkpoint that is being written is never whole: cut, appended to or written anew at any byte."""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.checkpoints import (
    deepspeed_tag,
    keras_backup,
    orbax_step,
    safetensors_file,
    sharded,
    tensorflow_checkpoint,
    torch_file,
    trainer_checkpoint,
)

from ckptsync.readiness.opcodes import OPAQUE
from ckptsync.readiness.pickled import PickleError, scan
from ckptsync.readiness.recognise import Recogniser, look

pytestmark = pytest.mark.req(12)

WRITERS: dict[str, Callable[[Path], object]] = {
    "torch": lambda at: torch_file(at / "a.pt", step=3),
    "legacy": lambda at: torch_file(at / "a.pth", legacy=True, step=3),
    "lightning": lambda at: torch_file(at / "a.ckpt", **{"pytorch-lightning_version": "2", "global_step": 3}),
    "safetensors": lambda at: safetensors_file(at / "a.safetensors"),
    "dcp": lambda at: sharded(at / "step-1"),
    "huggingface": lambda at: trainer_checkpoint(at / "checkpoint-1", shards=2, ranks=2),
    "deepspeed": deepspeed_tag,
    "tensorflow": tensorflow_checkpoint,
    "keras": keras_backup,
    "orbax": lambda at: orbax_step(at / "1"),
}
UNTOLD = ("config.json", "zero_to_fp32.py", "latest", "checkpoint", "manifest.ocdbt", "1234")
"""Files of which no format tells how long they are, or that are whole when they are short."""


@contextmanager
def written(kind: str) -> Iterator[tuple[Path, dict[Path, tuple[bytes, int]]]]:
    """A checkpoint, and what its files hold and when they were written; they are put back behind it."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        WRITERS[kind](folder)
        files = {
            path: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()
        }
        assert len(look(folder, now_s=0).checkpoints) == 1
        yield folder, files


def is_whole(folder: Path) -> bool:
    """Whether anything there is."""
    return bool(look(folder, now_s=0).checkpoints)


def put(path: Path, content: bytes, written_ns: int) -> None:
    """Write a file as of a time."""
    path.write_bytes(content)
    os.utime(path, ns=(written_ns, written_ns))


@pytest.mark.parametrize("kind", WRITERS)
def test_no_cut_is_whole(kind: str) -> None:
    with written(kind) as (folder, files):
        for path, (content, written_ns) in files.items():
            if path.name in UNTOLD:
                continue
            sizes = (
                range(len(content))
                if len(content) < 1500
                else [*range(0, len(content), 41), *range(len(content) - 200, len(content))]
            )
            for size in sizes:
                put(path, content[:size], written_ns)
                assert not is_whole(folder), (path.name, size)
            put(path, content, written_ns)
            assert is_whole(folder)


@pytest.mark.parametrize("kind", WRITERS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_nothing_is_whole_while_it_is_written(kind: str, data: st.DataObject) -> None:
    """A writer begins anew, and is looked at after each piece that it writes: of other content, at any length."""
    with written(kind) as (folder, files):
        told = [path for path in files if path.name not in UNTOLD]
        path = data.draw(st.sampled_from(told), label="file")
        content, written_ns = files[path]
        recogniser = Recogniser(folder)
        assert recogniser.look(0).checkpoints
        cuts = sorted(data.draw(st.sets(st.integers(1, len(content) - 1), max_size=4), label="cuts"))
        path.write_bytes(b"")
        for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
            assert not recogniser.look(0).checkpoints
            with path.open("ab") as file:
                file.write(content[begin:end])
        os.utime(path, ns=(written_ns, written_ns))
        assert len(recogniser.look(0).checkpoints) == 1


@pytest.mark.parametrize("kind", ["torch", "legacy", "lightning", "safetensors", "keras"])
@settings(max_examples=25, deadline=None)
@given(more=st.binary(min_size=1, max_size=300))
def test_what_goes_on_behind_its_end_is_not_whole(kind: str, more: bytes) -> None:
    with written(kind) as (folder, files):
        path, (content, written_ns) = max(files.items(), key=lambda item: len(item[1][0]))
        put(path, content + more, written_ns)
        assert not is_whole(folder)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), kind=st.sampled_from(sorted(WRITERS)))
def test_damaged_files_end_no_look(data: st.DataObject, kind: str) -> None:
    """Whatever bytes there are, a look ends without an error."""
    with written(kind) as (folder, files):
        path = data.draw(st.sampled_from(sorted(files)))
        content = bytearray(files[path][0])
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=20)) if content else ():
            content[at] = data.draw(st.integers(0, 255))
        put(path, bytes(content), files[path][1])
        look(folder, now_s=0)


# -- pickles -------------------------------------------------------------------------------------------------------------

PLAIN = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(max_size=300)
)
VALUES = PLAIN | st.recursive(
    PLAIN,
    lambda inner: (
        st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner) | st.sets(st.integers())
    ),
)


@settings(deadline=None)
@given(value=st.dictionaries(st.text(), VALUES, max_size=30), protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_read_from_any_pickle(value: dict[str, Any], protocol: int) -> None:
    content = pickle.dumps(value, protocol)
    found = scan(b"before" + content + b"behind", len(b"before"))
    assert found.end == len(b"before") + len(content)
    assert found.mapping.keys() == value.keys()
    for name, one in value.items():
        if isinstance(one, bool | int | float | str) or one is None:
            assert found.mapping[name] == one
        elif not isinstance(one, bytes):
            assert found.mapping[name] is OPAQUE


@settings(deadline=None)
@given(data=st.data())
def test_a_pickle_that_is_cut_or_damaged_makes_no_harm(data: st.DataObject) -> None:
    value = data.draw(st.dictionaries(st.text(), VALUES, max_size=5))
    content = bytearray(pickle.dumps(value, data.draw(st.integers(0, pickle.HIGHEST_PROTOCOL))))
    with pytest.raises(PickleError):
        scan(bytes(content[: data.draw(st.integers(0, len(content) - 1))]))
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=8)):
        content[at] = data.draw(st.integers(0, 255))
    with suppress(PickleError):
        scan(bytes(content))
