"""Checkpoints of Lightning's Trainer: a file of `torch.save` that tells the version of Lightning.

Source: lightning/pytorch/trainer/connectors/checkpoint_connector.py, `dump_checkpoint`; callbacks/model_checkpoint.py
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace

from ckptsync.readiness import torch
from ckptsync.readiness.base import Findings, Folder
from ckptsync.readiness.contents import Contents, UnreadableError

RULE = "lightning"
_VERSION = "pytorch-lightning_version"
_METRIC = re.compile(r"(?:^|[-/])([A-Za-z_][\w./]*)=(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)(?=-|$)")
_NO_METRICS = frozenset({"epoch", "step"})


def find(folder: Folder, contents: Contents) -> Findings:
    """Find files that are Lightning's."""
    names = [name for name in folder.files if torch.is_candidate(name, (".ckpt",))]
    found = torch.files(folder, [name for name in names if _is_lightning(folder, name, contents)], contents, RULE)
    return replace(
        found, checkpoints=tuple(replace(one, metrics=metrics_in(torch.stem(one.name))) for one in found.checkpoints)
    )


def metrics_in(name: str) -> Mapping[str, float]:
    """Return the numbers that a file's name tells, as `epoch=3-val_loss=0.25`; neither epoch nor step."""
    found = {metric: float(value) for metric, value in _METRIC.findall(name.rpartition("/")[2])}
    return {name: value for name, value in found.items() if name not in _NO_METRICS and math.isfinite(value)}


def _is_lightning(folder: Folder, name: str, contents: Contents) -> bool:
    """Whether a file is Lightning's, or not whole enough to tell."""
    try:
        found = contents.of(folder.files[name], torch.read)
    except UnreadableError:
        return True
    return bool(found.why) or _VERSION in found.keys
