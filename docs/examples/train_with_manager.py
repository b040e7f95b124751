"""A small training job that survives its machine with a `CheckpointManager`: nothing of it is on this machine's disk.

Start it as `python train_with_manager.py --run s3://bucket/run`, on any machine, as often as it is killed. With `--local DIR` the newest
snapshot is on this machine's disk as well, where a restart finds it sooner.
"""

from __future__ import annotations

import argparse
import hashlib
import random

import torch

from ckptsync import CheckpointManager, EveryNSteps, LatestN


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The data of one step: made from the step's number, so that the position in the data is the step."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(64, 32, generator=generator)
    return inputs, inputs.pow(2).mean(dim=1, keepdim=True).sin()


def main() -> None:
    """Train, and save every tenth step and the last one behind the loop's back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, help="where snapshots are kept: s3://, gs:// or a directory")
    parser.add_argument("--local", help="a directory on this machine's disk for the newest snapshot")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()

    torch.manual_seed(0)
    random.seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(32, 256), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(256, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=15)
    progress = {"samples": 0}
    training = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "progress": progress}

    with CheckpointManager(options.run, save=EveryNSteps(10), keep=LatestN(3), local=options.local) as manager:
        start = manager.restore(**training)
        print(f"start {start}", flush=True)
        for step in range(start, options.steps):
            inputs, wanted = batch(step)
            noise = random.gauss(0.0, 0.01)
            loss = torch.nn.functional.mse_loss(model(inputs + noise), wanted)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            progress["samples"] += len(inputs)
            print(f"step {step} loss {loss.item():.6f}", flush=True)
            if manager.should_save(step) or step == options.steps - 1:  # the last one too
                manager.save(step, metrics={"loss": loss.item()}, **training)

    content = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    print(f"done {progress['samples']} {hashlib.sha256(content).hexdigest()}", flush=True)


if __name__ == "__main__":
    main()
