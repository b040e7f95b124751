"""A training job whose data comes from workers: `loader_job.py RUN METHOD [--local DIR] [--linger]`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time

import torch
from torch.utils.data import DataLoader, Dataset

from ckptsync import CheckpointManager

EPOCHS, LENGTH = 6, 24


class Numbers(Dataset[torch.Tensor]):
    """A sample is made from its number; what is asked for last may never come."""

    def __init__(self, *, lingers: bool) -> None:
        self.lingers = lingers

    def __len__(self) -> int:
        return LENGTH

    def __getitem__(self, index: int) -> torch.Tensor:
        logging.getLogger("ckptsync").debug("sample %d", index)
        if self.lingers and index == LENGTH - 1:
            time.sleep(120)
        return torch.randn(8, generator=torch.Generator().manual_seed(index))


def main() -> None:
    """Save behind every step, while workers come and go."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run")
    parser.add_argument("method", choices=["fork", "spawn"])
    parser.add_argument("--local")
    parser.add_argument("--linger", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    total, epochs = torch.zeros(8), EPOCHS if options.method == "fork" else 2
    with CheckpointManager(options.run, busy="latest", local=options.local) as manager:
        start = manager.restore(total=(taken := {"total": total}))
        total = taken["total"]
        sys.stdout.write(f"start {start}\n")
        step = start
        for _ in range(start // LENGTH, epochs):
            loader = DataLoader(
                Numbers(lingers=options.linger), num_workers=2, multiprocessing_context=options.method, shuffle=False
            )
            for batch in loader:
                total += batch[0]
                manager.save(step, total={"total": total})
                sys.stdout.write(f"step {step}\n")
                sys.stdout.flush()
                step += 1
            if options.linger:
                os._exit(3)
    sys.stdout.write(f"done {step} {total.sum().item()}\n")


if __name__ == "__main__":
    main()
