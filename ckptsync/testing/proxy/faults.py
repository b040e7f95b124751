"""What goes wrong on the wire: small values, put together here and applied in `exchange`.

A fault is one of: an answer the upstream never gave; an answer that is lost after the request took effect; a change of
what passes through, piece by piece. Several may strike one request.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from ckptsync.testing.proxy import answers
from ckptsync.testing.proxy.answers import Answer
from ckptsync.testing.proxy.asked import Asked
from ckptsync.testing.proxy.wire import Head

Pieces = Iterator[bytes]
Wait = Callable[[float], None]
Change = Callable[[Pieces, Wait], Pieces]
Direction = Literal["up", "down"]
Ending = Literal["reset", "close", "silence"]

MAX_RECORDED_BYTES = 64 << 20
_PACE_PIECES_PER_S = 20
_MUTATION_PERIOD_S = 1.0


class EndedError(Exception):
    """The connection ends here, on purpose.

    Attributes:
        how: by RST, in order, or by saying nothing more until the client gives up.
    """

    def __init__(self, how: Ending) -> None:
        """Keep the manner."""
        super().__init__(how)
        self.how = how


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate:
    """A request that arrives a second time, late.

    Attributes:
        before: regular expression on `METHOD target` of the request before which it arrives.
        flip: offset of a body byte whose lowest bit is another one the second time; None repeats it to the letter.
    """

    before: re.Pattern[str]
    flip: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that goes wrong with a request. What is None or zero goes well.

    Attributes:
        name: for the log.
        delay_s: passes before the request is passed on.
        rewrite: makes another head of the request's.
        answer: given in place of the upstream's.
        ending: what comes in place of any answer.
        forward: the request reaches the upstream and is answered there before `answer` or `ending`.
        drain: the request's body is read before `answer` where it is not forwarded.
        up: changes the request's payload.
        down: changes the answer's payload.
        again: the request arrives once more.
        only_if: asked of each request that fits the rule; it is struck only where this is true.
    """

    name: str
    delay_s: float = 0.0
    rewrite: Callable[[Head], Head] | None = None
    answer: Answer | None = None
    ending: Ending | None = None
    forward: bool = False
    drain: bool = True
    up: Change | None = None
    down: Change | None = None
    again: Duplicate | None = None
    only_if: Callable[[Asked], bool] | None = None


# -- answers -------------------------------------------------------------------------------------------------------------


def answered(answer: Answer, *, drain: bool = True) -> Fault:
    """Answer without asking the upstream: the request has no effect.

    Args:
        answer: one of `answers`.
        drain: read the request's body first; without, answer at once and hang up, as a service under load does. A client
            that is still sending may see a broken connection and no answer.
    """
    return Fault(name=f"answered {answer.status} {answer.code}", answer=answer, drain=drain)


def replaced_answer(answer: Answer) -> Fault:
    """Let the request take effect, and answer something else."""
    return Fault(name=f"replaced by {answer.status} {answer.code}", answer=answer, forward=True)


def lost_answer(how: Ending = "reset") -> Fault:
    """Let the request take effect, and its answer get lost."""
    return Fault(name=f"answer lost by {how}", ending=how, forward=True)


def one_write_per_s() -> Fault:
    """Answer 429 to a second change of the same object within a second, as Cloud Storage does. Inject it with `times=None`.

    Source: https://cloud.google.com/storage/quotas
    """
    written_s: dict[str, float] = {}
    lock = threading.Lock()

    def too_early(asked: Asked) -> bool:
        if not asked.changes:
            return False
        with lock:
            early = asked.at_s - written_s.get(asked.changes, float("-inf")) < _MUTATION_PERIOD_S
            if not early:
                written_s[asked.changes] = asked.at_s
            return early

    return Fault(name="one write per second", answer=answers.too_many_requests(), only_if=too_early)


# -- connections ---------------------------------------------------------------------------------------------------------


def silence() -> Fault:
    """Accept the request's head and say nothing; the body is not read and nothing reaches the upstream."""
    return Fault(name="silence", ending="silence", drain=False)


def dropped(how: Ending = "reset") -> Fault:
    """Hang up instead of answering, before the body is read or, by `close`, behind it; nothing reaches the upstream."""
    return Fault(name=f"dropped by {how}", ending=how, drain=how == "close")


