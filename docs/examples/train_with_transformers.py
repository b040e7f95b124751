"""A small language model trained by the Trainer of transformers, which survives its machine: its checkpoints lie in a bucket.

Start it as `python train_with_transformers.py --run s3://bucket/run --folder DIR`, on any machine, as often as it is killed.
"""

from __future__ import annotations

import argparse
import hashlib
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

from ckptsync import LatestN
from ckptsync.integrations.huggingface import CkptsyncCallback

LETTERS, LENGTH = 64, 16


class Sentences(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Made-up sentences: each letter is the one before plus the sentence's number."""

    def __init__(self, first: int, count: int) -> None:
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        letters = (torch.arange(LENGTH) * (self.first + index) + index) % LETTERS
        return {"input_ids": letters, "labels": letters}


class Told(TrainerCallback):
    """Prints the loss of every step."""

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        """Print one line."""
        del args, control, kwargs
        if "loss" in (logs or {}):
            print(f"step {state.global_step} loss {logs['loss']!r}", flush=True)


def main() -> None:
    """Train, evaluate and save every tenth step, and end with the best model."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, help="where snapshots are kept: s3://, gs:// or a directory")
    parser.add_argument("--folder", required=True, help="where the Trainer writes its checkpoints on this machine")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()

    torch.set_num_threads(1)
    torch.manual_seed(0)
    args = TrainingArguments(
        output_dir=options.folder,
        max_steps=options.steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=10,
        save_steps=10,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    shape = GPT2Config(vocab_size=LETTERS, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2)
    callback = CkptsyncCallback(options.run, keep=LatestN(3))
    trainer = Trainer(
        model=GPT2LMHeadModel(shape),
        args=args,
        train_dataset=Sentences(0, 100),
        eval_dataset=Sentences(100, 8),
        callbacks=[callback, Told()],
    )
    newest = callback.newest()  # None when there is nothing yet
    print(f"start {newest.rpartition('-')[2] if newest else 0}", flush=True)
    trainer.train(resume_from_checkpoint=newest)

    content = b"".join(tensor.cpu().numpy().tobytes() for tensor in trainer.model.state_dict().values())
    print(f"done {hashlib.sha256(content).hexdigest()}", flush=True)


if __name__ == "__main__":
    main()
