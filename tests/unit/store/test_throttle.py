from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest
from support.clocks import FastClock, SimulatedClock

from ckptsync.clock import Clock
from ckptsync.errors import DeniedError, TransientError
from ckptsync.events import Event, Kind
from ckptsync.options import MIB, Config, Retry, Transfer
from ckptsync.run import run_on
from ckptsync.store import open_store, retry, throttle
from ckptsync.store.base import Stat, Store, StoreWrapper
from ckptsync.store.memory import MemoryStore
from ckptsync.store.retry import Retrying
from ckptsync.store.throttle import Limiter, Throttled
from ckptsync.testing.clock import FakeClock
from ckptsync.testing.faults import Faulty, Killed, error, throttled
from ckptsync.verbs.save import save

T = TypeVar("T")
MOST = 10


class Bench:
    """A store that fails on purpose behind a limiter, a clock that stands still, and what was told."""

    def __init__(self, most: int = MOST) -> None:
        self.clock = FakeClock()
        self.events: list[Event] = []
        self.inner = Faulty(MemoryStore())
        self.limiter = Limiter(most, longest_pause_s=600.0, clock=self.clock, observer=self.events.append)
        self.store = Throttled(self.inner, self.limiter)

    def reject(self, requests: int = 1, retry_after_s: float | None = None) -> None:
        """Let requests be rejected, one after the other."""
        self.inner.inject(throttled(retry_after_s), times=requests)
        for _ in range(requests):
            with pytest.raises(TransientError):
                self.store.put("k", b"")

    def succeed(self, requests: int) -> None:
        for _ in range(requests):
            self.store.put("k", b"")


@pytest.fixture
def bench() -> Bench:
    return Bench()


