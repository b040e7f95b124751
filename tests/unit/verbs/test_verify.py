"""What `verify` finds, and that it finds all of it."""

from __future__ import annotations

import os
from typing import Any

import pytest

from ckptsync import names
from ckptsync.errors import ConfigError, ManifestError, NoSnapshotError, TransientError
from ckptsync.options import MIB
from ckptsync.snapshot import layout
from ckptsync.store.base import StoreWrapper, Tag
from ckptsync.verbs.verify import verify

BIG = os.urandom(3 * MIB + 100)


def flip(run: Any, key: str, offset: int) -> None:
    content = bytearray(run.store.read(key))
    content[offset] ^= 1
    run.store.put(key, bytes(content))


def test_all_is_well(run: Any, make: Any) -> None:
    snapshot = make.snapshot(7, {"big": BIG, "small": b"x", "empty": b""})
    found = verify(run)
    assert (found.snapshot, found.step, found.files, found.bad) == (str(snapshot), 7, 3, ())
    assert (found.parts_checked, found.parts_total, found.bytes_checked) == (5, 5, len(BIG) + 1)


@pytest.mark.req(17)
def test_every_bad_part_is_named(run: Any, make: Any) -> None:
    snapshot = make.snapshot(7, {"big": BIG, "small": b"x", "fine": b"y"})
    flip(run, layout.data_key(snapshot, "big"), 5)
    flip(run, layout.data_key(snapshot, "big"), 3 * MIB + 99)
    flip(run, layout.data_key(snapshot, "small"), 0)
    found = verify(run)
    assert [(bad.path, bad.part) for bad in found.bad] == [("big", 1), ("big", 4), ("small", 1)]
    assert "is not what was committed" in found.bad[0].reason
    assert found.parts_checked == found.parts_total == 6


def test_missing_shorter_and_longer_objects(run: Any, make: Any) -> None:
    snapshot = make.snapshot(7, {"gone": b"x", "long": b"x", "short": BIG, "void": b""})
    run.store.delete([layout.data_key(snapshot, "gone"), layout.data_key(snapshot, "void")])
    run.store.put(layout.data_key(snapshot, "long"), b"xy")
    run.store.put(layout.data_key(snapshot, "short"), BIG[: 2 * MIB + 7])
    found = verify(run)
    assert [(bad.path, bad.part) for bad in found.bad] == [
        ("gone", 0),
        ("long", 0),
        ("short", 0),
        ("short", 3),
        ("void", 0),
    ]
    assert "missing from the bucket" in found.bad[0].reason
    assert "2 bytes in the bucket instead of 1" in found.bad[1].reason


class BadWire(StoreWrapper):
    """Damages what is read of data, the first time."""

    damaged = 0

    def get(self, key: str, into: memoryview, *, offset: int = 0, tag: Tag | None = None) -> int:
        count = self.inner.get(key, into, offset=offset, tag=tag)
        if key.startswith(layout.DATA) and not self.damaged:
            self.damaged, into[0] = 1, into[0] ^ 1
        return count


def test_a_part_that_is_good_at_the_second_try_is_good(run_with: Any, make: Any, store: Any) -> None:
    make.snapshot(7, {"w": b"weights"})
    wire = BadWire(store)
    assert verify(run_with(on=wire)).bad == ()
    assert wire.damaged


@pytest.mark.parametrize("change", [lambda store, key: store.delete([key]), lambda store, key: store.put(key, b"new")])
def test_an_object_that_changes_meanwhile_is_bad(run: Any, make: Any, store: Any, change: Any) -> None:
    key = layout.data_key(make.snapshot(7, {"w": b"weights"}), "w")

    def meddle(verb: str, at: str) -> None:
        if verb == "get" and at == key:
            change(store.inner, key)

    store.before = meddle
    (bad,) = verify(run).bad
    assert (bad.path, bad.part) == ("w", 1)
    assert "deleted meanwhile" in bad.reason or "3 bytes in the bucket instead of 7" in bad.reason


def test_a_sample_has_the_size_asked_for_and_follows_its_seed(run: Any, make: Any, store: Any) -> None:
    make.snapshot(7, {f"f{n:02d}": b"%d" % n for n in range(40)} | {"empty": b""})

    def read(seed: bytes) -> set[str]:
        store.heal()
        found = verify(run, percent=25, seed=seed)
        assert (found.parts_checked, found.parts_total, found.bad) == (10, 40, ())
        return {key for verb, key in store.calls if verb == "get" and key.startswith("data/")}

    assert read(b"a") == read(b"a")
    assert len({frozenset(read(bytes([n]))) for n in range(5)}) > 1


def test_a_sample_is_never_empty_and_finds_damage_in_it(run: Any, make: Any) -> None:
    snapshot = make.snapshot(7, {"w": BIG})
    found = verify(run, percent=0.001)
    assert (found.parts_checked, found.bad) == (1, ())
    for part in range(4):
        flip(run, layout.data_key(snapshot, "w"), part * MIB)
    assert len(verify(run, percent=0.001).bad) == 1
    assert len(verify(run, percent=50).bad) == 2


def test_a_snapshot_without_bytes(run: Any, make: Any) -> None:
    make.snapshot(7, {})
    assert (verify(run).parts_total, verify(run, percent=1).parts_checked) == (0, 0)


@pytest.mark.parametrize("percent", [0, -1, 100.5, float("nan")])
def test_percentages_that_make_no_sense(run: Any, percent: float) -> None:
    with pytest.raises(ConfigError, match="percent"):
        verify(run, percent=percent)


def test_the_newest_is_not_passed_over_when_its_manifest_is_damaged(run: Any, make: Any) -> None:
    make.snapshot(1)
    newest = make.snapshot(2)
    run.store.put(layout.manifest_key(newest), b"{}")
    with pytest.raises(ManifestError):
        verify(run)
    assert verify(run, "1").bad == ()


def test_by_name_and_when_there_is_none(run: Any, make: Any) -> None:
    with pytest.raises(NoSnapshotError):
        verify(run)
    snapshot = make.snapshot(1)
    make.snapshot(2)
    names.promote(run.catalog, snapshot, "good")
    assert verify(run, "good").step == 1


@pytest.mark.req(32)
def test_a_bucket_that_fails_is_no_damage(run: Any, make: Any, store: Any) -> None:
    make.snapshot(1)
    store.fail("get", TransientError("the service is busy"), after=1)
    with pytest.raises(TransientError):
        verify(run)


def test_nothing_is_written_but_a_lease(run: Any, make: Any, store: Any) -> None:
    make.snapshot(1)
    before = make.there()
    store.heal()
    verify(run)
    assert [key.split("/")[0] for verb, key in store.calls if verb not in {"list", "get", "stat", "read"}] == [
        "leases",
        "leases",
    ]
    assert make.there() == before


@pytest.mark.parametrize("seed", [b"", b"x" * 65])
def test_seeds_that_cannot_be_used(run: Any, seed: bytes) -> None:
    with pytest.raises(ConfigError, match="seed"):
        verify(run, percent=1, seed=seed)


def test_a_sample_tells_the_seed_that_draws_it_again(run: Any, make: Any, store: Any) -> None:
    make.snapshot(7, {f"f{n:02d}": b"%d" % n for n in range(40)})

    def parts_read() -> list[str]:
        return sorted(key for verb, key in store.calls if verb == "get" and key.startswith("data/"))

    store.heal()
    told = verify(run, percent=25).seed
    drawn = parts_read()
    store.heal()
    assert verify(run, percent=25, seed=bytes.fromhex(told)).seed == told
    assert parts_read() == drawn
    assert verify(run).seed == ""
