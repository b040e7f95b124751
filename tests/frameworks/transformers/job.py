"""One process of a job of two that trains by DistributedDataParallel.

    job.py trainer|accelerate RUN FOLDER STEPS [--each-node]

Each process is a node of its own with `--each-node`; else both are on one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from ckptsync.integrations.accelerate import AcceleratorCheckpoints


class Model(torch.nn.Module):
    """With a loss, and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.3), torch.nn.Linear(8, 1))

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.layers(x).squeeze(-1) - labels).pow(2).mean()}


class Points(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sixty-four points."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"x": torch.arange(4.0).sin() * index / 64, "labels": torch.tensor(index / 64)}


def by_trainer(run: str, folder: str, steps: int, *, each_node: bool) -> tuple[int, torch.nn.Module]:
    """Train with a Trainer; the step it began at, and the model."""
    from transformers import Trainer, TrainingArguments  # noqa: PLC0415  takes seconds, which the other kind does not need

    from ckptsync.integrations.huggingface import CkptsyncCallback  # noqa: PLC0415

    args = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        save_steps=2,
        save_total_limit=1,
        logging_steps=1,
        per_device_train_batch_size=4,
        save_on_each_node=each_node,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        ddp_backend="gloo",
        seed=0,
        lr_scheduler_type="constant",  # whatever the number of steps
    )
    callback = CkptsyncCallback(run)
    trainer = Trainer(Model(), args, train_dataset=Points(), callbacks=[callback])
    newest = callback.newest()
    trainer.train(resume_from_checkpoint=newest)
    return int(newest.rpartition("-")[2]) if newest else 0, trainer.model


def by_accelerator(run: str, folder: str, steps: int, *, each_node: bool) -> tuple[int, torch.nn.Module]:
    """Train on an Accelerator; the step it began at, and the model."""
    project = ProjectConfiguration(save_on_each_node=each_node)
    accelerator = Accelerator(cpu=True, project_config=project)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    torch.manual_seed(accelerator.process_index)
    with AcceleratorCheckpoints(accelerator, run, folder=folder) as checkpoints:
        start = checkpoints.load()
        for step in range(start, steps):
            points = [Points()[(8 * step + 4 * accelerator.process_index + one) % 64] for one in range(4)]
            batch = {name: torch.stack([point[name] for point in points]) for name in ("x", "labels")}
            optimizer.zero_grad()
            accelerator.backward(model(**batch)["loss"])
            optimizer.step()
            if step % 2 == 1:
                checkpoints.save(step, metrics={"step": step})
    return start, accelerator.unwrap_model(model)


def main() -> None:
    """Train, and tell what it came to."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=["trainer", "accelerate"])
    parser.add_argument("run")
    parser.add_argument("folder")
    parser.add_argument("steps", type=int)
    parser.add_argument("--each-node", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    train = by_trainer if options.kind == "trainer" else by_accelerator
    start, model = train(options.run, options.folder, options.steps, each_node=options.each_node)
    content = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    sys.stdout.write(f"result {os.environ['RANK']} {start} {hashlib.sha256(content).hexdigest()}\n")
    sys.stdout.flush()
    torch.distributed.barrier()
    os._exit(0)  # gloo's own threads abort a process now and then that takes itself apart on a busy machine


if __name__ == "__main__":
    main()
