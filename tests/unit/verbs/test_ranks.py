from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET

from ckptsync.catalog import Catalog
from ckptsync.clock import SYSTEM
from ckptsync.errors import (
    CkptsyncError,
    ConfigError,
    DeniedError,
    FencedError,
    IncompleteError,
    ManifestError,
    TransientError,
    UnsupportedError,
)
from ckptsync.events import Event
from ckptsync.options import MIB
from ckptsync.policy import LatestN
from ckptsync.run import Run
from ckptsync.snapshot import layout
from ckptsync.snapshot.cost import Loop
from ckptsync.snapshot.signature import Keys, PublicKey
from ckptsync.store.base import StoreWrapper
from ckptsync.transfer.source import Identity
from ckptsync.verbs import gathering
from ckptsync.verbs.gc import collect
from ckptsync.verbs.ranks import Rank, save_rank
from ckptsync.verbs.remove import remove
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import Saved, save
from ckptsync.verbs.status import status
from ckptsync.verbs.verify import verify

Outcome = Saved | BaseException


@pytest.fixture
def shards(tmp_path: Path) -> Callable[[int], Path]:
    """What a rank has on its disk: a shard of its own, of three parts, and a file that all have."""

    def make(rank: int) -> Path:
        folder = tmp_path / f"node-{rank}"
        if not folder.exists():
            folder.mkdir()
            (folder / f"shard-{rank}.bin").write_bytes(bytes([rank + 1]) * (2 * MIB + rank))
            (folder / "config.json").write_bytes(b"{}")
            (folder / "empty").touch()
        return folder

    return make


