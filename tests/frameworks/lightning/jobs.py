"""A training that is over in a moment, for tests that interrupt it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import lightning

_FILE = Path(__file__).parents[3] / "docs/examples/train_with_lightning.py"
_spec = importlib.util.spec_from_file_location("train_with_lightning", _FILE)
assert _spec
assert _spec.loader
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)


class GoneError(Exception):
    """The machine is gone."""


class Interrupting(lightning.Callback):
    """Ends training in the middle of a step."""

    def __init__(self, step: int | None) -> None:
        self.step = step

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        del pl_module, optimizer
        if trainer.global_step == self.step:
            raise GoneError


def fit(callbacks: list[Any], *, ckpt_path: str | None = None, stop_at: int | None = None, **options: Any) -> Any:
    """Train 3 epochs of 12 batches, or those of `options`, and return the trainer; it has the model."""
    lightning.seed_everything(0, verbose=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        callbacks=[*callbacks, Interrupting(stop_at)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 3, **options},
    )
    trainer.fit(example.Regression(), datamodule=example.Data(), ckpt_path=ckpt_path)
    return trainer


def weights(trainer: Any) -> list[bytes]:
    return [tensor.numpy().tobytes() for tensor in trainer.lightning_module.state_dict().values()]
