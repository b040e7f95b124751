"""The one conditional put that makes a snapshot exist, on a wire that loses its answer, and where it is ignored."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tree import fingerprint
from support.wired import Wired

from ckptsync.errors import FencedError, TransientError, UnsupportedError
from ckptsync.testing.proxy import Fault, answers, faults
from ckptsync.verbs.doctor import diagnose

LOST = [
    faults.lost_answer("reset"),
    faults.lost_answer("close"),
    faults.replaced_answer(answers.internal_error()),
    faults.replaced_answer(answers.slow_down()),
]
LOST_IDS = ["reset", "close", "500", "503"]


@pytest.mark.req(20)
@pytest.mark.parametrize("fault", LOST, ids=LOST_IDS)
def test_a_commit_whose_answer_is_lost_is_a_commit(wired: Wired, source: Path, fault: Fault) -> None:
    lost = wired.proxy.inject(fault, changes="/manifests/")
    saved = wired.save(source)
    assert lost.struck == 1
    assert [entry.status for entry in wired.proxy.entries() if "/manifests/" in entry.changes][-1] == 412
    assert wired.snapshots() == [saved.snapshot]
    wired.restore_directly()
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(20)
@pytest.mark.parametrize("fault", LOST, ids=LOST_IDS)
def test_a_claim_whose_answer_is_lost_is_ours(wired: Wired, source: Path, fault: Fault) -> None:
    wired.proxy.inject(fault, changes="/writers/")
    assert wired.save(source).epoch == 1


@pytest.mark.req(20)
def test_a_409_wrote_nothing_and_is_tried_again(wired: Wired, source: Path) -> None:
    fault = faults.answered(answers.conditional_request_conflict())
    wired.proxy.inject(fault, changes="/manifests/", times=2)
    saved = wired.save(source)
    puts = [entry.status for entry in wired.proxy.entries() if "/manifests/" in entry.changes]
    assert puts == [409, 409, 200]
    assert wired.snapshots() == [saved.snapshot]


@pytest.mark.req(20)
def test_a_newer_writer_between_two_tries_is_seen(wired: Wired, source: Path) -> None:
    """The first try fails without effect, and somebody claims the run before the second."""
    wired.claim()

    def claimed_meanwhile(_: object) -> bool:
        wired.claim()
        return True

    dropped = Fault(name="dropped", ending="reset", only_if=claimed_meanwhile)
    wired.proxy.inject(dropped, changes="/data/.*/small.bin")
    with pytest.raises(FencedError):
        wired.save(source)
    assert wired.snapshots() == []


@pytest.mark.req(20)
def test_a_commit_that_never_gets_through_is_none(wired: Wired, source: Path) -> None:
    down = wired.proxy.inject(faults.dropped("close"), changes="/manifests/", times=None)
    with pytest.raises(TransientError) as caught:
        wired.save(source, retry={"attempts": 3})
    assert caught.value.attempts == down.struck == 3
    assert caught.value.key.startswith("manifests/")
    assert wired.snapshots() == []
    wired.proxy.heal()
    saved = wired.save(source)
    assert saved.bytes_sent == 0  # what was sent is named
    assert wired.snapshots() == [saved.snapshot]


@pytest.mark.req(22)
def test_a_service_that_ignores_conditions_is_refused_at_the_first_claim(wired: Wired, source: Path) -> None:
    wired.proxy.inject(faults.condition_ignored(), times=None)
    for _ in range(2):
        with pytest.raises(UnsupportedError, match="ignores the condition"):
            wired.save(source)
    assert not wired.proxy.entries(target="/data/")
    assert wired.snapshots() == []
    with wired.run() as run:
        found = {check.name: check for check in diagnose(run)}
    assert found["conditional put"].state == "fail"
    assert "two writers could overwrite each other" in found["conditional put"].detail


@pytest.mark.req(22)
def test_the_doctor_is_content_with_the_service_itself(wired: Wired) -> None:
    with wired.run() as run:
        found = list(diagnose(run))
    assert len(found) > 10
    assert [check for check in found if check.state == "fail" and check.name != "clock"] == []  # ours stands still
