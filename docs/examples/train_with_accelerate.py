"""A small training loop on an Accelerator, which survives its machine: nothing of it is on this machine's disk for long.

Start it as `python train_with_accelerate.py --run s3://bucket/run`, on any machine, as often as it is killed.
"""

from __future__ import annotations

import argparse
import hashlib

import torch
from accelerate import Accelerator

from ckptsync import LatestN
from ckptsync.integrations.accelerate import AcceleratorCheckpoints


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The data of one step: made from the step's number, so that the position in the data is the step."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(64, 32, generator=generator)
    return inputs, inputs.pow(2).mean(dim=1, keepdim=True).sin()


def main() -> None:
    """Train, and save every tenth step."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, help="where snapshots are kept: s3://, gs:// or a directory")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    accelerator = Accelerator(cpu=True)
    model = torch.nn.Sequential(
        torch.nn.Linear(32, 256), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(256, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=15)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)

    with AcceleratorCheckpoints(accelerator, options.run, keep=LatestN(3)) as checkpoints:
        start = checkpoints.load()
        accelerator.print(f"start {start}", flush=True)
        for step in range(start, options.steps):
            inputs, wanted = batch(step)
            loss = torch.nn.functional.mse_loss(model(inputs), wanted)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            accelerator.print(f"step {step} loss {loss.item()!r}", flush=True)
            if step % 10 == 0:
                checkpoints.save(step, metrics={"loss": loss.item()})

    content = b"".join(tensor.numpy().tobytes() for tensor in accelerator.unwrap_model(model).state_dict().values())
    accelerator.print(f"done {hashlib.sha256(content).hexdigest()}", flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
