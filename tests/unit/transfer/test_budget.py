"""Memory for parts in flight."""

from __future__ import annotations

import mmap
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from ckptsync.transfer.budget import Buffers

PAGE = mmap.PAGESIZE
MIB = 1 << 20


def taken_by_another(buffers: Buffers, size: int) -> tuple[threading.Thread, threading.Event]:
    """Let a thread take and give back; the event is set once it had its view."""
    had = threading.Event()

    def work() -> None:
        with buffers.take(size):
            had.set()

    thread = threading.Thread(target=work)
    thread.start()
    return thread, had


def test_a_view_is_exactly_as_long_as_asked_and_writable() -> None:
    buffers = Buffers(1, PAGE)
    for size in (0, 1, PAGE):
        with buffers.take(size) as view:
            assert len(view) == size
            view[:] = b"x" * size


def test_memory_is_reused() -> None:
    buffers = Buffers(2, PAGE)
    with buffers.take(3) as view:
        view[:] = b"abc"
    with buffers.take(3) as view:
        assert bytes(view) == b"abc"


def test_it_is_lent_again_after_an_error() -> None:
    buffers = Buffers(1, PAGE)
    for size in (1, 3 * PAGE, 1):
        with pytest.raises(ZeroDivisionError), buffers.take(size):
            1 / 0  # noqa: B018
    with buffers.take(PAGE) as view:
        assert len(view) == PAGE


def test_no_more_than_promised_are_lent_at_once() -> None:
    buffers = Buffers(2, PAGE)
    with ExitStack() as held:
        held.enter_context(buffers.take(1))
        held.enter_context(buffers.take(1))
        thread, had = taken_by_another(buffers, 1)
        assert not had.wait(0.05)
    assert had.wait(30)
    thread.join(30)


def test_a_part_larger_than_a_buffer_takes_the_places_it_needs() -> None:
    """Twice as large, it holds two of three places, so that large files are still moved in parallel."""
    buffers = Buffers(3, PAGE)
    with buffers.take(2 * PAGE) as large:
        assert len(large) == 2 * PAGE
        with buffers.take(PAGE):
            thread, had = taken_by_another(buffers, 1)
            assert not had.wait(0.05)
        assert had.wait(30)
        thread.join(30)


def test_a_part_larger_than_the_budget_is_alone() -> None:
    buffers = Buffers(2, PAGE)
    with buffers.take(9 * PAGE) as large:
        assert len(large) == 9 * PAGE
        thread, had = taken_by_another(buffers, 1)
        assert not had.wait(0.05)
    assert had.wait(30)
    thread.join(30)


def test_two_large_ones_take_turns() -> None:
    buffers = Buffers(3, PAGE)
    with buffers.take(2 * PAGE):
        thread, had = taken_by_another(buffers, 2 * PAGE)
        assert not had.wait(0.05)
    assert had.wait(30)
    thread.join(30)


def test_buffers_are_let_go_before_a_large_part_gets_its_own() -> None:
    """Else memory would be the budget and the part, rather than the larger of both."""
    buffers = Buffers(3, PAGE)
    with ExitStack() as held:
        for _ in range(3):
            held.enter_context(buffers.take(1))
    assert buffers.idle_bytes == 3 * PAGE
    with buffers.take(2 * PAGE):
        assert buffers.idle_bytes == PAGE
    with buffers.take(99 * PAGE):
        assert not buffers.idle_bytes


def test_of_short_views_more_are_lent_in_the_same_memory() -> None:
    buffers = Buffers(2, 16 * MIB)
    with ExitStack() as held:
        for _ in range(32):
            held.enter_context(buffers.take(100_000))
        thread, had = taken_by_another(buffers, 1)
        assert not had.wait(0.05)
    assert had.wait(30)
    thread.join(30)


def test_memory_stays_within_the_budget_when_views_get_longer() -> None:
    buffers = Buffers(2, 16 * MIB)
    with ExitStack() as held:
        for _ in range(32):
            held.enter_context(buffers.take(MIB))
    assert buffers.idle_bytes == 32 * MIB
    with buffers.take(9 * MIB), buffers.take(3 * MIB):
        assert buffers.idle_bytes <= 12 * MIB


def resident_bytes() -> int:
    """Memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="tells what memory is in use on Linux only")
@pytest.mark.parametrize("size", [48 * MIB, 64 * MIB], ids=["a buffer", "larger than one"])
def test_memory_is_given_back_though_a_traceback_holds_a_view(size: int) -> None:
    """Errors that were overcome keep frames in cycles, until Python looks for such."""
    kept: list[memoryview] = []

    def fail(view: memoryview) -> None:
        view[:] = b"x" * size
        kept.append(view[1:])
        assert resident_bytes() > before + 40 * MIB
        raise ZeroDivisionError

    before = resident_bytes()
    with Buffers(1, 48 * MIB) as buffers, pytest.raises(ZeroDivisionError), buffers.take(size) as lent:
        fail(lent)
    assert resident_bytes() < before + 8 * MIB
    assert bytes(kept[0][:8]) == bytes(8)  # it is gone, not only out of this process's sight
    with buffers.take(1) as view:
        view[:] = b"x"
