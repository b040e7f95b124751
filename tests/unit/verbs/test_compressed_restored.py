"""Files that are packed: verified and restored, or found damaged before anything is used."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.packed import PARTS, SIZE, model, write_weights

from ckptsync.errors import ConfigError, IntegrityError
from ckptsync.events import Kind
from ckptsync.options import MIB, Transfer
from ckptsync.run import Run
from ckptsync.snapshot.encoding import packed_bound
from ckptsync.transfer.budget import reading_buffers
from ckptsync.transfer.packing import pack
from ckptsync.transfer.reader import Reader, Received
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify


@pytest.fixture
def source(source: Path) -> Path:
    """The large file holds weights, each part others."""
    write_weights(source / "model.bin")
    return source


def flip(run: Run, key: str, offset: int) -> None:
    content = bytearray(run.store.read(key))
    content[offset] ^= 1
    run.store.put(key, bytes(content))


@pytest.mark.parametrize("place", [0, 8, 1000, -1])
@pytest.mark.parametrize("number", [1, 3, PARTS])
def test_a_flipped_bit_is_found_before_anything_is_used(
    packing: Callable[..., Run], source: Path, target: Path, number: int, place: int
) -> None:
    run = packing()
    entry = model(run, save(run, source, step=7))
    offset, size = entry.stored_span(number)
    flip(run, entry.key, offset + place % size)
    (bad,) = verify(run, quarantine=False).bad
    assert (bad.path, bad.part) == ("model.bin", number)
    with pytest.raises(IntegrityError, match=f"part {number} of {PARTS} of model.bin"):
        restore(run, target)
    assert not target.exists()


@pytest.mark.parametrize("part_mib", [1, 3])
def test_the_end_of_a_part_that_unpacks_well_but_to_something_else_is_never_handed_on(
    packing: Callable[..., Run], source: Path, part_mib: int
) -> None:
    entry = model((run := packing(part_bytes=part_mib * MIB)), save(run, source, step=7))
    assert entry.packing
    other, room = (
        memoryview(bytearray(source.joinpath("model.bin").read_bytes()[: entry.part_bytes])),
        bytearray(4 * MIB),
    )
    other[-1] ^= 1
    at, stored = entry.stored_span(1)
    forged = bytes(pack(other, memoryview(room), entry.packing.shuffle, stored))
    content = bytearray(run.store.read(entry.key))
    content[at : at + stored] = forged.ljust(stored, b"\0")[:stored]
    run.store.put(entry.key, bytes(content))
    buffers = reading_buffers([entry], Transfer())
    reader = Reader(store=run.store, buffers=buffers, observer=run.observer, received=Received())
    given: list[int] = []
    with buffers.take(2 * MIB + packed_bound(MIB)) as window, pytest.raises(IntegrityError, match="part 1 of"):
        reader.fetch(entry, 1, window, None, lambda piece, offset: given.append(offset + len(piece)))
    assert entry.part_bytes not in given


@pytest.mark.parametrize("length", [0, 100, -1])
def test_an_object_of_another_length_is_bad(
    packing: Callable[..., Run], source: Path, target: Path, length: int
) -> None:
    run = packing()
    entry = model(run, save(run, source, step=7))
    run.store.put(entry.key, run.store.read(entry.key)[:length])
    assert {bad.part for bad in verify(run, quarantine=False).bad} >= {0}
    with pytest.raises(IntegrityError, match=f"bytes in the bucket instead of {entry.stored_size}"):
        restore(run, target)


def test_a_bit_flipped_on_the_wire_is_fetched_once_more(
    packing: Callable[..., Run], source: Path, store: Any, comes_back: Callable[[Run], None], events: list[Any]
) -> None:
    run = packing(workers=1)
    entry = model(run, save(run, source, step=7))
    get, calls = store.get, [0]

    def flip_once(key: str, into: memoryview, **given: Any) -> int:
        count: int = get(key, into, **given)
        if key == entry.key:
            calls[0] += 1
            into[7] ^= calls[0] == 2
        return count

    store.get = flip_once
    comes_back(run)
    assert [event.kind for event in events].count(Kind.REFETCHED) == 1


def test_a_replaced_object_is_told(packing: Callable[..., Run], source: Path, target: Path, store: Any) -> None:
    run = packing(workers=1)
    entry = model(run, save(run, source, step=7))

    def replace(verb: str, key: str) -> None:
        if verb == "get" and key == entry.key:
            store.inner.put(key, os.urandom(entry.stored_size))

    store.before = replace
    with pytest.raises(IntegrityError, match="replaced in the bucket while it was read"):
        restore(run, target)


@pytest.mark.parametrize("after", [0, 2, 5])
def test_a_killed_restore_fetches_only_what_is_missing(
    packing: Callable[..., Run],
    source: Path,
    target: Path,
    store: Any,
    killed: type[BaseException],
    content: Any,
    after: int,
) -> None:
    run = packing(workers=1)
    entry = model(run, save(run, source, step=7))
    left = [after]

    def kill(verb: str, key: str) -> None:
        if verb == "get" and key == entry.key:
            left[0] -= 1
            if left[0] < 0:
                raise killed

    store.before = kill
    with pytest.raises(killed):
        restore(run, target)
    store.heal()
    restore(run, target)
    assert [key for verb, key in store.calls if verb == "get"].count(entry.key) == PARTS - after
    assert content(target) == content(source)


@pytest.mark.parametrize("part_mib", [2, 3])
def test_parts_larger_than_our_buffers_are_unpacked_in_pieces(
    packing: Callable[..., Run],
    run_with: Callable[..., Run],
    source: Path,
    store: Any,
    comes_back: Callable[[Run], None],
    part_mib: int,
) -> None:
    saved = save(packing(part_bytes=part_mib * MIB), source, step=7)
    run = run_with(part_bytes=MIB)
    entry = model(run, saved)
    assert entry.packing
    assert entry.part_bytes == part_mib * MIB
    comes_back(run)
    flip(run, entry.key, 100)
    assert [bad.part for bad in verify(run).bad] == [1]
    assert max(entry.stored_span(1)) > MIB
    assert [key for verb, key in store.calls if verb == "get"].count(entry.key) > len(entry.parts)


# -- without the library -------------------------------------------------------------------------------------------------


def test_without_zstandard_a_sentence_names_the_extra(
    packing: Callable[..., Run],
    run_with: Callable[..., Run],
    source: Path,
    target: Path,
    store: Any,
    change_part: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = run_with()
    save(run, source, step=6)
    change_part(1)
    save(packing(), source, step=7)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    store.heal()
    with pytest.raises(ConfigError, match=r"pip install 'ckptsync\[zstd\]'"):
        save(packing(), source, step=8)
    assert store.calls == []
    for use in (verify, lambda run: restore(run, target), lambda run: restore(run, target, include=["model*"])):
        with pytest.raises(ConfigError, match=r"pip install 'ckptsync\[zstd\]'"):
            use(run)
        assert not list(target.parent.glob("*"))
    assert not run.catalog.quarantined()
    assert restore(run, target, include=["config*"]).files == 1  # nothing packed in it
    assert restore(run, target, snapshot="6").files == 4
    assert save(run, source, step=9).bytes_sent == SIZE  # the rest is copied
