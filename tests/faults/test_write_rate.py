"""A service that lets each object be changed once a second: nothing is rewritten in haste, and a lost race is told from haste."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ckptsync.options import MIB, Config, Gcs, Http, Retry, Transfer
from ckptsync.policy import LatestN
from ckptsync.run import Run, run_on
from ckptsync.snapshot import layout
from ckptsync.store.gcs import GcsStore
from ckptsync.store.retry import Retrying
from ckptsync.testing.clock import FakeClock
from ckptsync.testing.faults import Faulty
from ckptsync.testing.gcs import GcsServer
from ckptsync.verbs.gc import collect
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save

from .beds import quick
from .checks import check_whole


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def faulty(clock: FakeClock) -> Iterator[Faulty]:
    """A strict bucket, each request to which is noted."""
    with GcsServer(buckets=["b"], clock=clock, writes_per_s=1.0) as server:
        options = Gcs(endpoint_url=server.url, anonymous=True)
        with Faulty(GcsStore("b", "run", options, Http(), connections=4)) as store:
            yield store


@pytest.fixture
def run(faulty: Faulty, clock: FakeClock, tmp_path: Path) -> Run:
    config = Config(transfer=Transfer(part_bytes=MIB, workers=1), state_dir=str(tmp_path / "state"))
    store = Retrying(faulty, Retry(), clock=clock, observer=lambda _: None)
    return run_on(store, config, observer=lambda _: None, clock=clock)


@pytest.mark.req(21)
def test_no_object_is_written_twice_but_the_claim_that_proves_the_condition(
    run: Run, faulty: Faulty, clock: FakeClock, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with quick():
        for step in range(1, 4):
            (tree / "state.json").write_text(str(step))
            save(run, tree, step=step, alias="newest")
        collect(run, LatestN(1), grace_s=0, dry_run=False)
    written = Counter(call.key for call in faulty.calls if call.verb in {"put", "copy", "finish"})
    twice = {key for key, count in written.items() if count > 1}
    assert twice <= {layout.writer_key(1)}
    assert sum(clock.slept_s) < 20
    assert [one.id.step for one in run.catalog.listed()] == [3]
    check_whole(run, set())


@pytest.mark.parametrize("writes_per_s", [1.0, None])
def test_a_lease_is_deleted_at_once_and_again_where_that_is_too_soon(
    writes_per_s: float | None, tmp_path: Path
) -> None:
    clock = FakeClock()
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "state.json").write_text("1")
    with GcsServer(buckets=["b"], clock=clock, writes_per_s=writes_per_s) as server:
        options = Gcs(endpoint_url=server.url, anonymous=True)
        with Faulty(GcsStore("b", "run", options, Http(), connections=4)) as faulty:
            store = Retrying(faulty, Retry(), clock=clock, observer=lambda _: None)
            run = run_on(store, Config(state_dir=str(tmp_path / "state")), observer=lambda _: None, clock=clock)
            save(run, tmp_path / "tree", step=1)
            clock.sleep(60)
            faulty.calls.clear()
            clock.slept_s.clear()
            restore(run, tmp_path / "out")
            deletions = [call for call in faulty.calls if call.verb == "delete"]
            assert [*store.list(layout.LEASES)] == []
    assert (tmp_path / "out" / "state.json").read_text() == "1"
    assert bool(clock.slept_s) == (len(deletions) > 1) == (writes_per_s is not None)
