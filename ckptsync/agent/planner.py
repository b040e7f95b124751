"""What to do with the time that is left. Pure: nothing here measures, waits or sends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from ckptsync.options import MIB

_FINE_S = 10  # below that, tenths of a second are told


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
        asked: whether it was.
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
    asked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A choice and its reason.

    Attributes:
        choice: what to do.
        why: a sentence with the numbers it rests on.
    """

    choice: Choice
    why: str


def plan(outlook: Outlook) -> Plan:
    """Choose what saves the most work and can be durable in time.

    What is under way comes first: it is the surest. A last checkpoint is asked for when there is time for it behind that. What was never
    measured is tried: parts and journal stay in any case, and nothing half-done is ever visible.
    """
    if outlook.left_s is not None and outlook.left_s <= 0 and (outlook.under_way_bytes or outlook.waiting_bytes):
        return Plan(choice=Choice.KEEP, why="there is no time left; the next start continues")
    if (last := _last_checkpoint(outlook)) is not None:
        return last
    if outlook.under_way_bytes:
        return _under_way(outlook)
    if outlook.waiting_bytes:
        return _waiting(outlook)
    return Plan(choice=Choice.KEEP, why=f"every whole checkpoint is durable, and {_why_not_asked(outlook)}")


def _last_checkpoint(outlook: Outlook) -> Plan | None:
    """Ask for one, where it would be durable in time."""
    written_in_time = outlook.left_s is None or outlook.left_s > (outlook.fresh_s or 0.0)
    if not outlook.can_ask or outlook.lost_s <= 0 or not written_in_time:
        return None
    saves = f"a last checkpoint saves {_time(outlook.lost_s)} of work"
    if outlook.left_s is None:
        return Plan(choice=Choice.ASK, why=f"{saves}, and nobody says how much time is left")
    behind = " behind the upload under way" if outlook.under_way_bytes else ""
    needs_s = _needed_s(outlook)
    if needs_s is None:
        if not _fits(outlook, outlook.under_way_bytes + (outlook.fresh_bytes or 0)):
            return None  # however soon it is written
        return Plan(
            choice=Choice.ASK, why=f"{saves}; how long that takes was not measured yet, and {_left(outlook)} are left"
        )
    if needs_s > outlook.left_s:
        return None
    return Plan(choice=Choice.ASK, why=f"{saves}, and takes {_time(needs_s)}{behind} of the {_left(outlook)} left")


def _under_way(outlook: Outlook) -> Plan:
    """Finish the upload, or leave it to the next start."""
    size = f"{_size(outlook.under_way_bytes)} of the upload under way are still to be sent"
    if outlook.left_s is None or outlook.bytes_per_s is None:
        unknown = "nobody says how much time is left" if outlook.left_s is None else "no rate was measured yet"
        return Plan(choice=Choice.FINISH, why=f"{size}, and {unknown}")
    if not _fits(outlook, outlook.under_way_bytes):
        return Plan(choice=Choice.KEEP, why=f"{size}, {_too_long(outlook, outlook.under_way_bytes)}")
    takes = f"which takes {_time(outlook.under_way_bytes / outlook.bytes_per_s)} of the {_left(outlook)} left"
    return Plan(choice=Choice.FINISH, why=f"{size}, {takes}; {_why_not_asked(outlook)}")


def _waiting(outlook: Outlook) -> Plan:
    """Begin to upload what is whole, where it can come to its end."""
    size = f"{_size(outlook.waiting_bytes)} of a whole checkpoint wait"
    if outlook.left_s is None or outlook.bytes_per_s is None:
        unknown = "nobody says how much time is left" if outlook.left_s is None else "no rate was measured yet"
        return Plan(choice=Choice.FINISH, why=f"{size}, and {unknown}")
    if not _fits(outlook, outlook.waiting_bytes):
        return Plan(choice=Choice.KEEP, why=f"{size}, {_too_long(outlook, outlook.waiting_bytes)}")
    takes = f"which takes {_time(outlook.waiting_bytes / outlook.bytes_per_s)} of the {_left(outlook)} left"
    return Plan(choice=Choice.FINISH, why=f"{size}, {takes}; {_why_not_asked(outlook)}")


def _needed_s(outlook: Outlook) -> float | None:
    """Until a last checkpoint is durable: it is written while the upload under way goes on; None where something was never measured."""
    if outlook.bytes_per_s is None or outlook.fresh_bytes is None or outlook.fresh_s is None:
        return None
    if outlook.bytes_per_s <= 0:
        return math.inf
    written_s = max(outlook.fresh_s, outlook.under_way_bytes / outlook.bytes_per_s)
    return written_s + outlook.fresh_bytes / outlook.bytes_per_s


def _fits(outlook: Outlook, size_bytes: int) -> bool:
    """Whether so much is sent in time, as far as that is known."""
    if outlook.left_s is None or outlook.bytes_per_s is None:
        return True
    return size_bytes <= outlook.bytes_per_s * outlook.left_s


def _why_not_asked(outlook: Outlook) -> str:
    """Why no last checkpoint is asked for."""
    if outlook.asked:
        return "the trainer was asked for a last one before"
    if not outlook.can_ask:
        return "the trainer cannot be asked for a last one"
    if outlook.lost_s <= 0:
        return "nothing was done since"
    return f"a last one would take longer than the {_left(outlook)} left"


def _too_long(outlook: Outlook, size_bytes: int) -> str:
    """That there is no time for so much."""
    if not outlook.bytes_per_s:
        return "and nothing gets through; the next start continues"
    takes = _time(size_bytes / outlook.bytes_per_s)
    return f"which takes {takes} at {_size(outlook.bytes_per_s)}/s, and {_left(outlook)} are left; the next start continues"


def _left(outlook: Outlook) -> str:
    """The time that is left, in words."""
    return "unknown time" if outlook.left_s is None else _time(max(0.0, outlook.left_s))


def _time(seconds: float) -> str:
    """As people read it."""
    return f"{seconds:.1f} s" if seconds < _FINE_S else f"{seconds:.0f} s"


def _size(count_bytes: float) -> str:
    """As people read it."""
    return f"{count_bytes / MIB:.1f} MiB"