def _each(ranks: Iterable[int], call: Callable[[int], Saved]) -> dict[int, Outcome]:
    """Call at the same time; what each returned or raised."""
    outcomes: dict[int, Outcome] = {}

    def one(rank: int) -> None:
        try:
            outcomes[rank] = call(rank)
        except CkptsyncError as error:
            outcomes[rank] = error

    threads = [threading.Thread(target=one, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.fixture
def save_all(run: Run, shards: Callable[[int], Path]) -> Callable[..., dict[int, Outcome]]:
    """Save with some of the ranks, each in a thread of its own. Time is real: ranks truly wait for each other."""
    run = replace(run, clock=SYSTEM)

    def saving(world: int, ranks: Iterable[int] | None = None, *, step: int = 5, **options: Any) -> dict[int, Outcome]:
        def one(rank: int) -> Saved:
            chosen = Rank(**{"rank": rank, "world": world, "launch": "job-1", "timeout_s": 300.0, **options})
            return save_rank(run, shards(rank), chosen, step=step, metrics={"loss": 1.0 + rank, f"only{rank}": 1})

        return _each(range(world) if ranks is None else ranks, one)

    return saving


@pytest.mark.req(25)
def test_the_files_of_all_ranks_become_one_snapshot(
    run: Run, shards: Callable[[int], Path], save_all: Callable[..., dict[int, Outcome]], tmp_path: Path
) -> None:
    outcomes = save_all(4)
    results = [outcome for outcome in outcomes.values() if isinstance(outcome, Saved)]
    assert len(results) == 4, outcomes
    assert len({result.snapshot for result in results}) == 1
    assert [listed.id.step for listed in run.catalog.listed()] == [5]
    restore(run, tmp_path / "back")
    assert sorted(path.name for path in (tmp_path / "back").iterdir()) == [
        "config.json",
        "empty",
        *(f"shard-{rank}.bin" for rank in range(4)),
    ]
    for rank in range(4):
        name = f"shard-{rank}.bin"
        assert (tmp_path / "back" / name).read_bytes() == (shards(rank) / name).read_bytes()
    manifest = run.catalog.latest()
    assert manifest is not None
    assert manifest.metrics == {"loss": 1.0, **{f"only{rank}": 1 for rank in range(4)}}
    assert len(manifest.ranks) == 4


@pytest.mark.req(25)
def test_a_file_that_all_ranks_have_is_stored_once(run: Run, save_all: Callable[..., dict[int, Outcome]]) -> None:
    outcomes = save_all(4)
    keys = [found.key.rpartition("/")[2] for found in run.store.list(layout.DATA)]
    assert keys == ["config.json", "empty", *(f"shard-{rank}.bin" for rank in range(4))]
    sent = sum(outcome.bytes_sent for outcome in outcomes.values() if isinstance(outcome, Saved))
    assert sent == sum(found.size for found in run.store.list(layout.DATA))


@pytest.mark.req(25, 10)
def test_a_missing_rank_is_named_and_the_previous_snapshot_stays(
    run: Run, save_all: Callable[..., dict[int, Outcome]], source: Path, shards: Callable[[int], Path]
) -> None:
    before = save(run, source, step=1)
    outcomes = save_all(4, ranks=[0, 1, 2], timeout_s=0.5)
    for outcome in outcomes.values():
        assert isinstance(outcome, IncompleteError)
        assert outcome.exit_code == 7
        assert outcome.missing == (3,)
        assert "1 of 4 ranks" in str(outcome)
        assert "rank 3 (host unknown" in str(outcome)
    latest = run.catalog.latest()
    assert latest is not None
    assert latest.snapshot == before.snapshot
    pending = status(run).pending[0]
    assert (pending.world, pending.missing) == (4, ("rank 3 (host unknown, it never began)",))
    late = save_rank(run, shards(3), Rank(rank=3, world=4, launch="job-1"), step=5)
    assert late.committed
    assert late.files == 6


@pytest.mark.req(25)
def test_the_host_of_a_rank_that_began_and_died_is_named(
    save_all: Callable[..., dict[int, Outcome]], store: Any, killed: type[BaseException]
) -> None:
    def kill(verb: str, key: str) -> None:
        if verb == "put_part" and key.endswith("shard-1.bin"):
            raise killed

    store.before = kill
    outcomes: dict[int, Any] = {}
    died = threading.Thread(target=lambda: _swallow(killed, lambda: save_all(2, ranks=[1])))
    died.start()
    died.join()
    store.heal()
    outcomes = save_all(2, ranks=[0], timeout_s=0.0)
    assert "rank 1 (host " in str(outcomes[0])
    assert "unknown" not in str(outcomes[0])


def _swallow(kind: type[BaseException], call: Callable[[], object]) -> None:
    threading.excepthook, before = (lambda _: None), threading.excepthook
    try:
        call()
    except kind:
        pass
    finally:
        threading.excepthook = before


@pytest.mark.req(25)
def test_other_steps_are_not_mixed_and_the_message_says_so(save_all: Callable[..., dict[int, Outcome]]) -> None:
    assert isinstance(save_all(2, ranks=[1], step=6, timeout_s=0.0)[1], IncompleteError)
    outcome = save_all(2, ranks=[0], step=5, timeout_s=0.0)[0]
    assert isinstance(outcome, IncompleteError)
    assert "it has saved step 6" in str(outcome)


@pytest.mark.req(25, 26)
def test_another_launch_fences_the_first(run: Run, save_all: Callable[..., dict[int, Outcome]]) -> None:
    save_all(2, ranks=[0], timeout_s=0.0)
    assert isinstance(save_all(2, launch="job-2")[0], Saved)
    outcomes = save_all(2)
    assert all(isinstance(outcome, FencedError) for outcome in outcomes.values())
    assert [listed.id.epoch for listed in run.catalog.listed()] == [2]


@pytest.mark.req(25)
def test_ranks_that_disagree_about_their_number_are_refused_at_once(
    save_all: Callable[..., dict[int, Outcome]],
) -> None:
    save_all(8, ranks=[3], timeout_s=0.0)
    outcome = save_all(4, ranks=[0])[0]
    assert isinstance(outcome, IncompleteError)
    assert "rank 3 says that there are 8 ranks" in str(outcome)


@pytest.mark.parametrize("size", [10, 3 * MIB])
def test_different_files_of_one_name_are_refused(run: Run, tmp_path: Path, size: int) -> None:
    for rank in range(2):
        (tmp_path / f"n{rank}").mkdir()
        (tmp_path / f"n{rank}" / "model.bin").write_bytes(bytes([rank]) * size)

    def one(rank: int) -> Saved:
        return save_rank(
            replace(run, clock=SYSTEM),
            tmp_path / f"n{rank}",
            Rank(rank=rank, world=2, launch="x", timeout_s=1.0),
            step=1,
        )

    outcomes = _each(range(2), one)
    assert any(isinstance(outcome, IncompleteError) and "--under" in str(outcome) for outcome in outcomes.values())
    assert run.catalog.latest() is None


def test_each_rank_may_have_a_folder_of_its_own(run: Run, tmp_path: Path) -> None:
    for rank in range(2):
        (tmp_path / f"n{rank}").mkdir()
        (tmp_path / f"n{rank}" / "model.bin").write_bytes(bytes([rank]) * 10)

    def one(rank: int) -> Saved:
        return save_rank(
            replace(run, clock=SYSTEM),
            tmp_path / f"n{rank}",
            Rank(rank=rank, world=2, launch="x", under=f"r/{rank}"),
            step=1,
        )

    assert all(isinstance(outcome, Saved) for outcome in _each(range(2), one).values())
    restore(run, tmp_path / "back")
    assert (tmp_path / "back/r/1/model.bin").read_bytes() == b"\1" * 10


@pytest.mark.req(25)
def test_exactly_one_commit_is_made_and_most_ranks_read_no_reports(
    run: Run, save_all: Callable[..., dict[int, Outcome]], store: Any
) -> None:
    save_all(8)
    puts = [key for verb, key in store.calls if verb == "put" and key.startswith(layout.MANIFESTS)]
    assert len(puts) == 1
    reads = [key for verb, key in store.calls if verb == "read" and key.endswith("-of-00008.json")]
    assert len(reads) <= 8 + 8  # the committer's, and each rank's look at its own
    del run


@pytest.mark.req(25, 20)
def test_a_committer_that_died_is_replaced(
    run: Run, save_all: Callable[..., dict[int, Outcome]], store: Any, shards: Callable[[int], Path]
) -> None:
    save_all(2, ranks=[0], timeout_s=0.0)
    epoch = run.catalog.claims.newest_epoch()
    snapshot = layout.shared_snapshot_id(epoch, 5, "job-1")
    store.put(layout.committer_key(snapshot), b"0", if_absent=True)  # it said so, and was killed
    save_rank(run, shards(1), Rank(rank=1, world=2, launch="job-1"), step=5)
    assert sum(run.clock.slept_s) >= gathering.TAKE_OVER_S  # type: ignore[attr-defined]


def test_two_committers_agree(run: Run, save_all: Callable[..., dict[int, Outcome]]) -> None:
    saved = save_all(2)[0]
    assert isinstance(saved, Saved)
    snapshot = layout.parse_snapshot_id(saved.snapshot)
    assert snapshot is not None
    again = gathering.Gathering(run=run, snapshot=snapshot, rank=1, world=2).commit()
    manifest = run.catalog.latest()
    assert manifest is not None
    assert again.commit_id == manifest.commit_id


@pytest.mark.req(7)
@pytest.mark.parametrize("lost_journal", [False, True])
def test_a_rank_killed_while_it_sends_sends_only_the_rest(
    run: Run,
    save_all: Callable[..., dict[int, Outcome]],
    store: Any,
    killed: type[BaseException],
    *,
    lost_journal: bool,
) -> None:
    store.fail("put_part", killed, after=1)
    died = threading.Thread(target=lambda: _swallow(killed, lambda: save_all(1)))
    died.start()
    died.join()
    store.heal()
    if lost_journal:
        for journal in run.config.state_path().rglob("*.jsonl"):
            journal.unlink()
    saved = save_all(1)[0]
    assert isinstance(saved, Saved)
    assert store.count()["put_part"] == 1


def test_a_rank_killed_while_it_waits_sends_nothing_again(save_all: Callable[..., dict[int, Outcome]]) -> None:
    save_all(2, ranks=[0], timeout_s=0.0)
    outcomes = save_all(2)
    assert isinstance(outcomes[0], Saved)
    assert outcomes[0].bytes_sent == 0
    assert isinstance(save_all(2, ranks=[0])[0], Saved)  # and so does one that comes when all is over


def test_a_rank_with_other_files_in_the_same_launch_is_refused(
    save_all: Callable[..., dict[int, Outcome]], shards: Callable[[int], Path]
) -> None:
    save_all(2, ranks=[0], timeout_s=0.0)
    (shards(0) / "shard-0.bin").write_bytes(b"something else")
    outcome = save_all(2, ranks=[0])[0]
    assert isinstance(outcome, IncompleteError)
    assert "--launch" in str(outcome)


@pytest.mark.req(20)
def test_a_lost_answer_of_the_report_and_of_the_commit_is_no_failure(
    run_with: Callable[..., Run], save_all: Callable[..., dict[int, Outcome]], store: Any
) -> None:
    del run_with
    lost: set[str] = set()

    def lose(verb: str, key: str) -> None:
        top = key.partition("/")[0]
        if verb == "put" and top in {"ranks", "manifests", "writers"} and key not in lost:
            lost.add(key)
            raise TransientError("the answer was lost")

    store.after = lose
    outcomes = save_all(2)
    assert all(isinstance(outcome, TransientError) for outcome in outcomes.values())  # there is no Retrying here
    store.after = lambda *_: None
    assert all(isinstance(outcome, Saved) for outcome in save_all(2).values())


def test_a_damaged_report_is_an_error_not_a_commit(run: Run, save_all: Callable[..., dict[int, Outcome]]) -> None:
    save_all(2, ranks=[0], timeout_s=0.0)
    snapshot = layout.shared_snapshot_id(run.catalog.claims.newest_epoch(), 5, "job-1")
    run.store.put(layout.report_key(snapshot, 0, 2), b"{}")
    outcome = save_all(2, ranks=[1])[1]
    assert isinstance(outcome, ManifestError)
    assert "the report of rank 0" in str(outcome)
    assert run.catalog.latest() is None


def test_a_report_that_comes_damaged_once_is_read_again(run: Run, save_all: Any, store: Any) -> None:
    save_all(2, ranks=[0], timeout_s=0.0)
    key = layout.report_key(layout.shared_snapshot_id(run.catalog.claims.newest_epoch(), 5, "job-1"), 0, 2)
    good = run.store.read(key)

    def heal(verb: str, read: str) -> None:
        if verb == "get" and read == key:
            store.put(key, good)

    run.store.put(key, good.replace(b"shard-0", b"shard-1"))
    store.after = heal
    assert isinstance(save_all(2, ranks=[1])[1], Saved)


def test_a_store_without_conditional_puts_is_refused_even_with_a_single_writer(
    run_with: Callable[..., Run], limited: Callable[..., StoreWrapper], shards: Callable[[int], Path]
) -> None:
    run = run_with(on=limited(conditional_put=False), single_writer=True)
    with pytest.raises(UnsupportedError, match="ranks cannot commit together"):
        save_rank(run, shards(0), Rank(rank=0, world=2, launch="x"), step=1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 2},
        {"rank": -1},
        {"world": 0},
        {"world": 100_000},
        {"launch": " "},
        {"launch": "x" * 201},
        {"launch": "\udcff"},
        {"under": "../x"},
    ],
)
def test_ranks_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(Rank(rank=0, world=2, launch="x"), **wrong)


