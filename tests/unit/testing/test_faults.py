from __future__ import annotations

import subprocess
import sys

import pytest

from ckptsync.errors import ConflictError, TransientError
from ckptsync.store.memory import MemoryStore
from ckptsync.testing import faults
from ckptsync.testing.clock import FakeClock
from ckptsync.testing.faults import Faulty, Killed


@pytest.fixture
def store() -> Faulty:
    return Faulty(MemoryStore())


def test_an_error_before_leaves_the_store_as_it_was(store: Faulty) -> None:
    store.inject(faults.error(), verb="put")
    with pytest.raises(TransientError, match="injected"):
        store.put("a", b"1")
    assert list(store.list("")) == []
    store.put("a", b"1")
    assert store.read("a") == b"1"


def test_a_lost_answer_took_effect(store: Faulty) -> None:
    store.inject(faults.lost_answer(), verb="put", key="manifests/*")
    store.put("data/x", b"")
    with pytest.raises(TransientError):
        store.put("manifests/x", b"1", if_absent=True)
    with pytest.raises(ConflictError):
        store.put("manifests/x", b"1", if_absent=True)


def test_a_rule_strikes_after_it_skipped_and_only_so_often(store: Faulty) -> None:
    store.inject(faults.throttled(retry_after_s=3), verb="put", skip=1, times=2)
    store.put("a", b"")
    for _ in range(2):
        with pytest.raises(TransientError) as caught:
            store.put("a", b"")
        assert caught.value.throttled
        assert caught.value.retry_after_s == 3
    store.put("a", b"")


@pytest.mark.parametrize("verb", ["get", "read"])
def test_a_bit_flips_on_the_way_back_and_the_store_keeps_the_right_one(store: Faulty, verb: str) -> None:
    store.put("a", b"\x00\x00\x00")
    store.inject(faults.flipped_bit(1), verb=verb)
    seen = [_fetched(store, verb), _fetched(store, verb)]
    assert seen == [b"\x00\x01\x00", b"\x00\x00\x00"]


def _fetched(store: Faulty, verb: str) -> bytes:
    if verb == "read":
        return store.read("a")
    into = bytearray(3)
    assert store.get("a", memoryview(into)) == 3
    return bytes(into)


@pytest.mark.parametrize("verb", ["put", "put_part"])
def test_a_bit_flips_on_the_way_there_and_the_caller_keeps_the_right_one(store: Faulty, verb: str) -> None:
    data = bytearray(b"\x00\x00")
    store.inject(faults.flipped_bit(sent=True), verb=verb)
    if verb == "put":
        store.put("a", data)
    else:
        upload = store.begin("a")
        store.finish(upload, [store.put_part(upload, 1, data)])
    assert store.read("a") == b"\x01\x00"
    assert data == b"\x00\x00"


def test_a_body_ends_early_and_tells_how_much_is_good(store: Faulty) -> None:
    store.put("a", b"abcdef")
    store.inject(faults.short_body(2), verb="get")
    into = bytearray(6)
    with pytest.raises(TransientError) as caught:
        store.get("a", memoryview(into))
    assert caught.value.received == 2
    assert bytes(into) == b"ab\0\0\0\0"


def test_time_passes_on_the_clock_that_was_given(store: Faulty) -> None:
    clock = FakeClock()
    store.inject(faults.delay(7.0, clock))
    store.put("a", b"")
    store.inject(faults.silence(3.0, clock))
    with pytest.raises(TransientError, match=r"3\.0 s"):
        store.put("b", b"")
    assert clock.slept_s == [7.0, 3.0]


def test_death_is_no_exception_that_code_catches(store: Faulty) -> None:
    store.inject(faults.death(), verb="list")
    with pytest.raises(Killed):
        list(store.list(""))
    assert not issubclass(Killed, Exception)


def test_sigkill_ends_the_process() -> None:
    code = """
from ckptsync.store.memory import MemoryStore
from ckptsync.testing import faults
store = faults.Faulty(MemoryStore())
store.inject(faults.sigkill(after=True), verb="stat")
store.put("a", b"")
print("put", flush=True)
store.stat("a")
print("never")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-9, "put\n")


def test_every_request_is_noted_in_order_without_its_bytes(store: Faulty) -> None:
    store.put("a", b"1")
    store.get("a", memoryview(bytearray(1)))
    store.delete(["a", "b"])
    assert [(call.number, call.verb, call.key, call.data) for call in store.calls] == [
        (1, "put", "a", None),
        (2, "get", "a", None),
        (3, "delete", "a", None),
    ]
