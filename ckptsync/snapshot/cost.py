"""What a snapshot cost: the save itself, and the training loop that waited for it. For people and `ckptsync report`; nothing relies on it.

Members that a later version adds are passed over, so that figures for people never make a snapshot unreadable.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MAX_NUMBER = (1 << 63) - 1
Natural = Annotated[int, Meta(ge=0, le=MAX_NUMBER)]


class Loop(msgspec.Struct, frozen=True, kw_only=True):
    """What the training loop's time went into until it went on behind this save. All but the first two since the process began.

    So a report knows what the snapshots told that retention has deleted.

    Attributes:
        interval_s: seconds from the save before, or the beginning of the process, to this save.
        stall_s: seconds that the loop waited for this save.
        running_s: seconds in all.
        stalled_s: seconds that it waited for saves, this one included.
        saves: how many were begun, this one included.
        resumed_from: id of the snapshot that was restored last, empty when none was.
        resume_s: seconds that restoring took.
        steps_redone: steps that an earlier process is known to have done behind the snapshot that was restored; those it did
            without beginning to save are not known.
    """

    interval_s: float = 0.0
    stall_s: float = 0.0
    running_s: float = 0.0
    stalled_s: float = 0.0
    saves: Natural = 0
    resumed_from: str = ""
    resume_s: float = 0.0
    steps_redone: Natural = 0


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What saving it took.

    Attributes:
        seconds: from the first look at the source to the commit.
        bytes_sent: payload sent by this attempt.
        bytes_reused: payload that was in the bucket already or was copied there.
        loop: the training loop's side of it; unset when something else than a loop saved.
    """

    seconds: float = 0.0
    bytes_sent: Natural = 0
    bytes_reused: Natural = 0
    loop: Loop | msgspec.UnsetType = msgspec.UNSET