def test_gc_deletes_all_that_ranks_left(
    run: Run, save_all: Callable[..., dict[int, Outcome]], store: Any, source: Path, clock: Any
) -> None:
    save_all(2, ranks=[0], timeout_s=0.0)
    save_all(2, step=6)
    last = save(run, source, step=7)
    clock.advance(10)
    collected = collect(run, LatestN(1), grace_s=1.0, dry_run=False)
    assert len(collected.removed) == 1
    assert len(collected.orphans) == 1
    snapshot = layout.parse_snapshot_id(last.snapshot)
    assert snapshot is not None
    left = {found.key for found in store.list("") if not found.key.startswith((layout.WRITERS, layout.LAUNCHES))}
    assert left == {
        layout.manifest_key(snapshot),
        layout.journal_key(snapshot),
        *(found.key for found in store.list(layout.data_prefix(snapshot))),
    }


def test_gc_deletes_reports_of_what_is_committed_long_since(
    run: Run, save_all: Callable[..., dict[int, Outcome]], store: Any, clock: Any, events: list[Event]
) -> None:
    save_all(3)
    clock.advance(100)
    collect(run, None, grace_s=1000.0, dry_run=False)
    assert list(store.list(layout.RANKS))
    collect(run, None, grace_s=1.0, dry_run=False)
    assert all(layout.is_content_key(found.key) for found in store.list(layout.RANKS))
    assert isinstance(save_all(3, ranks=[1])[1], Saved)  # it finds what it has brought in the manifest
    del events


