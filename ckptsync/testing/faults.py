"""A store that fails as buckets do: on purpose, at a chosen request, before or after it took effect.

    store = Faulty(MemoryStore())
    store.inject(lost_answer(), verb="put", key="manifests/*")          # the commit happens, its answer does not arrive
    store.inject(throttled(retry_after_s=5), verb="put_part", times=3)  # three times "slow down", then all is well

What goes wrong on the wire, between a client and a real server, is the proxy's part (`ckptsync.testing.proxy`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, NoReturn, TypeVar

from ckptsync.clock import SYSTEM, Clock
from ckptsync.errors import StoreError, TransientError
from ckptsync.store.base import Buffer, PartTag, Stat, Store, StoreWrapper, Tag, Upload

T = TypeVar("T")
Moment = Literal["before", "after"]


class Killed(BaseException):
    """What ends a call as SIGKILL would, inside one process."""


@dataclass(slots=True)
class Call:
    """One request, as a fault sees it.

    Attributes:
        number: 1 for the first request of the store, whatever its verb.
        verb: name of the method, as in `put_part`.
        key: the object's, the upload's, or the prefix of a listing; of a deletion the first.
        data: what `put` and `put_part` send, or `get` and `read` brought; a fault may put other bytes in its place, of the
            same length but for `read`. None for other verbs.
    """

    number: int
    verb: str
    key: str
    data: Buffer | None = None


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong with one request.

    Attributes:
        act: raises, sleeps, or changes `call.data`.
        moment: `before` the inner store is asked (the request has no effect when the fault raises), or `after` it answered
            (the request took effect, and its answer is lost when the fault raises).
    """

    act: Callable[[Call], None]
    moment: Moment = "before"


@dataclass(slots=True)
class Rule:
    """When a fault strikes.

    Attributes:
        fault: what happens.
        verb: of the request; empty means any.
        key: shell pattern of the key.
        skip: so many requests that fit go well first.
        times: so many after those are struck; None for all.
    """

    fault: Fault
    verb: str = ""
    key: str = "*"
    skip: int = 0
    times: int | None = 1
    seen: int = field(default=0, repr=False)

    def strikes(self, call: Call, moment: Moment) -> bool:
        """Count a request that fits, and tell whether the fault strikes it."""
        if moment != self.fault.moment or self.verb not in {"", call.verb} or not fnmatchcase(call.key, self.key):
            return False
        self.seen += 1
        return self.skip < self.seen and (self.times is None or self.seen <= self.skip + self.times)


class Faulty(StoreWrapper):
    """Notes every request, and lets faults strike those that a rule names. Safe for many threads."""

    def __init__(self, inner: Store) -> None:
        """Begin with no rules."""
        super().__init__(inner)
        self.calls: list[Call] = []
        self._rules: list[Rule] = []
        self._lock = threading.Lock()

    def inject(self, fault: Fault, *, verb: str = "", key: str = "*", skip: int = 0, times: int | None = 1) -> Rule:
        """Add a `Rule` made of these; of several that fit a request, all strike, in the order they were added."""
        rule = Rule(fault, verb, key, skip, times)
        with self._lock:
            self._rules.append(rule)
        return rule

    def heal(self) -> None:
        """Forget rules and calls."""
        with self._lock:
            self._rules, self.calls = [], []

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        """Note a request, and let the faults at it."""
        call = self._noted(verb, key)
        self._strike(call, "before")
        answer = request()
        self._strike(call, "after")
        return answer

    def put(self, key: str, data: Buffer, *, if_absent: bool = False) -> Stat:
        """As the inner store's, with what the faults make of `data`."""
        call = self._noted("put", key, data)
        self._strike(call, "before")
        answer = self.inner.put(key, call.data if call.data is not None else data, if_absent=if_absent)
        self._strike(call, "after")
        return answer

    def put_part(self, upload: Upload, number: int, data: Buffer) -> PartTag:
        """As the inner store's, with what the faults make of `data`."""
        call = self._noted("put_part", upload.key, data)
        self._strike(call, "before")
        answer = self.inner.put_part(upload, number, call.data if call.data is not None else data)
        self._strike(call, "after")
        return answer

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        """As the inner store's; what arrived is the faults' to change."""
        call = self._noted("get", key)
        self._strike(call, "before")
        count = self.inner.get(key, into, offset=offset, tag=tag)
        call.data = into[:count]
        self._strike(call, "after")
        call.data = None  # no view of the caller's memory is kept
        return count

    def read(self, key: str) -> bytes:
        """As the inner store's; what arrived is the faults' to change."""
        call = self._noted("read", key)
        self._strike(call, "before")
        call.data = self.inner.read(key)
        self._strike(call, "after")
        content, call.data = call.data, None
        return bytes(content)

    def _noted(self, verb: str, key: str, data: Buffer | None = None) -> Call:
        """Number a request."""
        with self._lock:
            call = Call(len(self.calls) + 1, verb, key, data)
            self.calls.append(Call(call.number, verb, key))
        return call

    def _strike(self, call: Call, moment: Moment) -> None:
        """Let every fault act whose rule fits."""
        with self._lock:
            faults = [rule.fault for rule in self._rules if rule.strikes(call, moment)]
        for fault in faults:
            fault.act(call)


