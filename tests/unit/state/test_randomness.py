"""Generators of random numbers, and back."""

from __future__ import annotations

import random

import numpy as np
import torch

from ckptsync.state.archive import load, pieces_of
from ckptsync.state.randomness import applied, captured


def drawn() -> list[float]:
    return [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), *torch.rand(2).tolist()]  # noqa: NPY002


def test_what_is_drawn_after_it_is_drawn_again() -> None:
    random.gauss(0, 1)  # of which the second half is kept for the next time
    np.random.randn()  # noqa: NPY002
    content = memoryview(b"".join(pieces_of(captured())))
    first = drawn()
    assert drawn() != first
    applied(load(content, name="random"))
    assert drawn() == first