@pytest.mark.req(10)
def test_an_error_of_the_store_names_rank_file_and_part(run: Run, shards: Callable[[int], Path], store: Any) -> None:
    store.fail(
        "put_part", TransientError("the service is silent", op="put_part", attempts=10, request_id="R7"), after=1
    )
    with pytest.raises(TransientError) as caught:
        save_rank(run, shards(1), Rank(rank=1, world=2, launch="x"), step=1)
    assert "rank 1, file shard-1.bin, part " in str(caught.value)
    assert "10 attempts, request R7" in str(caught.value)


# -- nothing of a launch is ever overwritten ---------------------------------------------------------------------------------


@pytest.fixture
def committed(save_all: Callable[..., dict[int, Outcome]]) -> Saved:
    """Two ranks, committed at step 5."""
    outcome = save_all(2)[0]
    assert isinstance(outcome, Saved)
    return outcome


def _refused(outcome: Outcome) -> str:
    assert isinstance(outcome, IncompleteError), outcome
    return str(outcome)


@pytest.mark.req(26, 25)
@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("collected", [False, True])
def test_other_content_after_the_commit_is_refused_and_touches_nothing(
    run: Run, committed: Saved, shards: Callable[[int], Path], save_all: Any, clock: Any, *, world: int, collected: bool
) -> None:
    (shards(0) / "shard-0.bin").write_bytes(bytes(3 * MIB))
    if collected:
        clock.advance(100)
        collect(run, None, grace_s=1.0, dry_run=False)
    assert "--launch" in _refused(save_all(world, ranks=[0])[0])
    assert not verify(run, committed.snapshot).bad


