from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ckptsync.catalog import Catalog
from ckptsync.errors import FencedError
from ckptsync.run import Run
from ckptsync.store.memory import MemoryStore
from ckptsync.tenure import Tenure
from ckptsync.verbs.save import save


@pytest.fixture
def catalog() -> Catalog:
    return Catalog(MemoryStore())


def test_a_process_claims_once_for_steps_that_rise(catalog: Catalog) -> None:
    ours = Tenure()
    assert [ours.epoch_for(catalog, step) for step in (1, 2, 9)] == [1, 1, 1]


def test_a_step_that_does_not_rise_takes_the_next_epoch(catalog: Catalog) -> None:
    ours = Tenure()
    assert [ours.epoch_for(catalog, step) for step in (5, 5, 3, 4)] == [1, 2, 3, 3]


@pytest.mark.req(26)
@pytest.mark.parametrize("step", [1, 5, 6])
def test_an_overtaken_process_does_not_take_the_run_back(catalog: Catalog, step: int) -> None:
    zombie = Tenure()
    zombie.epoch_for(catalog, 5)
    assert Tenure().epoch_for(catalog, 2) == 2
    for _ in range(2):
        with pytest.raises(FencedError, match="epoch 2 is newer than ours, 1"):
            zombie.epoch_for(catalog, step)
    assert catalog.newest_epoch() == 2


def test_who_is_overtaken_between_the_look_and_the_claim_is_fenced() -> None:
    class Racing(Catalog):
        def check_not_fenced(self, epoch: int) -> None:
            super().check_not_fenced(epoch)
            if self.newest_epoch() == 1:
                self.claim()

    catalog = Racing(MemoryStore())
    ours = Tenure()
    ours.epoch_for(catalog, 5)
    with pytest.raises(FencedError):
        ours.epoch_for(catalog, 5)
    assert catalog.newest_epoch() == 2


def test_a_run_that_was_deleted_is_claimed_anew(catalog: Catalog) -> None:
    ours = Tenure()
    ours.epoch_for(catalog, 5)
    catalog.store.delete([found.key for found in catalog.store.list("")])
    assert ours.epoch_for(catalog, 6) == 1
    assert catalog.newest_epoch() == 1


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
