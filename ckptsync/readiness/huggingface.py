"""Folders `checkpoint-N` of the Trainer of transformers: whole when the state, which is written last, and all it goes with are there.

Source: transformers/trainer.py, `_save_checkpoint`; trainer_jit_checkpoint.py; modeling_utils.py, `save_pretrained`
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

from ckptsync.readiness import dcp, deepspeed
from ckptsync.readiness.base import NOTHING, Findings, Folder, Ready, sibling
from ckptsync.readiness.contents import Contents, Opened, UnreadableError
from ckptsync.readiness.names import checked_step, number_of_unit

RULE = "huggingface"
STATE = "trainer_state.json"
INCOMPLETE = "checkpoint-is-incomplete.txt"  # there while transformers 5 writes a checkpoint on SIGTERM
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_MAX_STATE_BYTES = 64 << 20
_INDEX = re.compile(r".+\.(?:safetensors|bin)\.index\.json")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(\.(?:safetensors|bin))")
_WEIGHTS = re.compile(r"(?:model|pytorch_model|adapter_model)(?:-\d{5}-of-\d{5})?\.(?:safetensors|bin)")
_OURS = re.compile(
    rf"{_WEIGHTS.pattern}|{_INDEX.pattern}|optimizer(?:\.pt|\.bin)|scheduler\.pt|rng_state.*\.pth|{INCOMPLETE}"
)
_BEFORE_STATE = re.compile(rf"{_WEIGHTS.pattern}|{_INDEX.pattern}|(?:optimizer|scheduler|scaler)\.(?:pt|bin)")
_FOREIGN = re.compile(r"(?!scaler\.pt).*\.(?:pt|pth|ckpt)")
"""Files that the Trainer never writes, besides those of `_OURS`."""
_WEIGHING = re.compile(
    r"(?!optimizer|scheduler|scaler|rng_state|training_args).*\.(?:safetensors|bin|pt|pth|ckpt|h5|msgpack)"
)
"""Files that may hold weights, a model's or an adapter's."""
_RANDOM = re.compile(r"rng_state_(\d+)\.pth")
_CONFIGURATIONS = frozenset({"config.json", "adapter_config.json"})
_ARGUMENTS = "training_args.bin"
_NO_METRIC_NAME = re.compile(r"[:=]")


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What a `trainer_state.json` tells.

    Attributes:
        why: it is not whole, in words that follow its name; empty when it is.
        step: that the training was at.
        metrics: finite numbers of this step.
        best: path of the best checkpoint so far; empty when it tells none.
    """

    why: str = ""
    step: int | None = None
    metrics: Mapping[str, float] | None = None
    best: str = ""


def find(folder: Folder, contents: Contents) -> Findings:
    """Tell whether a folder is a whole checkpoint of the Trainer, and which of those in it are abandoned."""
    found = _judged(folder, contents)
    return replace(found, torn=found.torn.union(_abandoned(folder)))


def _judged(folder: Folder, contents: Contents) -> Findings:
    """Judge the folder itself."""
    own = CHECKPOINT.fullmatch(folder.path.rpartition("/")[2])
    ours = {name for name in folder.files if _OURS.fullmatch(name)}
    if STATE not in folder.files:
        if own and ours and not any(_FOREIGN.fullmatch(name) for name in folder.files if name not in ours):
            return Findings(waiting=(f"{folder.path} has no {STATE} yet",), all_claimed=True)
        return _model(folder)
    if not own and any(
        CHECKPOINT.fullmatch(name) for name in folder.folders
    ):  # of the end of a training, with its checkpoints
        return Findings(claimed=frozenset(ours | {STATE, *_CONFIGURATIONS, "training_args.bin"}))
    name = folder.path or "."
    if why := _why_not(folder, contents):
        return Findings(waiting=(f"{name} is not whole: {why}",), all_claimed=True, torn=folder.names)
    state = contents.of(folder.files[STATE], read_state)
    ready = Ready(
        step=state.step,
        paths=folder.all_paths(),
        name=folder.path,
        rule=RULE,
        metrics=dict(state.metrics or {}),
        best=sibling(folder.path, state.best),
    )
    return Findings(checkpoints=(ready,), all_claimed=True)


def is_of_others(above: Folder, *, is_over: bool) -> bool:
    """Tell whether folders `checkpoint-N` are no Trainer's, whose next one begins when the last has its state: scripts call theirs so, too."""
    found = _checkpoints(above)
    if any(STATE in one.files or _ARGUMENTS in one.files for one in found):
        return False
    return is_over or len(found) > 1


def _abandoned(above: Folder) -> Iterator[str]:
    """Names of folders that the Trainer has begun for sure, and never came to the end of, if nobody writes to them now."""
    found = _checkpoints(above)
    has_state = any(STATE in one.files for one in found)
    for one in found:
        if STATE not in one.files and (has_state or _ARGUMENTS in one.files) and any(map(_OURS.fullmatch, one.files)):
            yield one.path.rpartition("/")[2]


