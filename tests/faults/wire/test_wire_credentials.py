"""Credentials that run out while a file is on its way, and rights that are missing."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from support.tree import fingerprint
from support.wired import PARTS, Wired

from ckptsync.errors import CredentialsError, DeniedError
from ckptsync.policy import LatestN
from ckptsync.testing.proxy import Answer, answers, faults
from ckptsync.verbs.gc import collect

ALONE = {"transfer": {"workers": 1}}


@pytest.mark.req(18)
def test_a_token_that_expires_at_part_5_is_read_afresh(
    s3: Wired, source: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expired = s3.proxy.inject(faults.answered(answers.expired_token()), target="partNumber=", skip=4)
    with caplog.at_level(logging.WARNING, "ckptsync"):
        s3.save(source, **ALONE)
    assert expired.struck == 1
    assert len(s3.begun()) == 1
    assert [entry.status for entry in s3.part_puts()] == [200, 200, 200, 200, 400, 200, 200]
    assert len([record for record in caplog.records if "expired" in record.message]) == 1
    s3.restore_directly()
    assert fingerprint(s3.target) == fingerprint(source)


def expired(wired: Wired) -> Answer:
    return answers.expired_token() if wired.cloud == "s3" else answers.unauthorized()


@pytest.mark.req(18)
def test_a_token_that_stays_expired_stops_the_save_and_the_next_goes_on(wired: Wired, source: Path) -> None:
    rule = wired.proxy.inject(faults.answered(expired(wired)), target="partNumber=", skip=4, times=None)
    with pytest.raises(CredentialsError):
        wired.save(source, **ALONE)
    assert rule.struck <= 5
    assert wired.snapshots() == []
    assert list((wired.work / "state").rglob("*")), "the journal is kept"
    wired.proxy.heal()
    saved = wired.save(source, **ALONE)
    assert wired.begun() == []
    assert len(wired.part_puts()) == PARTS - 4
    assert saved.bytes_reused >= 4 * 5 * (1 << 20)
    wired.restore_directly()
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(18)
def test_expired_for_everything_is_told_at_once(wired: Wired, source: Path) -> None:
    wired.proxy.inject(faults.answered(expired(wired)), times=None)
    with pytest.raises(CredentialsError) as caught:
        wired.save(source)
    assert len(wired.proxy.entries()) <= 5
    assert "test" not in str(caught.value).split()  # the keys of the loopback server


@pytest.mark.req(32)
@pytest.mark.parametrize(
    ("where", "words"),
    [
        ({"method": "GET", "target": "prefix="}, ("s3:ListBucket", "storage.objects.list")),
        ({"changes": "/journals/"}, ("s3:PutObject", "storage.objects.create")),
        ({"method": "POST", "target": r"\?uploads"}, ("s3:PutObject", "storage.multipartUploads.create")),
        ({"target": "partNumber="}, ("s3:PutObject", "storage.multipartUploads.create")),
        ({"changes": "/manifests/"}, ("s3:PutObject", "storage.objects.create")),
    ],
)
def test_a_missing_right_is_named(wired: Wired, source: Path, where: dict[str, str], words: tuple[str, str]) -> None:
    wired.claim()
    wired.proxy.inject(faults.answered(answers.denied()), times=None, **where)
    with pytest.raises(DeniedError, match=words[wired.cloud == "gs"]):
        wired.save(source)
    assert wired.snapshots() == []
    wired.proxy.heal()
    wired.save(source)
    assert len(wired.snapshots()) == 1


@pytest.mark.req(31, 32)
def test_without_the_right_to_delete_a_collection_harms_nothing(wired: Wired, source: Path) -> None:
    wired.save(source, 1)
    wired.save(source, 2)
    wired.proxy.inject(faults.answered(answers.denied()), method="DELETE", times=None)
    wired.proxy.inject(faults.answered(answers.denied()), method="POST", target=r"\?delete", times=None)
    with wired.run() as run, pytest.raises(DeniedError, match=r"DeleteObject|objects\.delete"):
        collect(run, LatestN(1), grace_s=0.0, dry_run=False)
    assert len(wired.snapshots()) == 2
    wired.restore_directly()
    assert fingerprint(wired.target) == fingerprint(source)
