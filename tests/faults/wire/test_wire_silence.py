"""A service that accepts a request and says nothing: it fails in time, and says what failed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from support.tree import fingerprint
from support.wired import LARGE_BYTES, PART_BYTES, PARTS, Wired

from ckptsync.errors import StoreError, TransientError
from ckptsync.options import MIB
from ckptsync.testing.proxy import faults

PATIENCE_S = 0.5
ATTEMPTS = 3
IMPATIENT: dict[str, dict[str, Any]] = {
    "http": dict.fromkeys(("connect_timeout_s", "read_timeout_s", "finish_timeout_s", "stall_timeout_s"), PATIENCE_S),
    "retry": {"attempts": ATTEMPTS},
    "transfer": {"workers": 2},
}
PATIENT: dict[str, dict[str, Any]] = {
    "http": {"connect_timeout_s": 1.0, "read_timeout_s": 1.0, "stall_timeout_s": 1.0},
    "retry": {"attempts": 8},
    "transfer": {"workers": 2},
}
"""For what succeeds in the end, also on a machine that is busy."""
SDK_S = 1.0
"""boto3 waits so long for leave to send a body, whatever its timeouts are."""
MARGIN_S = 10.0


@pytest.mark.req(10)
@pytest.mark.parametrize(
    ("verb", "where"),
    [
        ("list", {"method": "GET", "target": "prefix="}),
        ("put", {"changes": "/journals/"}),
        ("begin", {"method": "POST", "target": r"\?uploads"}),
        ("put_part", {"target": "partNumber="}),
        ("put_part", {"target": "partNumber=2"}),
        ("finish", {"method": "POST", "target": "uploadId="}),
    ],
)
def test_a_silent_service_fails_a_save_in_time(wired: Wired, source: Path, verb: str, where: dict[str, str]) -> None:
    wired.claim()
    silent = wired.proxy.inject(faults.silence(), times=None, **where)
    begun_s = time.monotonic()
    with pytest.raises(TransientError) as caught:
        wired.save(source, **IMPATIENT)
    assert time.monotonic() - begun_s < ATTEMPTS * (2 * PATIENCE_S + SDK_S) + MARGIN_S
    assert (caught.value.op, caught.value.attempts) == (verb, ATTEMPTS)
    assert caught.value.key
    assert caught.value.key in str(caught.value)
    assert f"{ATTEMPTS} attempts" in str(caught.value)
    assert silent.struck >= ATTEMPTS
    assert wired.snapshots() == []


@pytest.mark.req(10, 33)
def test_a_silent_service_fails_a_restore_in_time(wired: Wired, source: Path) -> None:
    wired.save(source)
    wired.proxy.inject(faults.silence(), header="Range", target="/data/", times=None)
    begun_s = time.monotonic()
    with pytest.raises(TransientError) as caught:
        wired.restore(**IMPATIENT)
    assert time.monotonic() - begun_s < ATTEMPTS * PATIENCE_S + MARGIN_S
    assert (caught.value.op, caught.value.attempts) == ("get", ATTEMPTS)
    assert caught.value.key.startswith("data/")
    assert not wired.target.exists()


@pytest.mark.req(10, 33)
def test_silence_in_the_middle_of_a_body_loses_nothing_that_came(wired: Wired, source: Path) -> None:
    wired.save(source)
    silent = wired.proxy.inject(
        faults.broken_after(2 * MIB, how="silence"), header="Range", target="/model.bin", times=4
    )
    wired.restore(**PATIENT)
    assert silent.struck == 4
    assert fingerprint(wired.target) == fingerprint(source)
    fetched = sum(entry.received for entry in wired.proxy.entries("GET", "/model.bin"))
    assert fetched - LARGE_BYTES < 4 * MIB  # less than half of what a part fetched anew would cost


@pytest.mark.req(10, 33)
def test_a_body_that_drips_is_given_up_and_fetched_elsewhere(wired: Wired, source: Path) -> None:
    wired.save(source)
    drip = wired.proxy.inject(faults.pace(1000), header="Range", target="/model.bin", times=2)
    begun_s = time.monotonic()
    wired.restore(**PATIENT)
    assert time.monotonic() - begun_s < 2 * (1.0 + 1.0) + MARGIN_S  # at 1 kB/s a part would take 87 minutes
    assert drip.struck == 2
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(10)
def test_silence_in_the_middle_of_a_part_is_overcome(wired: Wired, source: Path) -> None:
    silent = wired.proxy.inject(
        faults.broken_after(MIB, direction="up", how="silence"), target="partNumber=", skip=1, times=2
    )
    wired.save(source, **PATIENT)
    assert silent.struck == 2
    assert len(wired.begun()) == 1
    assert sum(entry.sent for entry in wired.part_puts()) <= LARGE_BYTES + 2 * PART_BYTES
    wired.restore_directly()
    assert fingerprint(wired.target) == fingerprint(source)


@pytest.mark.req(10, 20)
def test_a_commit_answered_with_silence_is_a_commit(wired: Wired, source: Path) -> None:
    wired.proxy.inject(faults.lost_answer("silence"), changes="/manifests/")
    saved = wired.save(source, **PATIENT)
    assert wired.snapshots() == [saved.snapshot]


@pytest.mark.req(10)
def test_a_service_that_is_not_there_fails_at_once(wired: Wired, source: Path) -> None:
    wired.proxy.stop()
    begun_s = time.monotonic()
    with pytest.raises(StoreError) as caught:
        wired.save(source, **IMPATIENT)
    assert time.monotonic() - begun_s < MARGIN_S
    assert caught.value.attempts == ATTEMPTS
    wired.proxy.start()
    assert wired.save(source).parts_sent >= PARTS
