"""Trains with two ranks until a step, and tells of each what it drew and what it has."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import lightning
import torch
from frameworks.lightning.jobs import example

from ckptsync import EveryNSeconds, EveryNSteps, LatestN
from ckptsync.integrations.lightning import CkptsyncCallback


class Noisy(example.Regression):
    """Each rank draws numbers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[str] = []

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        del batch_idx
        inputs, wanted = batch
        noise = torch.randn(())
        self.drawn.append(f"{self.global_step} {noise.item()}")
        return torch.nn.functional.mse_loss(self.layers(inputs + noise / 100), wanted)


def main(run: str, steps: int, told: Path) -> None:
    """Train on the same data in each rank; what differs are the random numbers."""
    rank = int(os.environ.get("LOCAL_RANK", "0"))
    lightning.seed_everything(rank, verbose=False)
    saving = CkptsyncCallback(run, save=EveryNSteps(5) | EveryNSeconds(3600), keep=LatestN(3))
    trainer = lightning.Trainer(
        accelerator="cpu",
        strategy="ddp",
        devices=2,
        max_steps=steps,
        callbacks=[saving],
        logger=False,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Noisy()
    trainer.fit(model, datamodule=example.Data(), ckpt_path=saving.last())
    content = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    (told / f"rank-{rank}").write_text("\n".join([*model.drawn, hashlib.sha256(content).hexdigest()]))
    torch.distributed.barrier()
    os._exit(0)  # gloo's own threads abort a process now and then that takes itself apart on a busy machine


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
