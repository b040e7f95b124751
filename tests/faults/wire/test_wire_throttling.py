"""A service that asks for a slower pace gets it, and what was to be saved is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tree import fingerprint
from support.wired import Wired

from ckptsync.policy import LatestN
from ckptsync.snapshot.layout import LEASES
from ckptsync.testing.proxy import Answer, answers, faults
from ckptsync.verbs.gc import collect
from ckptsync.verbs.remove import remove

OUTAGE_S = 60.0


@pytest.mark.req(19)
@pytest.mark.parametrize("retry_after_s", [None, 5])
def test_a_minute_of_503_is_outlived_by_a_save(wired: Wired, source: Path, retry_after_s: int | None) -> None:
    wired.claim()
    outage = wired.proxy.inject(faults.answered(answers.slow_down(retry_after_s)), for_s=OUTAGE_S)
    saved = wired.save(source)
    assert saved.committed
    assert outage.struck >= 3
    assert wired.clock.monotonic() >= OUTAGE_S
    if retry_after_s is not None:
        assert outage.struck <= OUTAGE_S / retry_after_s + 1
        assert min(wired.clock.slept_s[-outage.struck :]) >= retry_after_s
    wired.restore_directly()
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(19)
@pytest.mark.parametrize("answer", [answers.slow_down(), answers.too_many_requests(3)], ids=["503", "429"])
def test_an_outage_in_the_middle_costs_nothing_but_time(wired: Wired, source: Path, answer: Answer) -> None:
    wired.proxy.inject(faults.answered(answer), target="partNumber=", skip=2, times=7)
    saved = wired.save(source)
    assert len([entry for entry in wired.part_puts() if entry.status == 200]) == 6
    assert len(wired.begun()) == 1
    assert saved.bytes_sent == saved.bytes


@pytest.mark.req(19)
def test_a_refusal_before_the_body_was_read_is_a_refusal(wired: Wired, source: Path) -> None:
    wired.proxy.inject(faults.answered(answers.slow_down(), drain=False), method="PUT", target="partNumber=", times=4)
    wired.save(source)
    wired.restore_directly()
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(19, 33)
def test_a_restore_outlives_it_too(wired: Wired, source: Path) -> None:
    wired.save(source)
    wired.proxy.inject(faults.answered(answers.slow_down(5)), for_s=OUTAGE_S)
    wired.restore()
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(21)
def test_no_object_changes_twice_within_a_second(gs: Wired, source: Path, changed_source: Path) -> None:
    """The clock stands still but for the pauses we make ourselves: what is changed twice without one is seen.

    A lease alone is deleted at once, and again when that is too soon (docs/decisions/0014-leases-are-deleted-at-once.md).
    """
    wired = gs
    early = wired.proxy.inject(faults.one_write_per_s(), times=None)
    wired.save(source, 1)
    wired.save(changed_source, 2)
    wired.save(changed_source, 3)
    wired.restore()
    wired.clock.advance(3600)
    with wired.run() as run:
        collected = collect(run, LatestN(2), grace_s=0.0, dry_run=False)
        removed = remove(run, collected.kept[1])
    assert (len(collected.removed), removed.snapshot) == (1, collected.kept[1])
    refused = [entry for entry in wired.proxy.entries() if entry.status == 429]
    assert early.struck == len(refused) > 0
    assert [entry for entry in refused if "leases" not in entry.changes] == []
    with wired.run() as run:
        assert [*run.store.list(LEASES)] == []
    created = [entry.changes for entry in wired.proxy.entries("POST") if entry.changes and entry.status == 200]
    assert len(created) == len(set(created)) > 10


@pytest.mark.req(21)
def test_a_refused_commit_is_made_later(wired: Wired, source: Path) -> None:
    refused = wired.proxy.inject(faults.answered(answers.too_many_requests()), changes="/manifests/", times=3)
    saved = wired.save(source)
    assert refused.struck == 3
    assert wired.snapshots() == [saved.snapshot]
