"""A small training job that survives its machine: it resumes from the newest snapshot of RUN, wherever it is started.

Start it as `python train.py --run s3://bucket/run --dir ./work`.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import ckptsync


class Net(torch.nn.Module):
    """Half a million weights, with dropout so that the random state matters."""

    def __init__(self, width: int = 640) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(32, width),
            torch.nn.ReLU(),
            torch.nn.Dropout(0.1),
            torch.nn.Linear(width, width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, 1),
        )

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Predict one number for each row."""
        return self.layers(inputs)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The data of one step: made from the step's number, so that the position in the data is the step."""
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(64, 32, generator=generator)
    return inputs, inputs.pow(2).mean(dim=1, keepdim=True).sin()


def main() -> None:
    """Train, saving as we go."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, help="where snapshots are kept: s3://, gs:// or a directory")
    parser.add_argument("--dir", required=True, type=Path, help="where this machine works")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--save-every", type=int, default=20)
    parser.add_argument(
        "--pause", type=float, default=0.0, help="seconds to wait after each step, as if it were larger"
    )
    options = parser.parse_args()

    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(mode=True)
    model = Net()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    start, folder = 0, options.dir / "checkpoint"

    try:
        restored = ckptsync.restore(options.run, folder)
    except ckptsync.NoSnapshotError:
        print("no snapshot yet: starting from step 0", flush=True)
    else:
        state = torch.load(folder / "state.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["rng"])
        start = state["step"]
        print(f"resumed from snapshot {restored.snapshot}: continuing at step {start}", flush=True)

    for step in range(start, options.steps):
        inputs, wanted = batch(step)
        loss = torch.nn.functional.mse_loss(model(inputs), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done = step + 1
        print(f"step {done} loss {loss.item():.6f}", flush=True)
        time.sleep(options.pause)
        if done % options.save_every == 0 or done == options.steps:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "rng": torch.get_rng_state(),
                    "step": done,
                },
                folder / "state.pt",
            )
            saved = ckptsync.save(folder, options.run, step=done, metrics={"loss": loss.item()})
            print(f"committed {saved.snapshot} ({saved.bytes / 1e6:.1f} MB)", flush=True)


if __name__ == "__main__":
    main()