@pytest.mark.req(26)
def test_a_twin_of_a_rank_with_other_content_never_writes_under_its_keys(
    run: Run, save_all: Any, store: Any, tmp_path: Path
) -> None:
    """It is stopped before its upload is finished; the rank is begun anew elsewhere; then it wakes up."""
    other = tmp_path / "twin"
    other.mkdir()
    (other / "shard-0.bin").write_bytes(bytes([9]) * (2 * MIB + 5))
    woken: list[Outcome] = []

    def begin_anew(verb: str, key: str) -> None:
        if verb == "finish" and key.endswith("shard-0.bin") and not woken:
            store.before = lambda *_: None
            woken.append(save_all(1, ranks=[0], timeout_s=0.0)[0])

    store.before = begin_anew
    twin = Rank(rank=0, world=1, launch="job-1", timeout_s=5)
    saved = save_rank(replace(run, clock=SYSTEM), other, twin, step=5)
    assert "--launch" in _refused(woken[0])
    assert not verify(run, saved.snapshot).bad


@pytest.mark.req(8, 25)
def test_a_launch_does_not_go_back_to_a_lower_step(run: Run, save_all: Any, committed: Saved) -> None:
    del committed
    assert "step 4 comes after step 5 of the same launch" in _refused(save_all(2, ranks=[0], step=4)[0])
    assert [listed.id.step for listed in run.catalog.listed()] == [5]


@pytest.mark.req(26)
def test_an_old_launch_stays_fenced_however_many_came_since(run: Run, save_all: Any) -> None:
    for number in range(12):
        assert isinstance(save_all(1, launch=f"job-{number}", step=number)[0], Saved)
    assert isinstance(save_all(1, launch="job-0", step=99)[0], FencedError)
    assert isinstance(save_all(1, launch="job-11", step=99)[0], Saved)
    del run


def test_what_could_not_be_read_back_is_refused_before_anything_is_written(run: Run, shards: Any, store: Any) -> None:
    strict = replace(run, catalog=Catalog(store, keys=Keys(required=(PublicKey("0" * 16, bytes(32)),))))
    with pytest.raises(ConfigError, match=r"signing\.key"):
        save_rank(strict, shards(0), Rank(rank=0, world=1, launch="x"), step=1)
    assert not list(store.list(""))


def test_a_hint_of_a_dead_rank_costs_no_commit_however_short_the_patience(
    run: Run, shards: Any, save_all: Any, store: Any
) -> None:
    save_all(2, ranks=[0], timeout_s=0.0)
    snapshot = layout.shared_snapshot_id(run.catalog.claims.newest_epoch(), 5, "job-1")
    store.put(layout.committer_key(snapshot), b"1", if_absent=True)
    assert isinstance(save_all(2, ranks=[1], timeout_s=0.0)[1], Saved)
    del shards


def test_changed_links_and_folders_are_noticed(shards: Any, save_all: Any) -> None:
    (shards(0) / "link").symlink_to("config.json")
    assert isinstance(save_all(1)[0], Saved)
    (shards(0) / "link").unlink()
    (shards(0) / "link").symlink_to("empty")
    assert "--launch" in _refused(save_all(1)[0])


