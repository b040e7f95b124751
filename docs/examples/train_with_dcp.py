"""A sharded training job that survives its machines with `torch.distributed.checkpoint`: FSDP2, saved behind the loop's back.

Start it as `torchrun --nproc_per_node 2 train_with_dcp.py s3://bucket/run`, on any machines, as often as they are killed.
"""

from __future__ import annotations

import argparse
import hashlib
from concurrent.futures import Future
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

import ckptsync
from ckptsync.integrations.dcp import RunReader, RunWriter


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The data of one step, the same on every rank: made from the step's number."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(64, 32, generator=generator)
    return inputs, inputs.pow(2).mean(dim=1, keepdim=True).sin()


def state_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    """What is saved, and what a load fills."""
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
        "step": step,
    }


def resumed(run: str, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load the newest snapshot that is good; the step to go on with, 0 when there is none. All ranks call it."""
    is_there = [dist.get_rank() == 0 and ckptsync.latest(run) is not None]
    dist.broadcast_object_list(is_there)  # no two ranks may see different things
    if not is_there[0]:
        return 0
    state = state_of(model, optimizer, 0)
    dcp.load(state, storage_reader=RunReader(run))
    set_state_dict(model, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    return int(state["step"]) + 1


def main() -> None:
    """Train, and save every tenth step behind the loop's back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", help="where snapshots are kept: s3://, gs:// or a directory that all ranks share")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    behind = dist.new_group(backend="gloo")  # so that a save and a step do not take each other's messages
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 256), torch.nn.ReLU(), torch.nn.Linear(256, 1))
    fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    saving: Future[Any] | None = None

    start = resumed(options.run, model, optimizer)
    if dist.get_rank() == 0:
        print(f"start {start}", flush=True)
    for step in range(start, options.steps):
        inputs, wanted = batch(step)
        loss = torch.nn.functional.mse_loss(model(inputs), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if dist.get_rank() == 0:
            print(f"step {step} loss {loss.item():.6f}", flush=True)
        if step % 10 == 0:
            if saving is not None:
                saving.result()  # raises what the save before failed with
            writer = RunWriter(options.run, step=step, metrics={"loss": loss.item()})
            saving = dcp.async_save(state_of(model, optimizer, step), storage_writer=writer, process_group=behind)  # type: ignore[assignment]
    if saving is not None:
        saving.result()

    weights = [parameter.full_tensor() for parameter in model.parameters()]  # type: ignore[attr-defined]
    content = b"".join(tensor.detach().numpy().tobytes() for tensor in weights)
    if dist.get_rank() == 0:
        print(f"done {hashlib.sha256(content).hexdigest()}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
