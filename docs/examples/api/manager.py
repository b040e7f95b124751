"""A training loop is saved behind its back, and goes on where it was."""

import torch

from ckptsync import CheckpointManager, EveryNSteps, LatestN


def train(until: int) -> int:
    """Train, and tell where that began."""
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with CheckpointManager("s3://bucket/training", save=EveryNSteps(5), keep=LatestN(2)) as manager:
        start = manager.restore(model=model, optimizer=optimizer)
        for step in range(start, until):
            loss = model(torch.randn(8, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if manager.should_save(step) or step == until - 1:  # the last one too
                manager.save(step, metrics={"loss": loss.item()}, model=model, optimizer=optimizer)
        manager.wait()
        newest = manager.latest()
        assert newest is not None
        assert newest.id.step == until - 1
        assert len(manager.history()) <= 2
    return start


assert train(until=8) == 0
assert train(until=20) == 8
