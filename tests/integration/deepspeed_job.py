"""A loop that writes its checkpoints as DeepSpeed's `save_checkpoint` does: `deepspeed_job.py --run RUN --dir DIR --steps N`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from ckptsync import LatestN
from ckptsync.integrations.deepspeed import LATEST, CheckpointDirectory

EVERY = 5


def saved(folder: Path, step: int, state: dict[str, object]) -> None:
    """A folder for the tag, and its name in `latest` when all of it is there."""
    tag = f"global_step{step}"
    (folder / tag).mkdir(parents=True)
    torch.save(state, folder / tag / "mp_rank_00_model_states.pt")
    (folder / LATEST).write_text(tag)


def main() -> None:
    """Go on from the newest tag, and tell each step and the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run")
    parser.add_argument("--dir", type=Path)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.3), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)
    with CheckpointDirectory(options.run, options.dir, keep=LatestN(2)) as synced:
        begin = 0
        if (done := synced.restore()) is not None:
            tag = (options.dir / LATEST).read_text()
            state = torch.load(options.dir / tag / "mp_rank_00_model_states.pt")
            net.load_state_dict(state["net"])
            optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["random"])
            begin = done + 1
        for step in range(begin, options.steps):
            inputs = torch.randn(16, 8)
            loss = (net(inputs).squeeze(-1) - inputs.sum(dim=1)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % EVERY == EVERY - 1:
                random = torch.get_rng_state()
                saved(
                    options.dir,
                    step,
                    {"net": net.state_dict(), "optimizer": optimizer.state_dict(), "random": random},
                )
                synced.save()
            sys.stdout.write(f"step {step} {loss.item().hex()}\n")
            sys.stdout.flush()
    total = sum(parameter.double().sum().item() for parameter in net.parameters())
    sys.stdout.write(f"done {total.hex()}\n")


if __name__ == "__main__":
    main()
