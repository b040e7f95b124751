from __future__ import annotations

import threading

import pytest

from ckptsync.options import MIB, Config, Transfer
from ckptsync.store import open_store
from ckptsync.store.bandwidth import Bandwidth
from ckptsync.store.base import Store
from ckptsync.testing.clock import FakeClock

RATE = 10 * MIB
PART = bytes(5 * MIB)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock, request: pytest.FixtureRequest) -> Store:
    config = Config(transfer=Transfer(max_bytes_per_s=RATE))
    return open_store(f"memory://{request.node.name}", config, clock=clock)


def test_several_parts_up_and_down_share_the_rate(store: Store, clock: FakeClock) -> None:
    upload = store.begin("k")
    parts = [store.put_part(upload, number, PART) for number in range(1, 9)]
    store.finish(upload, parts)
    store.put("small", PART)
    into = bytearray(len(PART))
    for number in range(8):
        store.get("k", memoryview(into), offset=number * len(PART))
    assert store.read("small") == PART
    assert clock.monotonic() == pytest.approx(18 * len(PART) / RATE, rel=0.1)


def test_an_idle_time_is_made_up_for_by_one_second_at_most(store: Store, clock: FakeClock) -> None:
    store.put("k", PART)
    clock.advance(100)
    before_s = clock.monotonic()
    for _ in range(4):
        store.put("k", PART)
    assert clock.monotonic() - before_s == pytest.approx(4 * len(PART) / RATE - 1)


def test_threads_share_the_rate() -> None:
    clock = FakeClock()
    bandwidth = Bandwidth(1000, clock=clock)
    waited_s: list[float] = []
    threads = [
        threading.Thread(target=lambda: waited_s.extend(bandwidth.take(10) for _ in range(50))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # whoever sleeps on this clock moves the time on for all, so that no one waits for more than one turn of each
    assert clock.monotonic() == pytest.approx(4.0, rel=0.1)
    assert max(waited_s) <= 0.08 + 1e-9


def test_without_an_option_there_is_no_cap(clock: FakeClock) -> None:
    with open_store("memory://free", clock=clock) as store:
        store.put("k", PART)
        assert store.read("k") == PART
    assert clock.slept_s == []
