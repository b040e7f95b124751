"""What those before it tell that a checkpoint must hold, where no framework does: people repeat themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import and_

Shape = Counter[str]
"""How many files there are of each name, numbers apart."""
HABIT = 2
"""So many are a habit: one that lacks what others have may have been left half written, two have been meant so."""


def wanted(older: Sequence[Shape], *, is_over: bool) -> Shape:
    """What a checkpoint holds, as those before it do; one of them may have been left half written, and is not the oldest.

    Args:
        older: the oldest first.
        is_over: whether the training has ended well, so that only what each of them has speaks against the newest.
    """
    if not older:
        return Shape()
    if is_over:
        return reduce(and_, older)
    if len(older) <= HABIT:
        return older[0]
    names = set[str]().union(*older)
    return Shape({name: sorted(shape[name] for shape in older)[HABIT - 1] for name in names})
