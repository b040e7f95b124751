"""A small training job that says `load` and `save` as with torch's own, to a run instead of a file.

Start it as `python train_with_torch_save.py --run s3://bucket/run`, on any machine, as often as it is killed.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import torch

from ckptsync import NoSnapshotError
from ckptsync.integrations.torch import load, save


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
    run = options.run if "://" in options.run else Path(options.run).absolute().as_uri()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = torch.nn.Sequential(
        torch.nn.Linear(32, 256), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(256, 1)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    start = 0
    try:
        state = load(run, map_location="cpu")
    except NoSnapshotError:
        pass
    else:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        start = state["step"] + 1
    print(f"start {start}", flush=True)

    for step in range(start, options.steps):
        inputs, wanted = batch(step)
        loss = torch.nn.functional.mse_loss(model(inputs), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step} loss {loss.item():.6f}", flush=True)
        if step % 10 == 0:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": torch.get_rng_state(),
                "step": step,
            }
            save(state, f"{run}@{step}", metrics={"loss": loss.item()})

    content = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    print(f"done {hashlib.sha256(content).hexdigest()}", flush=True)


if __name__ == "__main__":
    main()
