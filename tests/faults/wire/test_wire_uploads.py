"""Multipart uploads whose parts or whose end go wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.tree import fingerprint
from support.wired import LARGE_BYTES, PARTS, Wired

from ckptsync.errors import CredentialsError, StoreError
from ckptsync.options import MIB
from ckptsync.testing.proxy import Fault, answers, faults
from ckptsync.verbs.save import save

COMPLETE = r"uploadId="
"""Of a POST: the end of an upload."""


def check_saved(wired: Wired, source: Path) -> None:
    """What is committed is what was saved."""
    wired.restore_directly()
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(29)
@pytest.mark.parametrize("make", [faults.answered, faults.replaced_answer], ids=["failed", "finished"])
def test_an_error_under_status_200_is_tried_again(
    wired: Wired, source: Path, make: Callable[[answers.Answer], Fault]
) -> None:
    fault = make(answers.error_in_200())
    rule = wired.proxy.inject(fault, method="POST", target=COMPLETE)
    wired.save(source)
    assert rule.struck == 1
    assert len(wired.part_puts()) == PARTS
    check_saved(wired, source)


@pytest.mark.req(29)
def test_an_error_under_status_200_for_ever_commits_nothing(wired: Wired, source: Path) -> None:
    rule = wired.proxy.inject(faults.answered(answers.error_in_200()), method="POST", target=COMPLETE, times=None)
    with pytest.raises(StoreError) as caught:
        wired.save(source, retry={"attempts": 3})
    assert caught.value.op == "finish"
    assert caught.value.attempts == rule.struck == 3
    assert wired.snapshots() == []


@pytest.mark.req(29)
@pytest.mark.parametrize("fault", [faults.lost_answer(), faults.replaced_answer(answers.internal_error())])
def test_an_upload_that_is_gone_because_it_is_finished_is_finished(wired: Wired, source: Path, fault: Fault) -> None:
    wired.proxy.inject(fault, method="POST", target=COMPLETE)
    wired.proxy.inject(faults.answered(answers.no_such_upload()), method="POST", target=COMPLETE, skip=1)
    wired.save(source)
    assert len(wired.part_puts()) == PARTS
    check_saved(wired, source)


@pytest.mark.req(29, 30)
@pytest.mark.parametrize("answer", [answers.no_such_upload(), answers.invalid_part()], ids=lambda answer: answer.code)
def test_an_upload_that_cannot_be_finished_is_begun_anew(wired: Wired, source: Path, answer: answers.Answer) -> None:
    wired.proxy.inject(faults.answered(answer), method="POST", target=COMPLETE)
    wired.save(source)
    assert len(wired.begun()) == 2
    assert len(wired.part_puts()) == 2 * PARTS
    check_saved(wired, source)
    with wired.direct() as run:
        assert list(run.store.uploads("")) == []


@pytest.mark.req(29, 30)
def test_an_upload_that_is_gone_between_two_parts_is_begun_anew(wired: Wired, source: Path) -> None:
    """What a lifecycle rule does that aborts uploads."""

    aborted: list[str] = []

    def abort_once(_: object) -> bool:
        if not aborted:
            with wired.direct() as run:
                for upload in run.store.uploads(""):
                    aborted.append(upload.id)
                    run.store.abort(upload)
        return False

    wired.proxy.inject(Fault(name="meanwhile", only_if=abort_once), target="partNumber=3", times=None)
    wired.save(source, transfer={"workers": 1})
    assert len(aborted) == 1
    assert len(wired.begun()) == 2
    check_saved(wired, source)


@pytest.mark.req(30)
def test_an_upload_aborted_behind_our_back_is_begun_anew_by_the_next_save(wired: Wired, source: Path) -> None:
    refused = answers.expired_token() if wired.cloud == "s3" else answers.unauthorized()
    wired.proxy.inject(faults.answered(refused), target="partNumber=", skip=4, times=None)
    with pytest.raises(CredentialsError):
        wired.save(source, transfer={"workers": 1})
    wired.proxy.heal()
    with wired.direct() as run:
        uploads = list(run.store.uploads(""))
        assert len(uploads) == 1
        run.store.abort(uploads[0])
    wired.save(source)
    assert len(wired.begun()) == 1
    assert len(wired.part_puts()) == PARTS
    check_saved(wired, source)


@pytest.mark.req(16, 29)
@pytest.mark.parametrize("before", ["PUT .*partNumber=", "POST .*uploadId="], ids=["next part", "complete"])
def test_a_part_that_arrives_again_later_changes_nothing(wired: Wired, source: Path, before: str) -> None:
    rule = wired.proxy.inject(faults.late_duplicate(before), target="partNumber=2")
    wired.save(source, transfer={"workers": 1})
    assert rule.struck == 1
    assert len(wired.begun()) == 1
    check_saved(wired, source)


@pytest.mark.req(16, 29)
def test_other_content_that_arrives_later_is_noticed(wired: Wired, source: Path) -> None:
    """A part with other bytes takes the place of ours: the service refuses to finish, or refuses the part."""
    wired.proxy.inject(faults.late_duplicate("POST .*uploadId=", flip=100), target="partNumber=2")
    wired.save(source, transfer={"workers": 1})
    assert len(wired.begun()) == (2 if wired.cloud == "s3" else 1)  # there, without a checksum, it is stored
    check_saved(wired, source)


@pytest.mark.req(16)
@pytest.mark.parametrize("target", ["partNumber=1", "small.bin"])
def test_a_bit_that_flips_on_the_way_up_is_sent_again(wired: Wired, source: Path, tmp_path: Path, target: str) -> None:
    small = tmp_path / "two parts.bin" if "part" in target else tmp_path / "small.bin"
    small.write_bytes((source / "model.bin").read_bytes()[: 5 * MIB + 9 if "part" in target else MIB])
    where = {"target": target} if "part" in target else {"changes": r"/data/.*small\.bin$"}
    rule = wired.proxy.inject(faults.flipped_bit(100_000, direction="up"), **where)
    wired.save(small, s3={"checksum": "auto"})
    assert rule.struck == 1
    wired.restore_directly()
    assert wired.target.read_bytes() == small.read_bytes()


@pytest.mark.req(16)
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_part_cut_on_the_way_up_is_sent_again(wired: Wired, source: Path, how: faults.Ending) -> None:
    rule = wired.proxy.inject(faults.broken_after(MIB, direction="up", how=how), target="partNumber=", skip=1, times=2)
    wired.save(source)
    assert rule.struck == 2
    assert len(wired.begun()) == 1
    check_saved(wired, source)


@pytest.mark.req(33)
@pytest.mark.parametrize("how", ["reset", "close"])
def test_a_save_gets_through_a_line_that_breaks_every_12_mb(wired: Wired, source: Path, how: faults.Ending) -> None:
    wired.proxy.inject(faults.broken_every(12_000_000, direction="up", how=how), times=None)
    wired.save(source)
    sent = sum(entry.sent for entry in wired.part_puts())
    broken = [entry for entry in wired.part_puts() if entry.status == 0]
    assert len(broken) >= 2
    assert sent - LARGE_BYTES < len(broken) * 5 * MIB
    check_saved(wired, source)


@pytest.mark.req(29)
def test_a_part_whose_answer_is_lost_is_sent_again(wired: Wired, source: Path) -> None:
    wired.proxy.inject(faults.lost_answer(), target="partNumber=", skip=1, times=2)
    wired.save(source)
    assert len(wired.part_puts()) == PARTS + 2
    check_saved(wired, source)


@pytest.mark.req(30)
def test_an_upload_nobody_knows_of_is_left_to_gc(wired: Wired, source: Path) -> None:
    """The answer to its beginning is lost: there are two, and only one is finished."""
    wired.proxy.inject(faults.lost_answer(), method="POST", target=r"\?uploads")
    with wired.run() as run:
        save(run, source, step=1)
        assert len(list(run.store.uploads(""))) == 1
    check_saved(wired, source)
