"""Which manifests gc reads: those that its answer rests on, however many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from ckptsync.policy import BestN, Candidate, EveryNSteps, KeepPolicy, LatestN, Within
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.verbs.gc import Collected, collect

GRACE_S = 3600.0
FILES = {"a": b"1234", "b/c": b"56"}


@pytest.fixture
def gc(run: Any, store: Any) -> Any:
    """Collect, and tell which manifests that reads: each once."""

    def collected(keep: KeepPolicy | None = None) -> tuple[Collected, list[SnapshotId]]:
        store.heal()
        found = collect(run, keep, grace_s=GRACE_S, dry_run=True)
        asked = [layout.snapshot_of_manifest_key(key) for verb, key in store.calls if verb == "get"]
        read = [snapshot for snapshot in asked if snapshot is not None]
        assert len(read) == len(set(read))
        return found, sorted(read)

    return collected


@dataclass(frozen=True)
class Newest:
    """A rule of somebody else's, who knows nothing of what rules lean on."""

    def keeps(self, candidates: Sequence[Candidate], now_s: float) -> set[SnapshotId]:
        del now_s
        return {candidate.id for candidate in candidates if candidate.id.step > 6}


class TestRetention:
    """What rules make it read, in a run of ten."""

    @pytest.fixture
    def made(self, make: Any) -> list[SnapshotId]:
        return [make.snapshot(step, loss=float(step)) for step in range(10)]

    def test_without_a_rule_none(self, made: list[SnapshotId], gc: Any) -> None:
        found, read = gc()
        assert (len(found.kept), read) == (len(made), [])

    def test_when_nothing_goes_none(self, made: list[SnapshotId], gc: Any) -> None:
        for keep in (LatestN(10), EveryNSteps(1), Within(1e9), LatestN(3) | EveryNSteps(1)):
            found, read = gc(keep)
            assert (len(found.kept), read) == (len(made), [])

    @pytest.mark.parametrize(
        ("keep", "gone", "leant_on"),
        [
            (LatestN(3), range(7), (7, 8, 9)),
            (EveryNSteps(5), (1, 2, 3, 4, 6, 7, 8), (9,)),
            (LatestN(2) | EveryNSteps(2), (1, 3, 5, 7), (8, 9)),
            (BestN("loss", "min", 1), range(1, 9), (0, 9)),
            (Newest(), range(7), (7, 8, 9)),
            (LatestN(1) | Newest(), range(7), (7, 8, 9)),
        ],
        ids=str,
    )
    def test_those_that_go_and_those_that_push_them_out(
        self, made: list[SnapshotId], gc: Any, keep: KeepPolicy, gone: Sequence[int], leant_on: Sequence[int]
    ) -> None:
        found, read = gc(keep)
        assert found.removed == tuple(str(made[step]) for step in reversed(gone))
        assert read == sorted(made[step] for step in (*gone, *leant_on))

    @pytest.mark.req(2)
    @pytest.mark.parametrize(
        ("keep", "bad", "gone"),
        [
            (LatestN(3), {9}, range(6)),
            (LatestN(3), {9, 6, 2}, (0, 1, 3, 4)),
            (LatestN(3), set(range(3, 10)), ()),
            (LatestN(3) | EveryNSteps(9), {8, 7}, (1, 2, 3, 4)),
            (EveryNSteps(20), {9, 8}, range(1, 7)),
            (BestN("loss", "min", 2), {0, 9}, range(3, 8)),
            (Newest(), {9}, range(7)),
            (LatestN(1), set(range(10)), ()),
        ],
        ids=str,
    )
    def test_damaged_ones_take_no_good_ones_place_and_stay(
        self, run: Any, made: list[SnapshotId], keep: KeepPolicy, bad: set[int], gone: Sequence[int]
    ) -> None:
        for step in bad:
            run.store.put(layout.manifest_key(made[step]), b"{}")
        found = collect(run, keep, grace_s=GRACE_S, dry_run=True)
        assert found.removed == tuple(str(made[step]) for step in reversed(gone))


class TestForeign:
    """What it reads to tell what is not ours."""

    def test_a_snapshot_into_which_something_came_later_is_looked_at_and_no_other(
        self, run: Any, make: Any, clock: Any, gc: Any
    ) -> None:
        made = [make.snapshot(step, FILES) for step in range(10)]
        clock.advance(1)
        again = layout.data_key(made[3], "a")
        run.store.put(again, run.store.read(again))
        found, read = gc()
        assert (found.foreign, read) == ((), [made[3]])

    def test_what_another_manifest_names_is_not_foreign_however_young_it_is(
        self, run: Any, make: Any, clock: Any
    ) -> None:
        lost = make.attempt(1, FILES)
        make.commit(make.attempt(1, {}, adopts=[lost]), borrows=[layout.data_key(lost, "a")])
        run.store.delete([layout.journal_key(lost)])
        clock.advance(1)
        assert collect(run, None, grace_s=GRACE_S, dry_run=True).foreign == (layout.data_key(lost, "b/c"),)

    def test_a_bucket_that_tells_no_times_is_looked_at_closely(self, run: Any, make: Any, store: Any) -> None:
        snapshot = make.snapshot(1, FILES)
        run.store.put(layout.data_key(snapshot, "extra"), b"")
        real = store.inner.list
        store.inner.list = lambda *args, **options: (
            type(found)(key=found.key, size=found.size, tag=found.tag, modified_s=0.0)
            for found in real(*args, **options)
        )
        assert collect(run, None, grace_s=GRACE_S, dry_run=True).foreign == (layout.data_key(snapshot, "extra"),)

    def test_many_are_told_in_order(self, run: Any, make: Any, clock: Any) -> None:
        made = [make.snapshot(step, FILES) for step in range(5)]
        clock.advance(1)
        strangers = sorted(
            [layout.data_key(one, "extra") for one in made] + [f"a/{n:04d}" for n in range(2500)] + ["z"]
        )
        for key in strangers:
            run.store.put(key, b"")
        found = collect(run, None, grace_s=GRACE_S, dry_run=True)
        assert (list(found.foreign), found.foreign_count) == (strangers[:1000], len(strangers))
