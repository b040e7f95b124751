"""Kill a training run with SIGKILL, resume it elsewhere, and show that nothing was lost.

Trains the same small model twice: once without a break, once killed half-way and resumed in another directory from the
embedded store. Both must end with the same weights, bit for bit.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import ckptsync

TRAIN = Path(__file__).with_name("train.py")
STEPS, KILL_AT = 120, 73


@contextmanager
def training(run: Path, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start train.py on a machine of its own: `folder`."""
    command = [sys.executable, TRAIN, "--run", run, "--dir", folder, "--steps", str(STEPS), "--pause", "0.02"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process


def losses_of(run: Path, folder: Path, kill_at: int | None = None) -> dict[int, str]:
    """Run train.py to its end, or kill it at a step; returns the losses it printed by step."""
    losses: dict[int, str] = {}
    with training(run, folder) as process:
        for line in process.stdout or ():
            if not (found := re.match(r"step (\d+) loss (\S+)", line)):
                print(f"   {line.rstrip()}")
                continue
            losses[int(found[1])] = found[2]
            if kill_at is not None and int(found[1]) >= kill_at:
                process.send_signal(signal.SIGKILL)
                break
        process.wait()
    wanted = 0 if kill_at is None else -signal.SIGKILL
    if process.returncode != wanted:
        sys.exit(f"train.py ended with {process.returncode}")
    return losses


def weights(run: Path, folder: Path) -> dict[str, torch.Tensor]:
    """The model a run ended with, as its bucket holds it."""
    ckptsync.restore(str(run), folder)
    return torch.load(folder / "state.pt", weights_only=True)["model"]


def main() -> None:
    """Show it."""
    with tempfile.TemporaryDirectory(prefix="ckptsync-demo-") as text:
        base = Path(text)
        print(f"1. Training {STEPS} steps without a break.")
        unbroken = losses_of(base / "bucket/unbroken", base / "machine-a")

        print(f"\n2. The same training on another machine, killed with SIGKILL at step {KILL_AT}.")
        before = losses_of(base / "bucket/killed", base / "machine-b", kill_at=KILL_AT)

        print("\n3. A third machine, with nothing but the bucket.")
        after = losses_of(base / "bucket/killed", base / "machine-c")

        first = min(after)
        print("\n   step   without a break   killed and resumed")
        for step in (first - 20, first - 1, first, first + 1, first + 20, STEPS):
            source, who = (after, "resumed") if step >= first else (before, "before the kill")
            print(f"   {step:4}   {unbroken[step]:>15}   {source[step]:>18}   {who}")
        if any(unbroken[step] != loss for step, loss in (before | after).items()):
            sys.exit("The loss curves differ.")

        one = weights(base / "bucket/unbroken", base / "look-a")
        other = weights(base / "bucket/killed", base / "look-b")
        if any(not torch.equal(one[name], other[name]) for name in one):
            sys.exit("The weights differ.")
        count = sum(tensor.numel() for tensor in one.values())
        print(
            f"\nThe kill cost {max(before) - first + 1} steps of work, done again after the resume, and nothing else:"
        )
        print(f"all {count} weights are the same, bit for bit, as without the kill.")


if __name__ == "__main__":
    main()
