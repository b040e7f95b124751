"""What `bench` measures, and that it leaves nothing behind."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptsync.errors import ConfigError, IntegrityError, StoreError
from ckptsync.options import MIB
from ckptsync.store.base import StoreWrapper, Tag
from ckptsync.transfer import workers
from ckptsync.transfer.source import Identity
from ckptsync.verbs import bench as verb_of_bench
from ckptsync.verbs.bench import _Noise, bench
from ckptsync.verbs.gc import collect
from ckptsync.verbs.listing import rows
from ckptsync.verbs.status import status

SIZE = 12 * MIB + 3


@pytest.fixture
def small(run_with: Any) -> Any:
    return run_with(part_bytes=5 * MIB, workers=2)


def test_three_rates_and_nothing_left(small: Any, make: Any, store: Any, clock: Any) -> None:
    store.after = lambda verb, _: clock.advance(1.0) if verb in {"put_part", "get"} else None
    found = bench(small, size_bytes=SIZE)
    assert [rate.direction for rate in found] == ["upload", "download", "verify"]
    assert {rate.bytes for rate in found} == {SIZE}
    assert (found[0].seconds, found[1].seconds) == (3.0, 3.0)
    assert found[0].mib_per_s == 4.0
    assert all(rate.cpu_s_per_gb >= 0 for rate in found)
    assert store.count()["put_part"] == 3
    assert make.there() == []


def test_part_size_and_workers_can_be_chosen(small: Any, store: Any) -> None:
    bench(small, size_bytes=SIZE, part_bytes=6 * MIB, workers=1)
    assert store.count()["put_part"] == 3
    store.heal()
    bench(small, size_bytes=SIZE, part_bytes=16 * MIB)
    assert store.count()["put_part"] == 0


def test_noise_is_not_compressed_whatever_the_options_say(
    run_with: Any, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)  # nor is it needed
    bench(run_with(part_bytes=5 * MIB, workers=2, compress="zstd"), size_bytes=SIZE)
    assert store.count()["put_part"] == 3


@pytest.mark.parametrize(
    "options", [{"size_bytes": 0}, {"size_bytes": 1, "part_bytes": 1}, {"size_bytes": 1, "workers": 0}]
)
def test_arguments_out_of_range(small: Any, make: Any, options: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        bench(small, **options)
    assert make.there() == []


@pytest.mark.parametrize("verb", ["put_part", "finish", "get"])
def test_an_error_leaves_nothing(small: Any, make: Any, store: Any, verb: str) -> None:
    make.snapshot(1)
    before = make.there()
    store.fail(verb, StoreError("no"))
    real, store.before = store.before, None

    def once(called: str, key: str) -> None:
        if key.endswith("bench.bin"):
            real(called, key)

    store.before = once
    with pytest.raises(StoreError, match="no"):
        bench(small, size_bytes=SIZE)
    store.heal()
    assert make.there() == before
    assert list(small.store.uploads("")) == []


def test_after_a_kill_gc_cleans_up_and_nobody_takes_it_for_a_snapshot(
    small: Any, make: Any, store: Any, clock: Any, killed: Any
) -> None:
    make.snapshot(1)
    before = make.there()

    def kill(verb: str, key: str) -> None:
        del key
        if verb == "finish" or dead:
            dead.append(verb)
            raise killed

    dead: list[str] = []
    store.before = kill
    with pytest.raises(killed):
        bench(small, size_bytes=SIZE)
    store.heal()
    assert len(list(small.store.uploads(""))) == 1
    assert len(list(rows(small))) == 1
    assert status(small).pending == ()
    assert collect(small, None, grace_s=60, dry_run=False).orphans == ()
    clock.advance(61)
    found = collect(small, None, grace_s=60, dry_run=False)
    assert (len(found.orphans), found.uploads_aborted) == (1, 1)
    assert make.there() == before


@pytest.fixture
def interruptible() -> Iterator[None]:
    """SIGINT as in a terminal: who is started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_waits_for_what_is_under_way_and_leaves_nothing(
    small: Any, make: Any, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that goes on would leave an upload of which gc knows nothing."""
    cleaning, erased = threading.Event(), threading.Event()
    real = verb_of_bench._erase

    def settled(patience_s: float) -> bool:
        cleaning.set()
        return workers.settled(patience_s)

    def erase(*arguments: Any) -> None:
        real(*arguments)
        erased.set()

    def interrupt(verb: str, _: str) -> None:
        if verb == "begin":
            _thread.interrupt_main()
            assert cleaning.wait(30)
            erased.wait(0.2)  # never, unless it went wrong

    monkeypatch.setattr(verb_of_bench, "settled", settled)
    monkeypatch.setattr(verb_of_bench, "_erase", erase)
    store.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench(small, size_bytes=SIZE)
    for thread in threading.enumerate():
        if thread.name.startswith("ckptsync-"):
            thread.join(30)
    store.heal()
    assert make.there() == []
    assert list(small.store.uploads("")) == []


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_leaves_to_gc_what_does_not_end(
    small: Any, make: Any, store: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(verb: str, _: str) -> None:
        if verb == "finish":
            _thread.interrupt_main()

    monkeypatch.setattr(verb_of_bench, "settled", lambda _: False)
    store.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        bench(small, size_bytes=SIZE)
    assert workers.settled(30)
    store.heal()
    assert make.there() != []
    clock.advance(61)
    collect(small, None, grace_s=60, dry_run=False)
    assert make.there() == []
    assert list(small.store.uploads("")) == []


def test_bytes_that_come_back_wrong(small: Any, run_with: Any, store: Any) -> None:
    class Bad(StoreWrapper):
        def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
            count = self.inner.get(key, into, offset=offset, tag=tag)
            if key.endswith(".bin"):
                into[0] ^= 1
            return count

    del small
    with pytest.raises(IntegrityError):
        bench(run_with(on=Bad(store), part_bytes=5 * MIB), size_bytes=SIZE)
    assert list(store.list("")) == []


def test_noise_is_the_same_however_it_is_cut_and_does_not_shrink() -> None:
    size = 3 * MIB + 17
    noise = _Noise("n", Path("n"), Identity(0, 0, size, 0, 0), 0o644, bytes(range(256)) * 4096)
    whole = bytearray(size)
    noise.read_into(memoryview(whole), 0)
    for offset, count in ((0, 3), (3, 10), (MIB - 2, 7), (MIB + 5, 2 * MIB), (size - 1, 1)):
        part = bytearray(count)
        noise.read_into(memoryview(part), offset)
        assert part == whole[offset : offset + count]
    assert len({bytes(whole[number * MIB : number * MIB + 8]) for number in range(4)}) == 4


def test_what_is_sent_does_not_compress(small: Any, store: Any) -> None:
    sent: list[bytes] = []
    real = store.inner.put_part
    store.inner.put_part = lambda upload, number, data: sent.append(bytes(data)) or real(upload, number, data)
    bench(small, size_bytes=SIZE)
    assert len(zlib.compress(sent[0], 1)) > 0.99 * len(sent[0])
