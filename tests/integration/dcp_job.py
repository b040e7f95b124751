"""One rank of a job that trains a sharded model and saves or loads it by torch.distributed.checkpoint, started by torchrun.

    dcp_job.py ACTION RUN STEP [FOLDER]

`train` trains to a step and saves, `check` loads and compares with what was trained on one process, `export` loads from a folder that
was restored, by torch's own reader.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_model_state_dict, get_optimizer_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ckptsync.integrations.dcp import RunReader, RunWriter


def model() -> torch.nn.Module:
    """The same on every rank, sharded among all."""
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Linear(10, 33), torch.nn.ReLU(), torch.nn.Linear(33, 7))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(made, mesh=mesh)
    return made


def trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """The same data on every rank, so that any number of them trains alike."""
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        net(torch.randn(8, 10, generator=generator)).pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return net, optimizer


def state_of(net: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> dict[str, Any]:
    """What is saved."""
    return {
        "model": get_model_state_dict(net),
        "optimizer": get_optimizer_state_dict(net, optimizer),
        "position": {"step": step, "text": "größe"},
        "replica": torch.arange(5.0) + step,
    }


def check(net: torch.nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any], steps: int) -> None:
    """Compare with what training gives."""
    set_state_dict(net, optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
    expected, _ = trained(steps)
    for (name, ours), theirs in zip(net.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours.full_tensor(), theirs.full_tensor()), name
    momentum = [one["momentum_buffer"].full_tensor().abs().sum().item() for one in optimizer.state.values()]
    assert all(momentum)
    assert state["position"] == {"step": steps, "text": "größe"}, state["position"]
    assert torch.equal(state["replica"], torch.arange(5.0) + steps)


def main() -> None:
    """Do what is asked."""
    action, run, steps = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    if action in {"train", "async"}:
        net, optimizer = trained(steps)
        writer = RunWriter(run, step=steps, metrics={"loss": 1.0 / steps}, timeout_s=60)
        if action == "train":
            dcp.save(state_of(net, optimizer, steps), storage_writer=writer)
        else:
            dcp.async_save(state_of(net, optimizer, steps), storage_writer=writer).result()
    else:
        net, optimizer = trained(1)
        state = state_of(net, optimizer, 0)
        state["replica"] = torch.zeros(5)
        if action == "check":
            reader = RunReader(run)
            dcp.load(state, storage_reader=reader)
            assert reader.step in {steps, None}
        else:
            dcp.load(state, checkpoint_id=sys.argv[4])
        check(net, optimizer, state, steps)
    dist.barrier()  # who leaves first may not take the others with it
    sys.stdout.write(f"rank {dist.get_rank()} done\n")
    sys.stdout.flush()
    os._exit(0)  # gloo's own threads abort a process now and then that takes itself apart on a busy machine


if __name__ == "__main__":
    main()
