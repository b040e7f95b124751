"""Restores over a line that breaks, and of bytes that are not what was saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tree import fingerprint
from support.wired import LARGE_BYTES, PART_BYTES, Wired

from ckptsync.errors import IntegrityError
from ckptsync.events import Kind
from ckptsync.options import MIB
from ckptsync.testing.proxy import Fault, faults

LINE_BYTES = 7_000_000
SLICE_BYTES = 512 << 10
"""A tenth of a part: what a store reads at once is lost when the line breaks."""


@pytest.mark.req(33)
@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("workers", [1, 4])
def test_a_line_that_breaks_every_7_mb_costs_less_than_a_part_each_time(
    wired: Wired, source: Path, how: faults.Ending, workers: int
) -> None:
    wired.save(source)
    wired.proxy.inject(faults.broken_every(LINE_BYTES, how=how), method="GET", target="/data/", times=None)
    wired.restore(transfer={"workers": workers})
    assert fingerprint(wired.target) == fingerprint(source)
    gets = wired.proxy.entries("GET", "/model.bin")
    resets = len(gets) - len(range(0, LARGE_BYTES, PART_BYTES))
    assert resets >= LARGE_BYTES // LINE_BYTES - 1
    fetched_again = sum(entry.received for entry in gets) - LARGE_BYTES
    assert 0 <= fetched_again < resets * SLICE_BYTES
    assert wired.told(Kind.REFETCHED) == []


@pytest.mark.req(33)
def test_a_body_that_ends_early_is_continued(wired: Wired, source: Path) -> None:
    wired.save(source)
    cut = wired.proxy.inject(faults.broken_after(MIB, how="close"), method="GET", target="/data/", times=5)
    wired.restore()
    assert cut.struck == 5
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(33)
@pytest.mark.parametrize("target", ["prefix=.*manifests", "/manifests/[0-9]"])
def test_a_listing_or_manifest_that_is_cut_off_is_asked_for_again(wired: Wired, source: Path, target: str) -> None:
    wired.save(source)
    cut = wired.proxy.inject(faults.broken_after(100, how="close"), method="GET", target=target, times=2)
    restored = wired.restore()
    assert cut.struck == 2
    assert restored.skipped == ()
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(33)
def test_an_object_that_is_replaced_meanwhile_is_noticed(wired: Wired, source: Path, changed_source: Path) -> None:
    old = wired.save(source, 1)
    new = wired.save(changed_source, 2)
    key, asked = f"data/{new.snapshot}/model.bin", []

    def replace_before_the_third(_: object) -> bool:
        asked.append(key)
        if len(asked) == 3:
            with wired.direct() as run:
                run.store.put(key, bytes(LARGE_BYTES))
        return False

    wired.clock.advance(60)
    wired.proxy.inject(Fault(name="meanwhile", only_if=replace_before_the_third), method="GET", target=key, times=None)
    restored = wired.restore(transfer={"workers": 1})
    assert restored.snapshot == old.snapshot
    assert [skipped.snapshot for skipped in restored.skipped] == [new.snapshot]
    assert "is not what was committed" in restored.skipped[0].reason
    assert restored.steps_lost == 1
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(17)
def test_a_bit_that_flips_once_is_fetched_once_more(wired: Wired, source: Path) -> None:
    wired.save(source)
    flipped = wired.proxy.inject(faults.flipped_bit(1_000_000), method="GET", target="/model.bin", skip=2)
    restored = wired.restore()
    assert flipped.struck == 1
    assert len(wired.told(Kind.REFETCHED)) == 1
    assert "model.bin" in wired.told(Kind.REFETCHED)[0]
    assert restored.skipped == ()
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(17)
def test_a_part_that_is_bad_twice_sends_a_restore_to_the_snapshot_before(
    wired: Wired, source: Path, changed_source: Path
) -> None:
    old = wired.save(source, 1)
    new = wired.save(changed_source, 2)
    flips = wired.proxy.inject(faults.flipped_bit(0), header="Range", target=f"{new.snapshot}/model.bin", times=None)
    restored = wired.restore()
    assert flips.struck >= 2
    assert restored.snapshot == old.snapshot
    assert restored.steps_lost == 1
    assert [skipped.snapshot for skipped in restored.skipped] == [new.snapshot]
    assert "part" in restored.skipped[0].reason
    assert "model.bin" in restored.skipped[0].reason
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(17)
def test_when_no_snapshot_arrives_whole_nothing_appears(wired: Wired, source: Path) -> None:
    wired.save(source)
    wired.proxy.inject(faults.flipped_bit(0), header="Range", target="/model.bin", times=None)
    with pytest.raises(IntegrityError, match=r"model\.bin"):
        wired.restore()
    assert not wired.target.exists()


@pytest.mark.req(17)
@pytest.mark.parametrize("offset", [5, 300], ids=["envelope", "content"])
def test_a_bit_that_flips_in_a_manifest_costs_no_snapshot(
    wired: Wired, source: Path, changed_source: Path, offset: int
) -> None:
    wired.save(source, 1)
    new = wired.save(changed_source, 2)
    flipped = wired.proxy.inject(faults.flipped_bit(offset), method="GET", target="/manifests/[0-9]")
    restored = wired.restore()
    assert flipped.struck == 1
    assert restored.snapshot == new.snapshot
    assert fingerprint(wired.target) == fingerprint(changed_source)
