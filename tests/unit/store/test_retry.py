from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ckptsync.errors import ConflictError, DeniedError, NotFoundError, StoreError, TransientError
from ckptsync.events import Event, Kind
from ckptsync.options import Retry
from ckptsync.store.base import Stat, Store, Tag, Upload
from ckptsync.store.memory import MemoryStore
from ckptsync.store.retry import Retrying
from ckptsync.testing.clock import FakeClock

ATTEMPTS = 4
RETRY = Retry(attempts=ATTEMPTS, base_s=1.0, cap_s=5.0, deadline_s=600.0)


class Bench:
    """A store in memory behind retries, a clock that stands still, and what was told."""

    def __init__(self, retry: Retry = RETRY) -> None:
        self.inner = MemoryStore()
        self.clock = FakeClock()
        self.events: list[Event] = []
        self.store = Retrying(self.inner, retry, clock=self.clock, observer=self.events.append)

    def break_first(self, verb: str, *failures: Exception, after_effect: bool = False) -> list[tuple[Any, ...]]:
        """Let the first requests of a verb fail; returns what is being asked."""
        asked: list[tuple[Any, ...]] = []
        left, real = list(failures), getattr(self.inner, verb)

        def ask(*arguments: Any, **options: Any) -> Any:
            asked.append(arguments)
            if left and not after_effect:
                raise left.pop(0)
            answer = real(*arguments, **options)
            if left:
                raise left.pop(0)
            return answer

        setattr(self.inner, verb, ask)
        return asked

    def break_always(self, verb: str, make: Callable[[], Exception]) -> list[float]:
        """Let every request of a verb fail; returns when each was asked."""
        asked_s: list[float] = []

        def ask(*_: Any, **__: Any) -> Any:
            asked_s.append(self.clock.monotonic())
            raise make()

        setattr(self.inner, verb, ask)
        return asked_s


def transient() -> TransientError:
    return TransientError("broke", op="verb")


def prepared(store: Store) -> tuple[Upload, Callable[[], Any]]:
    store.put("key", b"content")
    upload = store.begin("upload")
    return upload, lambda: [store.put_part(upload, 1, b"part")]