# -- faults --------------------------------------------------------------------------------------------------------------


def error(kind: type[BaseException] = TransientError, *, after: bool = False) -> Fault:
    """Fail with an error of that kind; with `after` only its answer does."""

    def fail(call: Call) -> NoReturn:
        if issubclass(kind, StoreError):
            raise kind("injected", op=call.verb, key=call.key)
        raise kind("injected")

    return Fault(fail, "after" if after else "before")


def lost_answer() -> Fault:
    """Let the request take effect, and its answer get lost."""
    return error(TransientError, after=True)


def throttled(retry_after_s: float | None = None) -> Fault:
    """Ask for a slower pace, as S3's 503 SlowDown and a 429 do."""

    def fail(call: Call) -> NoReturn:
        raise TransientError(
            "injected: slow down", op=call.verb, key=call.key, throttled=True, retry_after_s=retry_after_s
        )

    return Fault(fail)


def delay(seconds_s: float, clock: Clock = SYSTEM) -> Fault:
    """Take longer."""
    return Fault(lambda _: clock.sleep(seconds_s))


def silence(read_timeout_s: float, clock: Clock = SYSTEM) -> Fault:
    """Say nothing until the client's patience ends, then fail as a read timeout does."""

    def wait(call: Call) -> NoReturn:
        clock.sleep(read_timeout_s)
        raise TransientError(f"injected: no answer within {read_timeout_s} s", op=call.verb, key=call.key)

    return Fault(wait)


def short_body(received: int) -> Fault:
    """Break a `get` after so many bytes; what came is good, the rest of the memory is not touched for good."""

    def cut(call: Call) -> NoReturn:
        count = min(received, len(call.data or b""))
        if isinstance(call.data, memoryview):
            call.data[count:] = bytes(len(call.data) - count)
        raise TransientError("injected: the body ended early", op=call.verb, key=call.key, received=count)

    return Fault(cut, "after")


def flipped_bit(offset: int = 0, *, sent: bool = False) -> Fault:
    """Flip the lowest bit of one byte: of what arrived, or with `sent` of what is sent. Empty data stays as it is."""

    def flip(call: Call) -> None:
        if not call.data:
            return
        at = offset % len(call.data)
        if isinstance(call.data, memoryview) and not sent:
            call.data[at] ^= 1
        else:
            changed = bytearray(call.data)
            changed[at] ^= 1
            call.data = changed

    return Fault(flip, "before" if sent else "after")


def death(*, after: bool = False) -> Fault:
    """End the call as SIGKILL would, by an exception that nothing catches; with `after`, once the request took effect."""
    return error(Killed, after=after)


def sigkill(*, after: bool = False) -> Fault:
    """End this process, truly; with `after`, once the request took effect."""

    def kill(call: Call) -> None:
        del call
        os.kill(os.getpid(), signal.SIGKILL)

    return Fault(kill, "after" if after else "before")


def sigstop(*, after: bool = False) -> Fault:
    """Stop this process until somebody sends it SIGCONT: a machine that was thought dead and wakes up."""

    def stop(call: Call) -> None:
        del call
        os.kill(os.getpid(), signal.SIGSTOP)

    return Fault(stop, "after" if after else "before")
