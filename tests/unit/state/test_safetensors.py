"""Tensors as a safetensors file: the library reads what we write, we read what it writes, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from ckptsync.errors import ConfigError, IntegrityError
from ckptsync.state.safetensors import _TYPES, load, pieces


def written(tensors: dict[str, torch.Tensor], **options: Any) -> bytes:
    return b"".join(pieces(tensors, **options))


def ours(content: bytes) -> dict[str, torch.Tensor]:
    return load(memoryview(bytearray(content)), name="it")


def made_of(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def some() -> dict[str, torch.Tensor]:
    """One tensor of each type, of odd sizes, so that each would lie badly behind another."""
    found = {
        f"t.{number}": torch.arange(1, 4 + number % 3).to(dtype)
        for number, dtype in enumerate(sorted(_TYPES.values(), key=str))
    }
    return found | {
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.5),
        "view": torch.arange(12.0).reshape(3, 4)[1:, ::2],
        "turned": torch.arange(6.0).reshape(2, 3).T,
    }


def same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert (
            found[name].contiguous().flatten().view(torch.uint8).equal(tensor.contiguous().flatten().view(torch.uint8))
        ), name


def test_the_library_reads_what_we_write() -> None:
    content = written(some(), metadata={"format": "pt"})
    same(safetensors.torch.load(content), some())
    assert (8 + int.from_bytes(content[:8], "little")) % 8 == 0


def test_we_read_what_the_library_writes() -> None:
    tensors = {name: tensor.contiguous() for name, tensor in some().items()}
    same(ours(safetensors.torch.save(tensors, {"format": "pt"})), tensors)
    same(ours(written(some())), some())


def test_the_same_tensors_give_the_same_bytes_in_any_order() -> None:
    assert written(some()) == written(dict(reversed(some().items())))


def test_nothing_is_copied_on_either_way() -> None:
    tensor = torch.zeros(1000)
    *_, piece = pieces({"it": tensor})
    tensor.fill_(1.0)
    assert bytes(piece[:4]) == b"\0\0\x80\x3f"
    del tensor  # the view keeps the memory
    content = memoryview(bytearray(written({"it": torch.zeros(3)})))
    found = load(content, name="it")["it"]
    found.fill_(1.0)
    assert bytes(content[-4:]) == b"\0\0\x80\x3f"


def test_what_lies_badly_is_copied() -> None:
    header = {
        "a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [1, 5]},
    }
    found = ours(made_of(header, b"\x07\0\0\x80\x3f"))
    assert (found["a"].item(), found["b"].item(), found["b"].data_ptr() % 4) == (7, 1.0, 0)


def test_floating_point_numbers_become_what_is_asked_for() -> None:
    found = safetensors.torch.load(
        written({"w": torch.ones(3), "n": torch.ones(3, dtype=torch.int64)}, dtype=torch.bfloat16)
    )
    assert (found["w"].dtype, found["n"].dtype) == (torch.bfloat16, torch.int64)


def test_tensors_that_share_memory_are_each_written_whole() -> None:
    tied = torch.ones(2, 2)
    same(safetensors.torch.load(written({"a": tied, "b": tied})), {"a": tied, "b": tied})


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"n": 5}, "n is int"),
        ({5: torch.ones(1)}, "can be named 5"),
        ({"__metadata__": torch.ones(1)}, "can be named '__metadata__'"),
        ({"it": torch.ones(2, device="meta")}, "no dense tensor"),
        ({"it": torch.eye(2).to_sparse()}, "no dense tensor"),
        ({"it": torch.ones(2, dtype=torch.complex128)}, "complex128, which no safetensors file holds"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tensors: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        written(tensors)


def test_metadata_is_text() -> None:
    with pytest.raises(ConfigError, match="must be text"):
        written({}, metadata={"step": 5})


def told(
    dtype: str = "F32", shape: tuple[Any, ...] = (1,), at: tuple[Any, ...] = (0, 4), **more: Any
) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": at, **more}


GOOD = {"it": told()}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"1234567",
        made_of(b""),
        made_of(GOOD, b"1234", length=1 << 63),
        made_of(GOOD, b"1234", length=len(json.dumps(GOOD)) + 5),
        made_of(b"[]"),
        made_of(b"\xff\xff"),
        made_of(b"{" * 100_000),
        made_of(GOOD),
        made_of(GOOD, b"12345"),
        made_of({"it": told(at=(4, 8))}, b"12345678"),
        made_of({"a": told(), "b": told()}, b"1234"),
        made_of({"a": told(at=(0, 4)), "b": told(at=(8, 12))}, b"123412341234"),
        made_of({"it": told(shape=(2,))}, b"1234"),
        made_of({"it": told(shape=(-1,))}, b"1234"),
        made_of({"it": told(shape=(0, 1 << 62, 1 << 62), at=(0, 0))}),
        made_of({"it": told(shape=(True,))}, b"1234"),
        made_of({"it": told(shape=(1,) * 65)}, b"1234"),
        made_of({"it": told(shape=(1 << 64,))}, b"1234"),
        made_of({"it": told(dtype="F31")}, b"1234"),
        made_of({"it": told(at=(0, 2, 4))}, b"1234"),
        made_of({"it": told(offset=0)}, b"1234"),
        made_of({"it": [1]}, b"1234"),
        made_of({"__metadata__": {"a": 1}, "it": told()}, b"1234"),
    ],
)
def test_a_hostile_header_is_refused_in_one_sentence(content: bytes) -> None:
    with pytest.raises(IntegrityError, match="it cannot be read: it is no safetensors file") as caught:
        ours(content)
    assert "\n" not in str(caught.value)