def together(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Meeting(StoreWrapper):
    """Lets no request answer before all of them are there."""

    def __init__(self, inner: Store, count: int) -> None:
        super().__init__(inner)
        self.barrier = threading.Barrier(count, timeout=10)

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        del verb, key
        self.barrier.wait()
        return request()


@pytest.mark.req(19)
def test_rejections_of_requests_that_were_under_way_together_halve_once(bench: Bench) -> None:
    bench.inner.inject(throttled(), times=8)
    store = Throttled(Meeting(bench.inner, 8), bench.limiter)
    rejected: list[int] = []

    def ask(number: int) -> None:
        with pytest.raises(TransientError):
            store.put("k", b"")
        rejected.append(number)

    together(8, ask)
    assert len(rejected) == 8
    assert bench.limiter.limit == MOST // 2


def test_each_round_halves_down_to_one(bench: Bench) -> None:
    limits = []
    for _ in range(5):
        bench.reject()
        limits.append(bench.limiter.limit)
    assert limits == [5, 2, 1, 1, 1]


def test_growth_is_by_one_after_as_many_successes_as_the_limit(bench: Bench) -> None:
    bench.reject(2)
    limits = []
    for _ in range(2 + 3 + 4):
        bench.succeed(1)
        limits.append(bench.limiter.limit)
    assert limits == [2, 3, 3, 3, 4, 4, 4, 4, 5]
    bench.succeed(1000)
    assert bench.limiter.limit == MOST


def test_only_throttling_counts(bench: Bench) -> None:
    for kind in (TransientError, DeniedError, Killed, KeyboardInterrupt):
        bench.inner.inject(error(kind))
        with pytest.raises(kind):
            bench.store.put("k", b"")
    assert bench.limiter.limit == MOST
    bench.reject(5)
    bench.succeed(1)  # no place was lost
    assert bench.events[1:] == []


def test_the_first_halving_and_the_way_back_are_told_once(bench: Bench) -> None:
    for _ in range(2):
        bench.reject(3)
        bench.succeed(3)
        bench.reject(2)
        bench.succeed(1000)
    assert [event.kind for event in bench.events] == [Kind.NOTICE] * 4
    slower, back = bench.events[0].message, bench.events[1].message
    assert "5 requests at once instead of 10" in slower
    assert "full pace again: up to 10" in back
    alone = Bench(most=1)
    alone.reject(3)
    assert len(alone.events) == 1


@pytest.mark.req(19)
def test_a_pause_the_service_names_is_everyones(bench: Bench) -> None:
    bench.reject(retry_after_s=30.0)
    bench.clock.advance(10.0)
    bench.succeed(1)
    assert bench.clock.slept_s == [20.0]
    bench.succeed(1)
    assert bench.clock.slept_s == [20.0]


def test_a_pause_longer_than_anyone_would_wait_is_left_to_who_was_told(bench: Bench) -> None:
    bench.reject(retry_after_s=600.0)
    bench.succeed(1)
    assert bench.clock.slept_s == []


def test_no_more_than_the_limit_are_under_way_and_the_first_to_come_goes_first(bench: Bench) -> None:
    bench.reject(4)
    assert bench.limiter.limit == 1
    order: list[int] = []
    under_way, most = [0], [0]
    threads: list[threading.Thread] = []
    hold = threading.Event()

    def ask(number: int) -> None:
        with bench.limiter.permit(counts=False):
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
            order.append(number)
            hold.wait(10)
            under_way[0] -= 1

    for number in range(6):
        threads.append(threading.Thread(target=ask, args=(number,)))
        threads[-1].start()
        while len(order) + len(bench.limiter._waiting) <= number:
            threading.Event().wait(0.001)
    hold.set()
    for thread in threads:
        thread.join()
    assert (order, most) == ([0, 1, 2, 3, 4, 5], [1])


def test_a_request_inside_the_iteration_of_another_does_not_wait_for_it(bench: Bench) -> None:
    for number in range(4):
        bench.store.put(f"p/{number}", b"x")
        bench.store.begin(f"p/{number}")
    bench.reject(4)
    assert bench.limiter.limit == 1
    read = []
    for found in bench.store.list("p/"):
        assert [other.key for other in bench.store.list(found.key)] == [found.key]
        read.append(bench.store.read(found.key))
    for upload in bench.store.uploads("p/"):
        bench.store.abort(upload)
    bench.store.delete(found.key for found in bench.store.list("p/"))
    assert read == [b"x"] * 4
    assert list(bench.store.list("p/")) == []


def test_a_listing_is_lazy_and_counts_once_a_page(bench: Bench) -> None:
    for number in range(1500):
        bench.inner.put(f"{number:04d}", b"")
    bench.reject()
    asked: list[Stat] = []

    def inner(*_: object, **__: object) -> Iterator[Stat]:
        for found in MemoryStore.list(bench.inner.inner, ""):  # type: ignore[arg-type]
            asked.append(found)
            yield found

    bench.inner.list = inner  # type: ignore[method-assign]
    entries = bench.store.list("")
    assert asked == []
    next(entries)
    assert len(asked) == 1
    assert len(list(entries)) >= 1499
    assert (bench.limiter.limit, bench.limiter._successes) == (5, 2)


def test_a_listing_that_is_throttled_halfway_halves(bench: Bench) -> None:
    def inner(*_: object, **__: object) -> Iterator[Stat]:
        yield bench.inner.inner.put("k", b"")
        raise TransientError("slow", throttled=True)

    bench.inner.list = inner  # type: ignore[method-assign]
    entries = bench.store.list("")
    assert next(entries).key == "k"
    with pytest.raises(TransientError):
        next(entries)
    assert bench.limiter.limit == MOST // 2


@pytest.mark.parametrize("had_its_turn", [False, True])
def test_an_interrupted_wait_takes_no_ones_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, *, had_its_turn: bool
) -> None:
    bench.reject(4)

    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            del timeout
            if had_its_turn:
                inside.__exit__(None, None, None)
            raise KeyboardInterrupt

    inside = bench.limiter.permit()
    inside.__enter__()
    with monkeypatch.context() as patch:
        patch.setattr(throttle, "threading", SimpleNamespace(Event=Interrupted))
        with pytest.raises(KeyboardInterrupt), bench.limiter.permit():
            pytest.fail("it was not its turn")
    if not had_its_turn:
        inside.__exit__(None, None, None)
    assert (bench.limiter._under_way, len(bench.limiter._waiting)) == (0, 0)
    bench.succeed(1)


