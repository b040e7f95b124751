"""A small Lightning training that survives its machine: nothing of it is on this machine's disk.

Start it as `python train_with_lightning.py --run s3://bucket/run`, on any machine, as often as it is killed.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterator
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader, Sampler, TensorDataset

from ckptsync import BestN, EveryNSteps, LatestN
from ckptsync.integrations.lightning import CkptsyncCallback


def made(size: int, seed: int) -> TensorDataset:
    """Data of a known function."""
    inputs = torch.randn(size, 32, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(inputs, inputs.pow(2).mean(dim=1, keepdim=True).sin())


class Shuffled(Sampler[int]):
    """Another order in each epoch, made from its number alone."""

    def __init__(self, size: int) -> None:
        self.size, self.epoch, self.begin = size, 0, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[int]:
        order = torch.randperm(self.size, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        return iter(order[self.begin :])


class ResumableLoader(DataLoader[Any]):
    """Goes on in the middle of an epoch: its position, in batches since training began, is all there is to know."""

    def __init__(self, dataset: TensorDataset, batch_size: int) -> None:
        self.order = Shuffled(len(dataset))
        # a generator of its own: else each epoch would draw from the one that the model's dropout draws from
        super().__init__(dataset, batch_size, sampler=self.order, generator=torch.Generator())
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        """What Lightning takes for the mark of a loader that can be resumed."""
        return {"position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lightning calls this where training goes on amid an epoch, and only there."""
        self.position = state["position"]

    def __iter__(self) -> Iterator[Any]:
        self.order.epoch, begin = divmod(self.position, len(self))
        self.order.begin = begin * (self.batch_size or 1)
        for batch in super().__iter__():
            self.position += 1
            yield batch


class Data(lightning.LightningDataModule):
    """Brings the position back wherever training goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.training = ResumableLoader(made(384, seed=1), batch_size=32)

    def train_dataloader(self) -> ResumableLoader:
        """What is trained with."""
        return self.training

    def val_dataloader(self) -> DataLoader[Any]:
        """What is validated with."""
        return DataLoader(made(64, seed=2), batch_size=32, generator=torch.Generator())

    def state_dict(self) -> dict[str, Any]:
        """What Lightning saves."""
        return self.training.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """What Lightning hands back."""
        self.training.load_state_dict(state_dict)


class Regression(lightning.LightningModule):
    """A model with a scheduler, and dropout, which draws random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(32, 128), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(128, 1)
        )

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], batch_idx: int) -> torch.Tensor:
        """One step, told to who watches."""
        inputs, wanted = batch
        loss = torch.nn.functional.mse_loss(self.layers(inputs), wanted)
        print(
            f"step {self.global_step} epoch {self.current_epoch} batch {batch_idx} loss {loss.item():.6f}", flush=True
        )
        return loss

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Measure what snapshots are chosen by."""
        inputs, wanted = batch
        self.log("val_loss", torch.nn.functional.mse_loss(self.layers(inputs), wanted))

    def configure_optimizers(self) -> Any:
        """An optimizer, and a scheduler that acts at every step."""
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=60)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def main() -> None:
    """Train, and save every fifth step behind the loop's back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, help="where snapshots are kept: s3://, gs:// or a directory")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()

    torch.set_num_threads(1)
    lightning.seed_everything(0, verbose=False)
    saving = CkptsyncCallback(options.run, save=EveryNSteps(5), keep=LatestN(3) | BestN("val_loss", "min"))
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=options.epochs,
        callbacks=[saving],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Regression()
    trainer.fit(model, datamodule=Data(), ckpt_path=saving.last())

    content = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    print(f"done {trainer.global_step} {rates} {hashlib.sha256(content).hexdigest()}", flush=True)


if __name__ == "__main__":
    main()