def test_a_report_of_a_rank_that_cannot_be_is_not_counted(run: Run, save_all: Any) -> None:
    save_all(2, ranks=[0], timeout_s=0.0)
    snapshot = layout.shared_snapshot_id(run.catalog.claims.newest_epoch(), 5, "job-1")
    run.store.put(layout.report_key(snapshot, 7, 2), b"{}")
    assert "rank 1 (host unknown" in _refused(save_all(2, ranks=[0], timeout_s=0.0)[0])


def test_what_is_being_deleted_is_not_committed_again(
    run: Run, save_all: Any, committed: Saved, store: Any, killed: type[BaseException], clock: Any
) -> None:
    """A removal is killed when the data is gone; the reports of the ranks say that it is there."""
    snapshot = layout.parse_snapshot_id(committed.snapshot)
    assert snapshot is not None

    def kill(verb: str, _key: str) -> None:
        if verb == "delete" and not list(store.list(layout.data_prefix(snapshot))):
            raise killed

    store.after = kill
    with pytest.raises(killed):
        remove(run, committed.snapshot)
    store.heal()
    assert all("is being deleted" in _refused(outcome) for outcome in save_all(2, timeout_s=0.0).values())
    assert run.catalog.latest() is None
    clock.advance(100)
    collect(run, None, grace_s=1.0, dry_run=False)
    assert all(isinstance(outcome, Saved) for outcome in save_all(2).values())
    assert not verify(run).bad


@pytest.mark.parametrize("may_delete", [True, False])
def test_a_rank_that_slept_before_it_committed_brings_nothing_back(
    run: Run, save_all: Any, store: Any, *, may_delete: bool
) -> None:
    """Another rank commits in its place, the job goes on, retention lets go of the step; then it wakes up."""
    save_all(2, ranks=[0], timeout_s=0.0)
    slept: list[Outcome] = []

    def deny(verb: str, key: str) -> None:
        if verb == "delete" and key.startswith(layout.MANIFESTS):
            raise DeniedError("it may not")

    def sleep(verb: str, key: str) -> None:
        if verb == "put" and key.startswith(layout.MANIFESTS) and not slept:
            store.before = lambda *_: None
            slept.append(save_all(2, ranks=[0], timeout_s=0.0)[0])
            save_all(2, step=6)
            assert len(collect(run, LatestN(1), grace_s=0.0, dry_run=False).removed) == 1
            store.before = (lambda *_: None) if may_delete else deny

    store.before = sleep
    outcome = save_all(2, ranks=[1])[1]
    assert isinstance(slept[0], Saved)
    assert "is being deleted or gone" in _refused(outcome)
    assert [listed.id.step for listed in run.catalog.listed()] == ([6] if may_delete else [6, 5])


def test_a_twin_does_not_replace_a_file_that_is_committed(run: Run, save_all: Any, store: Any) -> None:
    """Readers hold on to its version; they would find it replaced, and the snapshot bad."""
    committed: list[Outcome] = []

    def commit_first(verb: str, key: str) -> None:
        if verb == "begin" and key.endswith("shard-0.bin") and not committed:
            store.before = lambda *_: None
            committed.append(save_all(1)[0])
            tags.extend(stat.tag for stat in store.list(layout.DATA))

    tags: list[str] = []
    store.before = commit_first
    assert isinstance(save_all(1)[0], Saved)
    assert isinstance(committed[0], Saved)
    assert [stat.tag for stat in store.list(layout.DATA)] == tags
    assert not list(store.uploads(""))
    del run


def test_another_number_of_ranks_after_the_commit_is_refused(save_all: Any, committed: Saved) -> None:
    del committed
    assert "was committed by 2 ranks" in _refused(save_all(3, ranks=[0])[0])


def test_fewer_files_after_the_commit_are_refused(save_all: Any, committed: Saved, shards: Any) -> None:
    del committed
    (shards(0) / "empty").unlink()
    assert "--launch" in _refused(save_all(2, ranks=[0])[0])