def test_after_a_fork_nothing_is_under_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.reject(4)
    with bench.limiter.permit():  # in the parent
        monkeypatch.setattr(throttle.os, "getpid", lambda: -1)
        bench.succeed(1)  # in the child, whose limit is 1 as well


@pytest.mark.req(19)
def test_waiting_for_a_turn_does_not_count_against_the_deadline(bench: Bench) -> None:
    store = Retrying(
        bench.store, Retry(attempts=3, deadline_s=60.0, base_s=0.001), clock=bench.clock, observer=lambda _: None
    )
    bench.reject(retry_after_s=590.0)
    bench.inner.inject(error(TransientError))
    store.put("k", b"")
    assert bench.clock.monotonic() >= 590.0
    bench.inner.inject(error(TransientError), times=None)
    with pytest.raises(TransientError) as caught:
        store.put("k", b"")
    assert caught.value.attempts == 3


@pytest.mark.req(19)
def test_throttled_tries_are_bounded_by_time_and_not_by_number(bench: Bench) -> None:
    config = Retry(attempts=2, base_s=1.0, cap_s=5.0, deadline_s=100.0)
    store = Retrying(bench.store, config, clock=bench.clock, observer=lambda _: None)
    bench.inner.inject(throttled(), times=12)
    store.put("k", b"")
    bench.inner.inject(throttled(), times=None)
    with pytest.raises(TransientError) as caught:
        store.put("k", b"")
    assert caught.value.attempts > 10
    assert bench.clock.monotonic() < 200.0


def test_an_opened_store_has_one_limiter_inside_its_retries(request: pytest.FixtureRequest) -> None:
    with open_store(f"memory://{request.node.name}", Config(transfer=Transfer(workers=5))) as store:
        assert isinstance(store, Retrying)
        assert isinstance(store.inner, Throttled)
        assert store.inner.limiter.limit == 7


# -- an outage, and too many ranks ----------------------------------------------------------------------------------------


class Outage(StoreWrapper):
    """Takes a while for each request, and asks for a slower pace during a span of time."""

    def __init__(self, inner: Store, clock: Clock, *, begins_s: float, lasts_s: float, takes_s: float) -> None:
        super().__init__(inner)
        self.clock, self.begins_s, self.ends_s, self.takes_s = clock, begins_s, begins_s + lasts_s, takes_s
        self.lock = threading.Lock()
        self.asked: list[tuple[float, int]] = []  # when, and how many were under way
        self.under_way = 0

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        with self.lock:
            now_s = self.clock.monotonic()
            self.under_way += 1
            self.asked.append((now_s, self.under_way))
        self.clock.sleep(self.takes_s)
        with self.lock:
            self.under_way -= 1
        if self.begins_s <= now_s < self.ends_s:
            raise TransientError("slow down", op=verb, key=key, throttled=True)
        return request()

    def rate(self, first_s: float, last_s: float) -> float:
        """Requests a second in a span of time."""
        return len(self.crowd(first_s, last_s)) / (last_s - first_s)

    def crowd(self, first_s: float, last_s: float) -> list[int]:
        """How many were under way with each request of such a span."""
        return [count for asked_s, count in self.asked if first_s <= asked_s < last_s]


@pytest.mark.req(19)
def test_a_save_outlives_a_minute_of_slow_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    clock, events = FastClock(60.0), list[Event]()
    outage = Outage(MemoryStore(clock=clock), clock, begins_s=10.0, lasts_s=60.0, takes_s=0.2)
    config = Config(transfer=Transfer(workers=8, part_bytes=MIB), state_dir=str(tmp_path / "state"))
    limiter = Limiter(10, longest_pause_s=600.0, clock=clock, observer=events.append)
    store = Retrying(Throttled(outage, limiter), config.retry, clock=clock, observer=lambda _: None)
    (tmp_path / "model.bin").write_bytes(bytes(40 * MIB))
    while not outage.crowd(75.0, float("inf")):
        saved = save(run_on(store, config, observer=events.append, clock=clock), tmp_path / "model.bin", step=1)
        assert saved.bytes == 40 * MIB
    assert outage.crowd(40.0, 70.0) == [1] * len(outage.crowd(40.0, 70.0))
    assert sum("slower pace" in event.message for event in events) == 1


