"""Files of torch.save: what is whole, and which step they tell."""

from __future__ import annotations

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.checkpoints import torch_file

from ckptsync.readiness import torch as rule
from ckptsync.readiness.names import step_in
from ckptsync.readiness.recognise import Looked

Look = Callable[..., Looked]


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    ("state", "step"),
    [
        ({"step": 5}, 5),
        ({"iteration": 6}, 6),
        ({"global_step": 7, "step": 5}, 7),
        ({"step": torch.tensor(5)}, 3),  # none that can be told without loading it; the name tells another
        ({"step": "5", "global_step": -1, "iteration": True, "iter": 10**13}, 3),
        ({"trainer": {"step": 5}}, 3),
        (OrderedDict(step=5), 5),
        ([{"step": 5}], 3),
        (
            {
                "model": {f"layer.{number}": torch.ones(2) for number in range(300)},
                "names": [str] * 3,
                "step": 10**12 - 1,
            },
            10**12 - 1,
        ),
        ({}, 3),
        (torch.ones(3), 3),
    ],
)
def test_the_step_on_the_uppermost_level_comes_before_the_name(
    folder: Path,
    looked: Look,
    state: Any,
    step: int | None,
    legacy: bool,  # noqa: FBT001  parametrized
) -> None:
    torch.save(state, folder / "model_3.pt", _use_new_zipfile_serialization=not legacy)
    found = looked()
    assert found.waiting == ()
    assert [one.step for one in found.checkpoints] == [step]


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64]
)
def test_the_format_before_is_whole_with_items_of_any_size(folder: Path, looked: Look, dtype: torch.dtype) -> None:
    whole = torch.zeros(10, dtype=dtype)
    torch.save(
        {"a": whole, "view": whole[2:4], "b": torch.ones(3)}, folder / "a.pt", _use_new_zipfile_serialization=False
    )
    assert len(looked().checkpoints) == 1
    with (folder / "a.pt").open("ab") as file:
        file.write(b"x")
    assert looked().checkpoints == ()


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("epoch=3-step=500", 500),
        ("epoch=3-step=500-v1", 500),
        ("epoch=3", None),
        ("step-100", 100),
        ("step_000100", 100),
        ("global_step10", 10),
        ("checkpoint-500", 500),
        ("ckpt_12", 12),
        ("model.12", 12),
        ("500", 500),
        ("iter_0000500", 500),
        ("run-7", None),
        ("version_0", None),
        ("seed42", None),
        ("footstep3", None),
        ("", None),
        ("step-1234567890123", None),
    ],
)
def test_names_tell_steps(name: str, step: int | None) -> None:
    assert step_in(name) == step


def test_a_zip_of_another_kind_is_told_or_left_alone(folder: Path, looked: Look) -> None:
    for name in ("a.pt", "b.bin"):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("a.txt", "text")
    (folder / "c.bin").write_bytes(b"tokens of a dataset")
    (folder / "d.pth").write_bytes(b"no zip at all")
    (folder / "e.zip").write_bytes((folder / "a.pt").read_bytes())
    found = looked()
    assert found.checkpoints == ()
    assert set(found.waiting) == {"a.pt is a zip file, and not one of torch.save", "d.pth is no file of torch.save"}


def test_files_without_a_zip64_end_are_read_too(folder: Path, looked: Look) -> None:
    with zipfile.ZipFile(folder / "a.pt", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"step": 9}))
        file.comment = b"a comment"
    assert [one.step for one in looked().checkpoints] == [9]
    content = (folder / "a.pt").read_bytes()
    (folder / "a.pt").write_bytes(content[:-1])
    assert looked().checkpoints == ()


def test_a_pickle_that_is_compressed_or_very_large_tells_no_step(
    folder: Path, looked: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(folder / "model_4.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", pickle.dumps({"step": 9}))
    assert [one.step for one in looked().checkpoints] == [4]
    torch_file(folder / "model_4.pt", step=9)
    monkeypatch.setattr(rule, "_MAX_PICKLE_BYTES", 10)
    assert [one.step for one in looked().checkpoints] == [4]


def test_a_file_within_a_file_is_not_taken_for_the_whole(folder: Path, looked: Look) -> None:
    inner = io.BytesIO()
    torch.save({"step": 1}, inner)
    torch.save({"blob": torch.frombuffer(bytearray(inner.getvalue()), dtype=torch.uint8), "step": 2}, folder / "a.pt")
    content = (folder / "a.pt").read_bytes()
    end = content.index(inner.getvalue()) + len(inner.getvalue())
    (folder / "a.pt").write_bytes(content[:end])
    assert looked().checkpoints == ()
    (folder / "a.pt").write_bytes(content)
    assert [one.step for one in looked().checkpoints] == [2]


def test_a_beginning_that_was_written_over_does_not_go_with_the_end(folder: Path, looked: Look) -> None:
    old, new = torch_file(folder / "a.pt"), torch_file(folder / "longer-name.bak")
    content = bytearray(old.read_bytes())
    begin = new.read_bytes()[: len(content) // 2]
    content[: len(begin)] = begin
    old.write_bytes(content)
    found = looked()
    assert (found.checkpoints, found.waiting) == ((), ("a.pt does not hold what its directory tells",))


@pytest.mark.parametrize(
    "tail",
    [
        struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 2**31, 0, 0),
        struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 65535, 65535, 46, 4, 0),
        struct.pack("<4sLQL", b"PK\x06\x07", 0, 2**63, 1) + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 0, 4, 0),
        struct.pack("<4sLQL", b"PK\x06\x07", 0, 4, 1) + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 0, 4, 0),
    ],
)
def test_ends_that_lie_are_seen(folder: Path, looked: Look, tail: bytes) -> None:
    (folder / "a.pt").write_bytes(b"PK\x03\x04" + tail)
    assert looked().checkpoints == ()


def test_nothing_in_a_pickle_is_called_or_imported(folder: Path) -> None:
    """Not even when it is a bomb; and no framework is needed."""
    with zipfile.ZipFile(folder / "model_1.pt", "w") as file:
        file.writestr("archive/data.pkl", b"cos\nsystem\n(S'touch " + str(folder / "harm").encode() + b"'\ntR.")
    bomb = b"\x80\x04]\x94" + b"(h\x00h\x00h\x00h\x00e" * 1000 + b"j\xff\xff\xff\xff" + b"r\xff\xff\xff\xff" + b"."
    with zipfile.ZipFile(folder / "model_2.pt", "w") as file:
        file.writestr("archive/data.pkl", bomb)
    script = f"""
import sys
from pathlib import Path
from ckptsync.readiness.recognise import look
assert [one.step for one in look(Path({str(folder)!r}), now_s=0).checkpoints] == [1, 2]
assert not {{"torch", "numpy", "tensorflow", "keras", "jax", "transformers", "pickle"}} & set(sys.modules) - {{"pickle"}}
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert not (folder / "harm").exists()
