"""A bare torch loop that knows nothing of ckptsync: it resumes from the newest file in a folder, and writes one every few steps.

    python plain_trainer.py FOLDER RESULT [--steps N] [--every N] [--pause S] [--log FILE]

Given the same steps, RESULT is the same bit for bit, however often it was killed.
"""

from __future__ import annotations

import argparse
import re
import signal
import time
from pathlib import Path

import torch

KEEP = 2


def newest(folder: Path) -> Path | None:
    """The file of the highest step."""
    files = [path for path in folder.glob("step-*.pt") if re.fullmatch(r"step-\d+\.pt", path.name)]
    return max(files, key=lambda path: int(path.stem.removeprefix("step-")), default=None)


def write(path: Path, state: dict[str, object]) -> None:
    """Appear whole, as loops that people write do it."""
    half = path.with_suffix(".tmp")
    torch.save(state, half)
    half.replace(path)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--every", type=int, default=20)
    parser.add_argument("--pause", type=float, default=0.02)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    signal.signal(signal.SIGUSR1, lambda number, _: asked.append(number))
    start = 0
    if (found := newest(options.folder)) is not None:
        state = torch.load(found, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        start = state["step"]
    if options.log is not None:
        with options.log.open("a") as log:
            log.write(f"start {start}\n")
    for step in range(start + 1, options.steps + 1):
        batch = torch.randn(32, 8)
        loss = (model(batch) - batch.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(options.pause)
        if step % options.every == 0 or step == options.steps or asked:
            state = {
                "step": step,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "random": torch.get_rng_state(),
            }
            write(options.folder / f"step-{step}.pt", state)
            for old in sorted(options.folder.glob("step-*.pt"), key=lambda path: path.stat().st_mtime_ns)[:-KEEP]:
                old.unlink()
        if signal.SIGTERM in asked:
            raise SystemExit(128 + signal.SIGTERM)
        asked.clear()
    half = options.result.with_suffix(".half")
    torch.save([parameter.detach() for parameter in model.parameters()], half)
    half.replace(options.result)


if __name__ == "__main__":
    main()
