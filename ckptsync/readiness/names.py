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
_NAMED_STEP = re.compile(
    r"(?:^|[^a-z])(?:global[-_]?step|step|iteration|iter|it)s?[-_=:]?(\d{1,12})(?!\d)", re.IGNORECASE
)
_LAST_NUMBER = re.compile(r"(?:^|[-_=.])(\d{1,12})$")
_EPOCH = re.compile(r"(?:^|[^a-z])(?:epoch|ep)s?[-_=:]?\d+$", re.IGNORECASE)


def is_temporary(name: str) -> bool:
    """Tell whether a file or folder of this name is one that is still being written, by what frameworks and tools call those."""
    return _TEMPORARY.fullmatch(name) is not None or is_partial(name)


def step_in(name: str) -> int | None:
    """Return the step that a name tells, as `epoch=3-step=500`, `step-100`, `checkpoint-500` or `500`; None when it tells none.

    A number alone counts at the end, unless it is that of an epoch.

    Args:
        name: of a file without its ending, or of a folder.
    """
    if named := _NAMED_STEP.findall(name):
        return int(named[-1])
    last = _LAST_NUMBER.search(name)
    return int(last[1]) if last and not _EPOCH.search(name) else None
