"""Checkpoints as frameworks write them, small and without the frameworks; the format of each file is the real one."""

from __future__ import annotations

import itertools
import json
import os
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp

_clock = itertools.count(1_700_000_000)


def later(*paths: Path) -> None:
    """Let files have been written one second after all that were passed before, in their order."""
    for path in paths:
        second = next(_clock)
        os.utime(path, (second, second))


def settle(folder: Path, *last: str) -> None:
    """Let every file below a folder have been written before those that are named."""
    names = [folder / name for name in last]
    later(
        *(path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink() and path not in names)
    )
    later(*names)


def torch_file(path: Path, *, legacy: bool = False, **state: Any) -> Path:
    """A file of `torch.save`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"w": torch.arange(64.0), **state}, path, _use_new_zipfile_serialization=not legacy)
    return path


def safetensors_file(path: Path) -> Path:
    """A file of one tensor."""
    header = json.dumps(
        {"__metadata__": {"a": "b"}, "w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}
    ).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(range(16)))
    return path


def trainer_checkpoint(
    folder: Path,
    *,
    step: int = 5,
    shards: int = 0,
    ranks: int = 1,
    history: list[dict[str, Any]] | None = None,
    **more: Any,
) -> Path:
    """A folder of the Trainer of transformers."""
    folder.mkdir(parents=True, exist_ok=True)
    if shards:
        named = [f"model-{number:05d}-of-{shards:05d}.safetensors" for number in range(1, shards + 1)]
        for name in named:
            safetensors_file(folder / name)
        weights = {f"layer.{number}": name for number, name in enumerate(named)}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weights}))
    else:
        safetensors_file(folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt"):
        torch_file(folder / name)
    for rank in range(ranks):
        torch_file(folder / (f"rng_state_{rank}.pth" if ranks > 1 else "rng_state.pth"))
    state = {"global_step": step, "log_history": history or [], "best_metric": None, **more}
    (folder / "trainer_state.json").write_text(json.dumps(state))
    settle(folder, "trainer_state.json")
    return folder


def sharded(folder: Path, values: int = 300) -> Path:
    """A folder of torch.distributed.checkpoint, written by it."""
    state = {"model": {"w": torch.arange(float(values)), "b": torch.ones(7)}, "step": 3}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that there is a single process
        dcp.save(state, checkpoint_id=folder)
    settle(folder, ".metadata")
    return folder


def deepspeed_tag(folder: Path, tag: str = "global_step10", *, ranks: int = 2) -> Path:
    """What DeepSpeed's `save_checkpoint` leaves."""
    torch_file(folder / tag / "mp_rank_00_model_states.pt")
    for rank in range(ranks):
        torch_file(folder / tag / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt")
    (folder / "zero_to_fp32.py").write_text("print()")
    (folder / "latest").write_text(tag)
    settle(folder, "latest")
    return folder


def orbax_step(folder: Path) -> Path:
    """A step of orbax's."""
    (folder / "default/d").mkdir(parents=True)
    (folder / "_CHECKPOINT_METADATA").write_text('{"item_handlers": {}}')
    (folder / "default/manifest.ocdbt").write_bytes(b"manifest")
    (folder / "default/d/1234").write_bytes(b"tensors")
    (folder / "default/_METADATA").write_text("{}")
    settle(folder)
    return folder


def keras_backup(folder: Path) -> Path:
    """A backup with a superblock of version 0, as h5py writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    body = bytes(200)
    head = b"\x89HDF\r\n\x1a\n" + bytes([0, 0, 0, 0, 0, 8, 8, 0]) + bytes(24) + struct.pack("<Q", 48 + len(body))
    (folder / "latest.weights.h5").write_bytes(head + body)
    (folder / "training_metadata.json").write_text('{"epoch": 1, "batch": 0}')
    settle(folder, "training_metadata.json")
    return folder


def _varint(value: int) -> bytes:
    found = b""
    while value >= 0x80:
        found, value = found + bytes([value & 0x7F | 0x80]), value >> 7
    return found + bytes([value])


def _block(entries: Mapping[bytes, bytes]) -> bytes:
    body = b"".join(
        _varint(0) + _varint(len(key)) + _varint(len(value)) + key + value for key, value in entries.items()
    )
    return body + struct.pack("<II", 0, 1)


def bundle_index(sizes: list[int], *, compressed: bool = False) -> bytes:
    """An index that tells of one tensor in each shard."""
    entries = {b"": b"\x08" + _varint(len(sizes))}
    for shard, size in enumerate(sizes):
        entries[b"w%d" % shard] = (
            b"\x08\x01\x12\x02\x08\x01\x18" + _varint(shard) + b"\x28" + _varint(size) + b"\x35" + bytes(4)
        )
    block = _block(entries)
    data = block + bytes([compressed]) + bytes(4)
    index_at = len(data)
    index = _block({b"z": _varint(0) + _varint(len(block))})
    data += index + bytes(5)
    footer = _varint(0) + _varint(0) + _varint(index_at) + _varint(len(index))
    return data + footer.ljust(40, b"\0") + bytes.fromhex("57fb808b247547db")


def tensorflow_checkpoint(folder: Path, step: int = 7, *, shards: int = 2) -> Path:
    """What a `tf.train.CheckpointManager` leaves."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"ckpt-{step}"
    sizes = [100 + number for number in range(shards)]
    for number, size in enumerate(sizes):
        (folder / f"{name}.data-{number:05d}-of-{shards:05d}").write_bytes(bytes(size))
    (folder / f"{name}.index").write_bytes(bundle_index(sizes))
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n')
    settle(folder, "checkpoint")
    return folder