VERBS: dict[str, Callable[[Store, Upload], Any]] = {
    "put": lambda store, _: store.put("new", b"1").size,
    "get": lambda store, _: store.get("key", memoryview(bytearray(9)), offset=2),
    "stat": lambda store, _: store.stat("key").size,
    "read": lambda store, _: store.read("key"),
    "list": lambda store, _: [found.key for found in store.list("")],
    "delete": lambda store, _: store.delete(["key"]),
    "copy": lambda store, _: store.copy("key", "copied").size,
    "begin": lambda store, _: store.begin("begun").key,
    "put_part": lambda store, upload: store.put_part(upload, 2, b"12").size,
    "copy_part": lambda store, upload: store.copy_part(upload, 2, "key", 1, 3).size,
    "parts": lambda store, upload: list(store.parts(upload)),
    "finish": lambda store, upload: store.finish(upload, store.parts(upload).values()).size,
    "abort": lambda store, upload: store.abort(upload),
    "uploads": lambda store, _: [upload.key for upload in store.uploads("")],
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_tried_again(verb: str) -> None:
    expected, bench = Bench(), Bench()
    answers = []
    for one, failures in ((expected, 0), (bench, ATTEMPTS - 1)):
        upload, put_part = prepared(one.inner)
        put_part()
        asked = one.break_first(verb, *(transient() for _ in range(failures)))
        answers.append(VERBS[verb](one.store, upload))
        assert len(asked) == failures + 1
    assert answers[0] == answers[1]
    assert [event.kind for event in bench.events] == [Kind.RETRY] * (ATTEMPTS - 1)
    assert expected.events == []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_gives_up(verb: str) -> None:
    bench = Bench()
    upload, put_part = prepared(bench.inner)
    put_part()
    asked_s = bench.break_always(verb, transient)
    with pytest.raises(TransientError) as caught:
        VERBS[verb](bench.store, upload)
    assert len(asked_s) == ATTEMPTS
    assert caught.value.attempts == ATTEMPTS
    assert f"{ATTEMPTS} attempts" in str(caught.value)
    assert len(bench.clock.slept_s) == ATTEMPTS - 1


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", [NotFoundError, ConflictError, DeniedError, StoreError, ZeroDivisionError])
def test_nothing_else_is_tried_again(verb: str, kind: type[Exception]) -> None:
    bench = Bench()
    upload, put_part = prepared(bench.inner)
    put_part()
    asked_s = bench.break_always(verb, lambda: kind("no"))
    with pytest.raises(kind) as caught:
        VERBS[verb](bench.store, upload)
    assert len(asked_s) == 1
    assert bench.clock.slept_s == []
    if isinstance(caught.value, StoreError):
        assert caught.value.attempts == 1


@pytest.mark.req(19)
def test_pauses_are_full_jitter_below_a_doubling_bound() -> None:
    bounds = [1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0]
    pauses: list[list[float]] = []
    for _ in range(50):
        bench = Bench(Retry(attempts=len(bounds) + 1, base_s=1.0, cap_s=5.0))
        bench.break_always("stat", transient)
        with pytest.raises(TransientError):
            bench.store.stat("key")
        pauses.append(bench.clock.slept_s)
    for index, bound in enumerate(bounds):
        column = [row[index] for row in pauses]
        assert all(0.0 <= pause <= bound for pause in column)
        assert min(column) < bound / 3
        assert max(column) > bound * 2 / 3


def test_many_tries_do_not_overflow() -> None:
    bench = Bench(Retry(attempts=3000, base_s=1.0, cap_s=0.001))
    asked_s = bench.break_always("stat", transient)
    with pytest.raises(TransientError):
        bench.store.stat("key")
    assert len(asked_s) == 3000


@pytest.mark.req(19)
def test_pause_is_never_shorter_than_the_service_asks_for() -> None:
    bench = Bench()
    prepared(bench.inner)
    bench.break_first("stat", TransientError("slow down", throttled=True, retry_after_s=42.0))
    bench.store.stat("key")
    assert bench.clock.slept_s == [42.0]


def test_no_try_begins_after_the_deadline() -> None:
    bench = Bench(Retry(attempts=10_000, base_s=5.0, cap_s=5.0, deadline_s=60.0))
    asked_s = bench.break_always("stat", transient)
    with pytest.raises(TransientError) as caught:
        bench.store.stat("key")
    assert 10 < len(asked_s) == caught.value.attempts
    assert max(asked_s) < 60.0
    assert bench.clock.monotonic() < 60.0


def test_no_sleep_towards_a_try_that_would_come_too_late() -> None:
    bench = Bench()
    asked_s = bench.break_always("stat", lambda: TransientError("slow down", retry_after_s=601.0))
    with pytest.raises(TransientError):
        bench.store.stat("key")
    assert len(asked_s) == 1
    assert bench.clock.slept_s == []


def test_event_names_verb_key_and_cause() -> None:
    bench = Bench()
    prepared(bench.inner)
    bench.break_first("stat", TransientError("connection reset", retry_after_s=3.0))
    bench.store.stat("key")
    (event,) = bench.events
    assert event.path == "key"
    for word in ("stat", "'key'", "connection reset", "3.00 s", f"1 of {ATTEMPTS}"):
        assert word in event.message


def test_lost_answer_to_a_conditional_put_shows_as_a_conflict() -> None:
    bench = Bench()
    bench.break_first("put", transient(), after_effect=True)
    with pytest.raises(ConflictError) as caught:
        bench.store.put("key", b"mine", if_absent=True)
    assert caught.value.attempts == 2
    assert bench.store.read("key") == b"mine"


@pytest.mark.req(29)
def test_lost_answer_to_finish_is_settled_by_the_store() -> None:
    bench = Bench()
    upload = bench.store.begin("key")
    sent = bench.store.put_part(upload, 1, b"part")
    asked = bench.break_first("finish", transient(), after_effect=True)
    assert bench.store.finish(upload, iter([sent])) == bench.inner.stat("key")
    assert [len(arguments[1]) for arguments in asked] == [1, 1]


class Dripping(MemoryStore):
    """Breaks each `get` after a few bytes."""

    def __init__(self, chunk_bytes: int) -> None:
        super().__init__()
        self.chunk_bytes = chunk_bytes
        self.offsets: list[int] = []

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        self.offsets.append(offset)
        count = super().get(key, into[: self.chunk_bytes], offset=offset, tag=tag)
        if count == len(into) and self.chunk_bytes:
            return count
        raise TransientError("reset", received=count)


@pytest.mark.req(33)
def test_get_goes_on_behind_the_bytes_that_came() -> None:
    clock, events, inner = FakeClock(), list[Event](), Dripping(7)
    store = Retrying(inner, RETRY, clock=clock, observer=events.append)
    content = bytes(range(100))
    tag = inner.put("key", content).tag
    buffer = bytearray(50)
    assert store.get("key", memoryview(buffer), offset=10, tag=tag) == 50
    assert buffer == content[10:60]
    assert inner.offsets == [10, 17, 24, 31, 38, 45, 52, 59]
    # each try moved bytes, so none of the pauses had grown
    assert all(pause <= RETRY.base_s for pause in clock.slept_s)


def test_get_gives_up_after_so_many_tries_without_a_byte() -> None:
    clock, inner = FakeClock(), Dripping(7)
    store = Retrying(inner, RETRY, clock=clock, observer=lambda _: None)
    inner.put("key", bytes(100))
    real_get = inner.get

    def dry_up(key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        if len(inner.offsets) == 3:
            inner.chunk_bytes = 0
        return real_get(key, into, offset=offset, tag=tag)

    inner.get = dry_up  # type: ignore[method-assign]
    with pytest.raises(TransientError) as caught:
        store.get("key", memoryview(bytearray(100)))
    assert inner.offsets == [0, 7, 14] + [21] * ATTEMPTS
    assert caught.value.attempts == 3 + ATTEMPTS
    assert caught.value.received == 21


def test_get_that_broke_behind_its_last_byte_is_whole() -> None:
    bench = Bench()
    bench.inner.put("key", b"content")
    real_get, asked = bench.inner.get, list[int]()

    def break_late(key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        asked.append(offset)
        raise TransientError("reset", received=real_get(key, into, offset=offset, tag=tag))

    bench.inner.get = break_late  # type: ignore[method-assign]
    buffer = bytearray(7)
    assert bench.store.get("key", memoryview(buffer)) == 7
    assert buffer == b"content"
    assert asked == [0]


def test_deadline_counts_from_the_last_byte() -> None:
    clock, inner = FakeClock(), Dripping(1)
    retry = Retry(attempts=2, base_s=50.0, cap_s=50.0, deadline_s=60.0)
    store = Retrying(inner, retry, clock=clock, observer=lambda _: None)
    inner.put("key", bytes(40))
    assert store.get("key", memoryview(bytearray(40))) == 40
    assert clock.monotonic() > 120.0


def listing(bench: Bench, verb: str, page: int) -> list[tuple[Any, ...]]:
    """Let listings break after every `page` entries; returns what is asked."""
    asked: list[tuple[Any, ...]] = []
    real = getattr(bench.inner, verb)

    def broken(*arguments: Any, **options: Any) -> Iterator[Any]:
        asked.append((*arguments, *options.values()))
        for index, found in enumerate(real(*arguments, **options)):
            if index == page:
                raise transient()
            yield found

    setattr(bench.inner, verb, broken)
    return asked


def keys(found: Iterator[Stat]) -> list[str]:
    return [one.key for one in found]


def test_list_goes_on_behind_the_last_key() -> None:
    bench = Bench()
    names = [f"p/{number:02d}" for number in range(10)]
    for name in names:
        bench.inner.put(name, b"")
    asked = listing(bench, "list", 3)
    assert keys(bench.store.list("p/", limit=8, after="p/00")) == names[1:9]
    assert asked == [("p/", 8, "p/00"), ("p/", 5, "p/03"), ("p/", 2, "p/06")]
    assert keys(bench.store.list("p/")) == names


def test_list_that_broke_behind_its_limit_is_whole() -> None:
    bench = Bench()
    for number in range(4):
        bench.inner.put(f"{number}", b"")
    real = bench.inner.list

    def no_end(prefix: str, *, limit: int | None = None, after: str = "") -> Iterator[Stat]:
        yield from real(prefix, limit=limit, after=after)
        raise transient()

    bench.inner.list = no_end  # type: ignore[method-assign]
    assert keys(bench.store.list("", limit=4)) == ["0", "1", "2", "3"]


def test_list_asks_for_nothing_before_it_is_read_and_may_be_left() -> None:
    bench = Bench()
    for number in range(4):
        bench.inner.put(f"{number}", b"")
    asked = listing(bench, "list", 9)
    found = bench.store.list("")
    assert asked == []
    assert next(found).key == "0"
    found.close()  # type: ignore[attr-defined]
    assert bench.events == []


def test_uploads_begin_anew_and_show_each_once() -> None:
    bench = Bench()
    begun = [bench.inner.begin(f"key-{number}") for number in range(5)]
    real, asked = bench.inner.uploads, list[int]()

    def growing(prefix: str) -> Iterator[Upload]:
        asked.append(len(asked) + 1)
        for index, upload in enumerate(real(prefix)):
            if index == 2 * len(asked):
                raise transient()
            yield upload

    bench.inner.uploads = growing  # type: ignore[method-assign]
    assert list(bench.store.uploads("")) == begun
    assert asked == [1, 2, 3]


def test_delete_repeats_only_the_keys_of_the_request_that_failed() -> None:
    bench = Bench()
    for number in range(2500):
        bench.inner.put(f"{number:04d}", b"")
    asked = bench.break_first("delete", transient())
    bench.store.delete(found.key for found in bench.inner.list(""))
    assert [len(arguments[0]) for arguments in asked] == [1000, 1000, 1000, 500]
    assert list(bench.inner.list("")) == []


def test_wrapping_keeps_what_the_store_is() -> None:
    closed: list[bool] = []
    bench = Bench()
    bench.inner.close = lambda: closed.append(True)  # type: ignore[method-assign]
    assert (bench.store.url, bench.store.traits) == (bench.inner.url, bench.inner.traits)
    with bench.store:
        pass
    assert closed == [True]


@pytest.mark.req(19)
def test_a_service_that_asks_for_a_slower_pace_is_asked_until_the_deadline() -> None:
    bench = Bench(Retry(attempts=ATTEMPTS, base_s=1.0, cap_s=5.0, deadline_s=300.0))
    asked_s = bench.break_always("stat", lambda: TransientError("slow down", op="stat", throttled=True))
    with pytest.raises(TransientError) as caught:
        bench.store.stat("key")
    assert len(asked_s) > 10 * ATTEMPTS
    assert 290.0 <= asked_s[-1] < 300.0
    assert caught.value.attempts == len(asked_s)


@pytest.mark.req(19)
def test_other_failures_count_as_before_among_those() -> None:
    bench = Bench()
    failures = [TransientError("slow down", throttled=True), TransientError("broke")] * ATTEMPTS
    asked = bench.break_first("stat", *failures)
    with pytest.raises(TransientError, match="broke"):
        bench.store.stat("key")
    assert len(asked) == 2 * ATTEMPTS
    assert [event.message.partition(":")[0] for event in bench.events[:2]] == [
        "stat 'key' failed",
        f"stat 'key' failed, try 1 of {ATTEMPTS}",
    ]


def test_a_courtesy_ends_after_a_deadline_of_its_own() -> None:
    bench = Bench(Retry(attempts=1000, base_s=1.0, cap_s=5.0, deadline_s=300.0))
    asked_s = bench.break_always("stat", lambda: TransientError("no answer", op="stat"))
    with pytest.raises(TransientError):
        bench.store.within(15.0).stat("key")
    assert asked_s[-1] < 15.0
