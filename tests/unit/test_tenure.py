from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import ckptsync
from ckptsync.claims import Claims
from ckptsync.errors import ConfigError, FencedError
from ckptsync.run import Run
from ckptsync.store.memory import MemoryStore
from ckptsync.tenure import Tenure
from ckptsync.verbs.save import save


@pytest.fixture
def claims() -> Claims:
    return Claims(MemoryStore())


def test_a_process_claims_once_for_steps_that_rise(claims: Claims) -> None:
    ours = Tenure()
    assert [ours.epoch_for(claims, step) for step in (1, 2, 9)] == [1, 1, 1]


def test_a_step_that_does_not_rise_takes_the_next_epoch(claims: Claims) -> None:
    ours = Tenure()
    assert [ours.epoch_for(claims, step) for step in (5, 5, 3, 4)] == [1, 2, 3, 3]


@pytest.mark.req(26)
@pytest.mark.parametrize("step", [1, 5, 6])
def test_an_overtaken_process_does_not_take_the_run_back(claims: Claims, step: int) -> None:
    zombie = Tenure()
    zombie.epoch_for(claims, 5)
    assert Tenure().epoch_for(claims, 2) == 2
    for _ in range(2):
        with pytest.raises(FencedError, match="epoch 2 is newer than ours, 1"):
            zombie.epoch_for(claims, step)
    assert claims.newest_epoch() == 2


def test_who_is_overtaken_between_the_look_and_the_claim_is_fenced() -> None:
    class Racing(Claims):
        def check_not_fenced(self, epoch: int) -> None:
            super().check_not_fenced(epoch)
            if self.newest_epoch() == 1:
                self.claim()

    claims = Racing(MemoryStore())
    ours = Tenure()
    ours.epoch_for(claims, 5)
    with pytest.raises(FencedError):
        ours.epoch_for(claims, 5)
    assert claims.newest_epoch() == 2


def test_a_run_that_was_deleted_is_claimed_anew(claims: Claims) -> None:
    ours = Tenure()
    ours.epoch_for(claims, 5)
    claims.store.delete([found.key for found in claims.store.list("")])
    assert ours.epoch_for(claims, 6) == 1
    assert claims.newest_epoch() == 1


@pytest.mark.req(26)
def test_a_zombie_that_saves_again_sends_nothing(run_with: Callable[..., Run], source: Path) -> None:
    run, ours = run_with(), Tenure()
    save(run, source, step=1, tenure=ours)
    new = save(run, source, step=1)
    before = [found.key for found in run.store.list("")]
    with pytest.raises(FencedError):
        save(run, source, step=2, tenure=ours)
    assert [found.key for found in run.store.list("")] == before
    latest = run.catalog.latest()
    assert latest is not None
    assert latest.snapshot == new.snapshot


@pytest.mark.req(25, 26)
def test_who_was_overtaken_as_a_rank_does_not_take_the_run_back_by_itself(claims: Claims) -> None:
    zombie = Tenure()
    assert zombie.join(claims, "first") == 1
    assert Tenure().join(claims, "second") == 2
    with pytest.raises(FencedError, match="epoch 2 is newer than ours, 1"):
        zombie.epoch_for(claims, 6)
    assert claims.newest_epoch() == 2


@pytest.mark.req(25, 26)
def test_a_rank_does_not_save_by_itself(claims: Claims) -> None:
    ours, other = Tenure(), Tenure()
    ours.epoch_for(claims, 9)
    assert [one.join(claims, "job") for one in (ours, other, ours)] == [2, 2, 2]
    for one in (ours, other):
        with pytest.raises(ConfigError, match="this process saves as a rank of launch 'job'"):
            one.epoch_for(claims, 10)
    assert claims.newest_epoch() == 2
    assert ours.join(claims, "the end") == 3


def test_threads_of_a_process_take_turns(run_with: Callable[..., Run], source: Path) -> None:
    run, ours, steps = run_with(), Tenure(), [3, 1, 4, 1, 5, 9, 2, 6]
    with ThreadPoolExecutor(len(steps)) as pool:
        done = list(pool.map(lambda step: save(run, source, step=step, tenure=ours), steps))
    assert sorted(one.step for one in done) == sorted(steps)
    assert {one.snapshot for one in done} == {str(listed.id) for listed in run.catalog.listed()}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_a_forked_child_is_another_writer(tmp_path: Path, source: Path) -> None:
    ckptsync.save(source, str(tmp_path / "run"), step=1)
    if not (child := os.fork()):
        ckptsync.save(source, str(tmp_path / "run"), step=2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(FencedError, match="epoch 2 is newer than ours, 1"):
        ckptsync.save(source, str(tmp_path / "run"), step=3)