def broken_after(count: int, *, direction: Direction = "down", how: Ending = "reset") -> Fault:
    """Break off behind so many bytes of a body, 0 or more. A body that is shorter goes well.

    A body cut by `how="close"` is short of its Content-Length; by `silence` the rest never comes.
    """

    def change(pieces: Pieces, wait: Wait) -> Pieces:
        del wait
        left = count
        for piece in pieces:
            if len(piece) > left:
                yield piece[:left]
                raise EndedError(how)
            left -= len(piece)
            yield piece

    return _changing(f"{direction}: {how} after {count} bytes", direction, change)


def broken_every(count: int, *, direction: Direction = "down", how: Ending = "reset") -> Fault:
    """Break off whenever so many bytes have passed, 1 or more, counted over all requests. Inject it with `times=None`."""
    lock = threading.Lock()
    passed = 0

    def allowed(size: int) -> int:
        """Count a piece, and tell how much of it still passes."""
        nonlocal passed
        with lock:
            room = count - passed
            passed = 0 if size > room else passed + size
            return min(size, room)

    def change(pieces: Pieces, wait: Wait) -> Pieces:
        del wait
        for piece in pieces:
            room = allowed(len(piece))
            yield piece[:room]
            if room < len(piece):
                raise EndedError(how)

    return _changing(f"{direction}: {how} every {count} bytes", direction, change)


# -- pace ----------------------------------------------------------------------------------------------------------------


def delay(seconds_s: float) -> Fault:
    """Pass the request on later."""
    return Fault(name=f"delayed {seconds_s} s", delay_s=seconds_s)


def pace(bytes_per_s: float, *, direction: Direction = "down") -> Fault:
    """Let a body pass no faster than this; 1000 is a drip that no silence timeout notices. Each request has its own pace."""
    size = max(1, int(bytes_per_s / _PACE_PIECES_PER_S))

    def change(pieces: Pieces, wait: Wait) -> Pieces:
        for piece in pieces:
            for start in range(0, len(piece), size):
                some = piece[start : start + size]
                wait(len(some) / bytes_per_s)
                yield some

    return _changing(f"{direction}: {bytes_per_s:g} bytes/s", direction, change)


# -- content -------------------------------------------------------------------------------------------------------------


def flipped_bit(offset: int = 0, *, direction: Direction = "down") -> Fault:
    """Flip the lowest bit of the byte at this offset of a body. A body that is shorter stays as it is."""

    def change(pieces: Pieces, wait: Wait) -> Pieces:
        del wait
        at = 0
        for piece in pieces:
            yield flip(piece, offset - at)
            at += len(piece)

    return _changing(f"{direction}: bit flipped at {offset}", direction, change)


def flip(data: bytes, at: int) -> bytes:
    """Flip the lowest bit of one byte; nothing when it lies outside."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] if 0 <= at < len(data) else data


def condition_ignored() -> Fault:
    """Take the condition off a request, as services do that ignore what they do not know. For puts of S3 and GCS.

    S3 clients sign the header: a service that checks signatures refuses the request instead.
    """

    def without_condition(head: Head) -> Head:
        method, target, version = head.start.split(" ")
        url = urlsplit(target)
        query = "&".join(word for word in url.query.split("&") if not word.startswith("ifGenerationMatch="))
        target = url._replace(query=query).geturl()
        kept = head.without("if-none-match", "x-goog-if-generation-match")
        return Head(f"{method} {target} {version}", kept.fields)

    return Fault(name="condition ignored", rewrite=without_condition)


def late_duplicate(before: str = r"partNumber=", *, flip: int | None = None) -> Fault:
    """Let the request arrive a second time, right before the next one that fits `before`.

    A network that repeats what it delayed does this to a part whose first sending timed out. Its body is kept meanwhile, so
    it may have 64 MiB at most; larger ones arrive once. What the upstream answers to it is read by nobody.

    Args:
        before: regular expression on `METHOD target`.
        flip: offset of a byte that is another one the second time, as in a part that a writer of before has sent.
    """
    return Fault(name="arrives again later", again=Duplicate(before=re.compile(before), flip=flip))


def _changing(name: str, direction: Direction, change: Change) -> Fault:
    """A fault that changes one direction."""
    return Fault(name=name, up=change if direction == "up" else None, down=change if direction == "down" else None)