@pytest.mark.req(19)
def test_the_rate_falls_during_an_outage_and_recovers_slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_DICE", random.Random(7))
    clock = SimulatedClock()
    monkeypatch.setattr(throttle, "threading", SimpleNamespace(Event=clock.event, Lock=threading.Lock))
    outage = Outage(MemoryStore(), clock, begins_s=10.0, lasts_s=60.0, takes_s=0.2)
    limiter = Limiter(10, longest_pause_s=600.0, clock=clock, observer=lambda _: None)
    store = Retrying(Throttled(outage, limiter), Retry(), clock=clock, observer=lambda _: None)
    parts = iter(range(1500))

    def work() -> None:
        for part in parts:
            store.put(f"{part}", b"")

    clock.run([work] * 8)
    assert len(list(outage.inner.list(""))) == 1500
    assert outage.rate(0.0, 10.0) == pytest.approx(40.0, rel=0.1)  # 8 at once, 0.2 s each
    assert outage.rate(10.0, 20.0) < 40.0 / 5
    assert outage.rate(40.0, 70.0) < 40.0 / 30
    assert set(outage.crowd(40.0, 70.0)) == {1}
    assert max(outage.crowd(70.0, 72.0)) < 4
    ended_s = clock.monotonic()
    assert outage.rate(ended_s - 5.0, ended_s - 1.0) == pytest.approx(40.0, rel=0.1)


class Bucketful(StoreWrapper):
    """Takes so many requests a second and no more, as a service's request rate limit does."""

    def __init__(self, inner: Store, clock: Clock, *, per_s: float, burst: float) -> None:
        super().__init__(inner)
        self.clock, self.per_s, self.burst = clock, per_s, burst
        self.tokens, self.since_s = burst, 0.0
        self.answers: list[bool] = []

    def around(self, verb: str, key: str, request: Callable[[], T]) -> T:
        now_s = self.clock.monotonic()
        self.tokens = min(self.burst, self.tokens + (now_s - self.since_s) * self.per_s)
        self.since_s = now_s
        self.answers.append(self.tokens >= 1)
        if self.tokens < 1:
            self.clock.sleep(0.01)
            raise TransientError("slow down", op=verb, key=key, throttled=True)
        self.tokens -= 1
        self.clock.sleep(0.05)
        return request()


@pytest.mark.req(19)
def test_a_hundred_ranks_share_a_bucket_that_takes_twenty_requests_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_DICE", random.Random(7))
    clock = SimulatedClock()
    bucket = Bucketful(MemoryStore(), clock, per_s=20.0, burst=20.0)
    ended_s: list[float] = []

    def rank(number: int) -> Callable[[], None]:
        limiter = Limiter(10, longest_pause_s=600.0, clock=clock, observer=lambda _: None)
        store = Retrying(Throttled(bucket, limiter), Retry(), clock=clock, observer=lambda _: None)

        def work() -> None:
            for part in range(20):
                store.put(f"{number:03d}/{part:02d}", b"")
            ended_s.append(clock.monotonic())

        return work

    monkeypatch.setattr(throttle, "threading", SimpleNamespace(Event=clock.event, Lock=threading.Lock))
    clock.run([rank(number) for number in range(100)])
    assert len(ended_s) == 100
    assert len(list(bucket.inner.list(""))) == 2000
    ideal_s = 2000 / 20.0
    assert ideal_s * 0.9 < max(ended_s) < ideal_s * 2.5, (max(ended_s), len(bucket.answers))
    # full jitter keeps what is rejected to a share of what is sent
    assert bucket.answers.count(False) < 2 * 2000, bucket.answers.count(False)
