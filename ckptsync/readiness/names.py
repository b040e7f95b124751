"""What names tell: which are temporary, and which step they are of."""

from __future__ import annotations

import re

from ckptsync.transfer.folders import is_partial

MAX_STEP = 999_999_999_999
_TEMPORARY = re.compile(
    r"(tmp-|temp-|\.~|~\$).*|.*(\.tmp|\.temp|_temp|\.partial|\.part|\.incomplete|\.swp|\.lock|\.crdownload|~)"
    r"|.*(\.tmp\.|\.orbax-checkpoint-tmp|\.ckptsync-partial).*",
    re.DOTALL | re.IGNORECASE,
)
_STEP = re.compile(r"(?:^|[^a-z])(?:global[-_]?step|step|iteration|iter)s?[-_=:]?(\d{1,12})(?!\d)", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?:^|(?:^|[^a-z])(?:checkpoint|ckpt|model|state|snapshot|weights|save|global|it)[-_=.]?)(\d{1,12})$",
    re.IGNORECASE,
)

_EPOCH = re.compile(r"(?:^|[^a-z])(?:epoch|ep|round|update)s?[-_=:]?(\d{1,12})$", re.IGNORECASE)
_LAST_NUMBER = re.compile(r"(?:^|\D)(\d{1,12})$")
_RANK = re.compile(
    r"(?<![a-z])(?:rank|shard|part|worker|process|proc|gpu|device|node|host|tp|pp|dp)[-_=]?\d+(?:[-_]of[-_]\d+)?|\d+[-_]of[-_]\d+",
    re.IGNORECASE,
)
"""What tells a part of a checkpoint from others, of which each rank writes one."""
_SERIES = r"(?<![a-z])(?:fold|seed|split|trial)[-_=]?\d+"
"""What tells one training from others beside it."""
_LABEL = re.compile(rf"{_RANK.pattern}|{_SERIES}", re.IGNORECASE)
_DECIMAL = r"(?:(?<=[_=])[-+])?\d+(?:\.\d+)?(?:e[-+]?\d+(?![a-z\d]))?"
"""A number with its sign, where that cannot be a hyphen."""
_NUMBERS = re.compile(rf"({_LABEL.pattern})|{_DECIMAL}", re.IGNORECASE)


def is_temporary(name: str) -> bool:
    """Tell whether a file or folder of this name is one that is still being written, by what frameworks and tools call those."""
    return _TEMPORARY.fullmatch(name) is not None or is_partial(name)


def is_plain(name: str) -> bool:
    """Tell whether a file or folder of this name is neither hidden nor still being written."""
    return not name.startswith(".") and not is_temporary(name)


def step_in(name: str) -> int | None:
    """Return the step that a name tells, as `epoch=3-step=500`, `step-100`, `checkpoint-500` or `500`; None when it tells none.

    Args:
        name: of a file without its ending, or of a folder.
    """
    if named := _STEP.findall(name):
        return int(named[-1])
    number = _NUMBER.search(name)
    return int(number[1]) if number else None


def number_of_unit(name: str) -> int | None:
    """Return the number of the step or epoch that a folder's name tells, as `step-100` or `epoch_3`; None when it tells none."""
    if (step := step_in(name)) is not None:
        return step
    found = _EPOCH.search(name)
    return int(found[1]) if found else None


def number_in(name: str) -> int | None:
    """Return the number that tells a file or folder from others of its kind, as in `model_100`; None when it has none.

    Args:
        name: without ending.
    """
    if (number := number_of_unit(name)) is not None:
        return number
    found = _LAST_NUMBER.search(_LABEL.sub("", name).rstrip("-_."))
    return int(found[1]) if found else None


def ranks_in(path: str) -> frozenset[str]:
    """Return what a path says of the rank that wrote it, as `rank0` or `00001-of-00004`; empty when it says nothing."""
    return frozenset(found[0].lower() for found in _RANK.finditer(path))


def labels_in(path: str) -> frozenset[str]:
    """Return what a path says of the rank, and of the training among several, as `fold_1`; empty when it says nothing."""
    return frozenset(found[0].lower() for found in _LABEL.finditer(path))


def family(path: str) -> str:
    """Return what paths of the same kind have in common: `step-#/rank0.pt` for `step-100/rank0.pt`."""
    return _NUMBERS.sub(lambda found: found[1] or "#", path)


def numbers_in(path: str) -> tuple[float, ...]:
    """Return the numbers that `family` leaves out, in their order."""
    return tuple(float(found[0]) for found in _NUMBERS.finditer(path) if not found[1])


def step_along(path: str) -> int | None:
    """Return the step that the last name of a path tells, or else the nearest folder's; None when none does."""
    return next((step for name in reversed(path.split("/")) if (step := step_in(name)) is not None), None)


def checked_step(value: object) -> int | None:
    """Return a value that can be a step; None for any other."""
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 <= value <= MAX_STEP else None
