"""A Trainer of transformers that knows nothing of ckptsync: it resumes from the last checkpoint in its folder.

python plain_transformers.py FOLDER RESULT [--steps N] [--log FILE]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

LETTERS, LENGTH = 64, 16


class Sentences(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Made-up sentences."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        letters = (torch.arange(LENGTH) * (1 + index) + index) % LETTERS
        return {"input_ids": letters, "labels": letters}


class Slowly(TrainerCallback):
    """Steps as slow as those of larger models, so that machines can end amid them."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, state, control, kwargs
        time.sleep(0.03)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("result", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--log", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    args = TrainingArguments(
        output_dir=str(options.folder),
        max_steps=options.steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        save_steps=10,
        save_total_limit=2,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=0,
    )
    shape = GPT2Config(vocab_size=LETTERS, n_positions=LENGTH, n_embd=32, n_layer=2, n_head=2)
    trainer = Trainer(model=GPT2LMHeadModel(shape), args=args, train_dataset=Sentences(), callbacks=[Slowly()])
    newest = get_last_checkpoint(str(options.folder)) if options.folder.is_dir() else None
    if options.log is not None:
        with options.log.open("a") as log:
            log.write(f"start {newest.rpartition('-')[2] if newest else 0}\n")
    trainer.train(resume_from_checkpoint=newest)
    half = options.result.with_suffix(".half")
    torch.save([tensor.detach() for tensor in trainer.model.state_dict().values()], half)
    half.replace(options.result)


if __name__ == "__main__":
    main()
