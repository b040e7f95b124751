"""What to do with the time that is left. Pure: nothing here measures, waits or sends."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Choice(StrEnum):
    """What is done until the machine ends."""

    FINISH = "finish"  # what is under way, and what waits as far as there is time
    ASK = "ask"  # ask the trainer for a last checkpoint, and commit that
    KEEP = "keep"  # begin nothing; parts and journal stay, and the next start continues


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is known at this moment.

    Attributes:
        left_s: until the machine ends, less the margin; None where nobody says.
        bytes_per_s: payload that reaches the bucket, as measured of late without caps; None while nothing was measured.
        under_way_bytes: payload that the upload under way has still to send; 0 when there is none.
        waiting_bytes: payload of the newest whole checkpoint that waits behind it; 0 when there is none.
        fresh_bytes: payload that a last checkpoint would have to send, by those before; None when there was none.
        fresh_s: how long the trainer takes to write one, by those before; None when that is not known.
        can_ask: whether the trainer can be asked, and was not asked yet.
        lost_s: work done since the newest whole checkpoint, which only a last one would save.
    """

    left_s: float | None
    bytes_per_s: float | None
    under_way_bytes: int
    waiting_bytes: int
    fresh_bytes: int | None
    fresh_s: float | None
    can_ask: bool
    lost_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A choice and its reason.

    Attributes:
        choice: what to do.
        why: a sentence with the numbers it rests on.
    """

    choice: Choice
    why: str
