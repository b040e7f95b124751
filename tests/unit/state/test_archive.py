"""A state as the file that `torch.save` writes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from ckptsync.errors import ConfigError, IntegrityError
from ckptsync.state.archive import load, pieces_of
from ckptsync.state.staging import Stager

BIG = 1 << 20


def whole(pieces: list[memoryview]) -> bytes:
    return b"".join(pieces)


def test_it_is_a_file_that_torch_reads_and_that_unzips() -> None:
    staged = Stager().take({"w": torch.arange(BIG), "small": torch.ones(3), "step": 7, "text": "x" * 200_000})
    content = whole(pieces_of(staged.state, staged.buffers))
    found = torch.load(io.BytesIO(content), weights_only=True)
    assert torch.equal(found["w"], torch.arange(BIG))
    assert (found["step"], len(found["text"])) == (7, 200_000)
    assert zipfile.ZipFile(io.BytesIO(content)).testzip() is None


def test_tensors_are_not_copied_a_second_time() -> None:
    staged = Stager().take({"w": torch.zeros(BIG)})
    pieces = pieces_of(staged.state, staged.buffers)
    (large,) = (piece for piece in pieces if piece.nbytes == 4 * BIG)
    staged.state["w"].fill_(1.0)
    assert bytes(large[:4]) == b"\0\0\x80\x3f"
    assert sum(piece.nbytes for piece in pieces if piece is not large) < 10_000


def test_what_does_not_stay_is_copied() -> None:
    content = whole(pieces_of({"text": "y" * 300_000, "w": torch.arange(BIG)}))
    assert load(memoryview(content), name="it")["text"] == "y" * 300_000


def test_it_is_read_to_where_it_is_wanted() -> None:
    content = memoryview(whole(pieces_of({"w": torch.ones(3)})))
    assert load(content, name="it", map_location="meta")["w"].is_meta


class Stranger:
    """What `weights_only` does not allow."""


def test_what_could_run_code_is_refused_unless_it_is_asked_for() -> None:
    content = memoryview(whole(pieces_of({"it": Stranger()})))
    with pytest.raises(ConfigError, match="holds more than tensors and plain values"):
        load(content, name="it")
    assert isinstance(load(content, name="it", weights_only=False)["it"], Stranger)


def test_what_cannot_be_pickled_says_so() -> None:
    with pytest.raises(ConfigError, match="cannot be saved"):
        pieces_of({"it": lambda: None})


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04" + bytes(100)])
@pytest.mark.parametrize("weights_only", [True, False])
def test_what_is_no_such_file_says_so(content: bytes, weights_only: Any) -> None:
    with pytest.raises((IntegrityError, ConfigError)):
        load(memoryview(content), name="it", weights_only=weights_only)


def test_torch_reads_it_from_the_disk_too(tmp_path: Path) -> None:
    (tmp_path / "it.pt").write_bytes(whole(pieces_of({"w": torch.ones(3)})))
    assert torch.equal(torch.load(tmp_path / "it.pt", mmap=True)["w"], torch.ones(3))


def zipped(records: dict[str, bytes]) -> memoryview:
    """A file as torch's, of any records."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in records.items():
            archive.writestr(f"it/{name}", content)
    return memoryview(made.getvalue())


@pytest.mark.parametrize(
    "pickled",
    [
        b"",
        b".",
        b"\x80\x02.",
        b"\x80\x02h\x05.",
        b"\x80\x02)R.",
        b"\x80\x02K\x01K\x02s.",
        b"\x80\x02X\xff\xff\xff\x7f.",
        b"\x80\x02cos\nsystem\n.",
        b"\x80\x02U\x07storageQ.",
        b"\x80\x02(U\x07storageK\x01K\x02K\x03K\x04tQ.",
        b"\x80\x02" + b"(" * 10_000,
    ],
)
def test_a_hostile_pickle_is_refused_in_one_sentence(pickled: bytes) -> None:
    content = zipped({"data.pkl": pickled, "byteorder": b"little", "version": b"3\n"})
    with pytest.raises((IntegrityError, ConfigError), match=r"^it (cannot be read|holds more than)") as caught:
        load(content, name="it")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is here")
def test_tensors_of_a_device_that_is_not_here_say_what_to_pass() -> None:
    with zipfile.ZipFile(io.BytesIO(whole(pieces_of({"w": torch.ones(3)})))) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    records["data.pkl"] = records["data.pkl"].replace(b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0")
    content = zipped(records)
    with pytest.raises(ConfigError, match="of a device that is not here; pass map_location='cpu'"):
        load(content, name="it")
    assert torch.equal(load(content, name="it", map_location="cpu")["w"], torch.ones(3))


def test_a_device_that_nobody_knows_is_no_damage() -> None:
    content = memoryview(whole(pieces_of({"w": torch.ones(3)})))
    with pytest.raises(ConfigError, match="'gpu' is no device"):
        load(content, name="it", map_location="gpu")