def test_gc_knows_what_an_earlier_try_of_a_rank_wrote(
    run: Run, save_all: Any, shards: Any, store: Any, killed: type[BaseException], source: Path, clock: Any
) -> None:
    def kill(verb: str, key: str) -> None:
        if verb == "put" and key.endswith("config.json"):
            raise killed

    store.after = kill
    died = threading.Thread(target=lambda: _swallow(killed, lambda: save_all(1)))
    died.start()
    died.join()
    store.heal()
    (shards(0) / "config.json").rename(shards(0) / "settings.json")
    save_all(2, ranks=[0], timeout_s=0.0)
    save(run, source, step=9)
    clock.advance(100)
    assert not collect(run, None, grace_s=1.0, dry_run=False).foreign
    assert not [found.key for found in store.list(layout.DATA) if found.key.endswith("/settings.json")]


def test_ranks_that_cut_files_differently_have_the_same_small_file(run_with: Any, shards: Any) -> None:
    for rank in range(2):
        run = run_with(part_bytes=MIB << rank)
        outcome = _each([rank], lambda rank: save_rank(run, shards(rank), _two(rank), step=5))[rank]  # noqa: B023
    assert isinstance(outcome, Saved), outcome


def _two(rank: int) -> Rank:
    return Rank(rank=rank, world=2, launch="job-1", timeout_s=0.0)


@pytest.mark.req(26)
def test_a_launch_whose_claim_is_all_that_is_known_of_it_stays_fenced(
    run: Run, save_all: Any, store: Any, killed: type[BaseException]
) -> None:
    """Its first rank died between the claim and the record of the launch."""

    def kill(verb: str, key: str) -> None:
        if verb == "put" and key.startswith(layout.LAUNCHES):
            raise killed

    store.before = kill
    died = threading.Thread(target=lambda: _swallow(killed, lambda: save_all(1, launch="old")))
    died.start()
    died.join()
    store.heal()
    assert isinstance(save_all(1, launch="new", step=6)[0], Saved)
    assert isinstance(save_all(1, launch="old")[0], FencedError)
    assert isinstance(save_all(1, launch="new", step=7)[0], Saved)
    del run


def test_all_ranks_may_give_the_same_name(run: Run, shards: Any, store: Any, clock: Any) -> None:
    run = replace(run, clock=SYSTEM)
    both = threading.Barrier(2)

    def wait(verb: str, key: str) -> None:
        if verb == "list" and key.startswith(layout.ALIASES):
            clock.advance(1)  # no two do it in the same millisecond
        if verb == "put" and key.startswith(layout.ALIASES):
            both.wait(30)

    store.before = wait
    outcomes = _each(
        range(2),
        lambda rank: save_rank(run, shards(rank), replace(_two(rank), timeout_s=60.0), step=5, alias="best"),
    )
    assert all(isinstance(outcome, Saved) for outcome in outcomes.values()), outcomes


def test_a_twin_whose_file_changed_unnoticed_does_not_touch_what_is_committed(
    run_with: Any, shards: Any, save_all: Any, store: Any, tmp_path: Path
) -> None:
    """A write through a memory map shows in no time of the file: what was promised is not what is sent."""
    run, twin = run_with(workers=1), tmp_path / "twin"
    shutil.copytree(shards(0), twin)
    committed: list[Outcome] = []

    def commit_first(verb: str, key: str) -> None:
        if verb == "begin" and key.endswith("shard-0.bin") and not committed:
            store.before = lambda *_: None
            committed.append(save_all(1)[0])
            times = (twin / "shard-0.bin").stat()
            with (twin / "shard-0.bin").open("r+b") as file:
                file.seek(2 * MIB - 1)
                file.write(b"!")
            os.utime(twin / "shard-0.bin", ns=(times.st_atime_ns, times.st_mtime_ns))

    store.before = commit_first
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Identity,
            "of",
            classmethod(lambda cls, found: cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, 0)),
        )
        with pytest.raises(IncompleteError, match="differs between ranks"):
            save_rank(replace(run, clock=SYSTEM), twin, Rank(rank=0, world=1, launch="job-1", timeout_s=5), step=5)
    assert isinstance(committed[0], Saved)
    assert not verify(run).bad


def test_the_loop_that_waited_longest_is_told(run: Run, shards: Callable[[int], Path]) -> None:
    run = replace(run, clock=SYSTEM)
    loops = [UNSET, Loop(stalled_s=3.0), Loop(stalled_s=2.0)]

    def one(rank: int) -> Saved:
        return save_rank(run, shards(rank), Rank(rank=rank, world=3, launch="job-1"), step=5, loop=loops[rank])

    _each(range(3), one)
    manifest = run.catalog.latest()
    assert manifest is not None
    assert manifest.cost.loop == loops[1]