def _checkpoints(above: Folder) -> list[Folder]:
    """Folders that the Trainer may have written."""
    return [inner for name, inner in above.folders.items() if CHECKPOINT.fullmatch(name)]


def _model(folder: Folder) -> Findings:
    """A folder of weights without a training's state."""
    if number_of_unit(folder.path.rpartition("/")[2]) is not None:
        return NOTHING
    weights = {name for name in folder.files if _WEIGHTS.fullmatch(name)}
    about = {name for name in folder.files if name in _CONFIGURATIONS or _INDEX.fullmatch(name)}
    sharded = any(_SHARD.fullmatch(name) for name in weights)
    if not weights or not (about or sharded):
        return NOTHING
    sentence = f"{folder.path or '.'} holds a model without {STATE}: it is no checkpoint of a training"
    claimed = weights | about | ({_ARGUMENTS} & folder.files.keys())
    return Findings(waiting=(sentence,), claimed=frozenset(claimed))


def _why_not(folder: Folder, contents: Contents) -> str:
    """What a checkpoint lacks; empty when it is whole."""
    if INCOMPLETE in folder.files:
        return f"the Trainer says so in {INCOMPLETE}"
    try:
        state = contents.of(folder.files[STATE], read_state)
        missing = next((name for name in _wanted(folder, contents) if folder.file_at(name) is None), "")
    except UnreadableError as error:
        return str(error)
    if state.why or missing:
        return f"{STATE} {state.why}" if state.why else f"{missing} is not there"
    if not folder.folders and not any(_WEIGHING.fullmatch(name) for name in folder.files):
        return "no weights are there"
    written = folder.files[STATE].identity.mtime_ns
    newer = (
        name
        for name, file in folder.files.items()
        if _BEFORE_STATE.fullmatch(name) and file.identity.mtime_ns > written
    )
    if (late := next(newer, None)) is not None:
        return f"{late} was written after {STATE}, so it is being written again"
    why = deepspeed.why_not(folder, contents) if deepspeed.LATEST in folder.files else ""
    return why or dcp.why_not_in(folder, contents)


def _wanted(folder: Folder, contents: Contents) -> Iterator[str]:
    """Files that must be there, by what other files tell."""
    indexed = {name for name in folder.files if _INDEX.fullmatch(name)}
    for name in indexed:
        yield from contents.of(folder.files[name], read_index)
    for name in folder.files:
        if shard := _SHARD.fullmatch(name):
            yield f"{shard[1]}{shard[4]}.index.json"
            yield from (f"{shard[1]}-{number:05d}-of-{shard[3]}{shard[4]}" for number in range(1, int(shard[3]) + 1))
    ranks = [int(found[1]) for name in folder.files if (found := _RANDOM.fullmatch(name))]
    yield from _ranks(ranks)


def _ranks(numbers: Iterable[int]) -> Iterator[str]:
    """The files of random numbers of every rank, up to the highest that is there."""
    for number in range(min(max(numbers, default=-1), 1_000_000)):
        yield f"rng_state_{number}.pth"


def read_state(opened: Opened) -> TrainerState:
    """Read a `trainer_state.json`; for `Contents.of`."""
    try:
        found = json.loads(opened.read(0, _MAX_STATE_BYTES))
    except (ValueError, RecursionError):
        return TrainerState(why="is cut short or damaged")
    if not isinstance(found, dict) or (step := checked_step(found.get("global_step"))) is None:
        return TrainerState(why="tells no global_step")
    history = found.get("log_history")
    metrics = dict(metrics_in(history if isinstance(history, list) else [], step))
    best = found.get("best_metric")
    if isinstance(best, int | float) and not isinstance(best, bool):
        metrics["best_metric"] = float(best)
    path = found.get("best_model_checkpoint")
    return TrainerState(
        step=step,
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        best=path if isinstance(path, str) else "",
    )


def read_index(opened: Opened) -> tuple[str, ...]:
    """Return the files that an index of shards names; for `Contents.of`. One that cannot be read names none: its format is checked."""
    try:
        names = set(json.loads(opened.read(0, _MAX_STATE_BYTES))["weight_map"].values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return ()
    return tuple(str(name) for name in names)


def metrics_in(history: Iterable[Any], step: int) -> Mapping[str, float]:
    """Return what the log in a Trainer's state tells of a step: `eval_` numbers of this very step, of others the last.

    Args:
        history: `log_history`. `:` and `=` in names become `_`, for `best:NAME:min` could not address them.
        step: the one it is at, or was at just now.
    """
    found: dict[str, float] = {}
    for entry in history:
        if not isinstance(entry, Mapping):
            continue
        is_now = entry.get("step") == step
        for name, value in entry.items():
            if name != "step" and _is_number(value) and (is_now or not name.startswith("eval_")):
                found[_NO_METRIC_NAME.sub("_", name)] = float(value)
    return found


def _is_number(value: Any) -> bool:
    """Whether JSON, or a Trainer, has a number here."""
    return isinstance(value, Real) and not isinstance(value, bool)
