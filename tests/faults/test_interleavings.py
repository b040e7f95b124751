"""Writers, gc, a promoter and a reader on one run, in any order of their requests: the real verbs against an abstract catalog."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from support.tree import fingerprint

from ckptsync import names
from ckptsync.errors import ConflictError, FencedError, NoSnapshotError
from ckptsync.options import MIB, Config, Transfer
from ckptsync.policy import LatestN
from ckptsync.run import Run, run_on
from ckptsync.snapshot import layout
from ckptsync.snapshot.layout import SnapshotId
from ckptsync.snapshot.manifest import Manifest
from ckptsync.store.base import Store
from ckptsync.store.memory import MemoryStore
from ckptsync.testing.clock import FakeClock
from ckptsync.verbs.gc import collect
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import Saved, save

from .beds import IN_MEMORY, Verified, quick
from .checks import check_whole
from .stepper import Actor

SHORT = bool(os.environ.get("CKPTSYNC_TEST_SHORT"))
EXAMPLES = 40 if SHORT else 150
LARGE_GRACE_S = 1e6


@dataclass(frozen=True, slots=True)
class Plan:
    """One world.

    Attributes:
        steps: what each writer saves; equal ones continue each other's attempts.
        same: writers save the same tree.
        grace_s: of gc.
        begun: how many snapshots there are before.
        schedule: which actor moves, and for how many requests; -n: until its nth next request that changes something.
    """

    steps: tuple[int, ...]
    same: bool
    grace_s: float
    begun: int
    schedule: list[tuple[int, int]]


BURSTS = (1, 2, 5, 13, 40, 80, -1, -1, -1, -2, -2, -3, -4, -5)
ROUNDS = 80


def schedule(seed: int) -> list[tuple[int, int]]:
    """Short and long runs of one actor, in turns: most trouble needs three or four switches at the right places.

    Those places are before something is changed, so many runs end there.
    """
    dice = random.Random(seed)
    return [(dice.randrange(6), dice.choice(BURSTS)) for _ in range(ROUNDS)]


plans = st.builds(
    Plan,
    steps=st.sampled_from([(5, 5), (5, 5), (5, 5, 5), (5, 6), (5, 5, 6)]),
    same=st.booleans(),
    grace_s=st.sampled_from([0.0, 0.0, LARGE_GRACE_S]),
    begun=st.integers(0, 2),
    schedule=st.integers(0, 2**32).map(schedule) | st.lists(st.tuples(st.integers(0, 5), st.integers(-4, 40))),
)


@dataclass(slots=True)
class Model:
    """The abstract catalog: what was seen committed, and by what bytes.

    Attributes:
        there: committed now, with the tag of the manifest.
        ever: committed at any time.
        tags: version of every object that a committed manifest names or that is a claim.
    """

    there: dict[SnapshotId, str] = field(default_factory=dict)
    ever: set[SnapshotId] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    epoch: int = 0

    def follow(self, bucket: Store, manifests: dict[SnapshotId, Manifest], run: Run, mover: str) -> None:
        """Compare with what is in the bucket after one more request."""
        now = {stat.key: str(stat.tag) for stat in bucket.list("")}
        before, self.there = self.there, {one: now[layout.manifest_key(one)] for one in manifests}
        for one, tag in before.items():
            assert self.there.get(one, tag) == tag, f"the manifest of {one} was overwritten"
        gone = before.keys() - self.there.keys()
        assert not gone or mover.startswith("gc"), f"{mover} deleted {gone}"
        new = self.there.keys() - before.keys()
        assert not new & self.ever, "a snapshot came back from the dead"
        self.ever |= new
        assert self.there or not self.ever, "there were snapshots, and now there is none"
        named = {file.key for manifest in manifests.values() for file in manifest.files}
        named |= {key for key in now if key.startswith(layout.WRITERS)}
        for key in named:
            assert self.tags.setdefault(key, now[key]) == now[key], f"{mover} overwrote {key}"
        epoch = run.catalog.claims.newest_epoch()
        assert epoch >= self.epoch, "an epoch was given back"
        self.epoch = epoch
        newest = run.catalog.latest()
        assert (newest.id if newest else None) == max(self.there, default=None), "latest is not the newest epoch's"


class World:
    """A bucket, actors on it, and the model beside it."""

    def __init__(self, plan: Plan, trees: list[Path], folder: Path) -> None:
        self.plan, self.trees, self.folder = plan, trees, folder
        self.clock = FakeClock()
        self.bucket = MemoryStore(clock=self.clock)
        self.run = self.run_on(self.bucket, "looker")
        self.model, self.verified = Model(), set[Verified]()
        for step in range(1, plan.begun + 1):
            save(self.run, trees[0], step=step)
            self.clock.advance(1.0)
        self.committed_before = plan.begun > 0
        works = [(f"writer {n}", partial(self.write, n)) for n in range(len(plan.steps))]
        works += [("gc", self.collect), ("gc, again", self.collect_again)]
        works += [("reader", self.read)] if plan.begun else [("promoter", self.promote)]
        self.actors = [Actor(name, self.bucket, work) for name, work in works]
        self.look("before")

    def run_on(self, store: Store, name: str) -> Run:
        config = Config(transfer=Transfer(part_bytes=MIB, workers=1), state_dir=str(self.folder / name))
        return run_on(store, config, observer=lambda _: None, clock=self.clock)

    def tree(self, writer: int) -> Path:
        return self.trees[1 if self.plan.same else writer + 1]

    def write(self, writer: int, store: Store) -> Saved:
        return save(self.run_on(store, f"writer-{writer}"), self.tree(writer), step=self.plan.steps[writer])

    def collect(self, store: Store) -> object:
        return collect(self.run_on(store, "gc"), LatestN(1), grace_s=self.plan.grace_s, dry_run=False)

    def collect_again(self, store: Store) -> object:
        self.collect(store)
        return self.collect(store)

    def promote(self, store: Store) -> object:
        run = self.run_on(store, "promoter")
        return names.promote(run.catalog, names.find(run.catalog, "latest"), "best")

    def read(self, store: Store) -> dict[str, str]:
        restore(self.run_on(store, "reader"), self.folder / "target")
        return fingerprint(self.folder / "target")

    # -- one request after the other ---------------------------------------------------------------------------------

    def play(self) -> None:
        """Follow the schedule, then let everybody end."""
        for who, count in self.plan.schedule:
            actor = self.actors[who % len(self.actors)]
            self.move(actor, count)
            for _ in range(-count):
                self.move_to_change(actor)
        for actor in self.actors:
            self.move(actor, 10_000)
        self.judge()

    def move(self, actor: Actor, count: int) -> None:
        """Let an actor make some requests; with no grace, a writer that has checked its fence goes on to its commit.

        The grace period must be longer than that pause, says the format: without one there must be no pause.
        """
        while not actor.done and (count > 0 or (self.plan.grace_s == 0 and self.at_commit(actor))):
            count -= 1
            actor.step()
            self.clock.advance(1.0)
            self.look(actor.name)

    def move_to_change(self, actor: Actor) -> None:
        """Let an actor go on until it is about to change what others look at."""
        self.move(actor, 1)
        while actor.store.at is not None and not self.at_change(actor.store.at[0]):
            self.move(actor, 1)

    def at_change(self, verb: str) -> bool:
        """Whether a request changes what is there."""
        return verb in {"put", "copy", "finish", "delete"}

    def move_until(self, actor: Actor, verb: str, pattern: str) -> None:
        """Let an actor go on until a certain request is its next."""
        while actor.store.at is not None and not (
            actor.store.at[0] == verb and fnmatchcase(actor.store.at[1], pattern)
        ):
            self.move(actor, 1)
        assert not actor.done, f"{actor.name} never came to {verb} {pattern}"

    def at_commit(self, actor: Actor) -> bool:
        """Whether the next request is the one that commits."""
        return (
            actor.store.at is not None and actor.store.at[1].startswith(layout.MANIFESTS) and actor.store.at[0] == "put"
        )

    def look(self, mover: str) -> None:
        """What must hold after every request."""
        self.model.follow(self.bucket, check_whole(self.run, self.verified), self.run, mover)

    def judge(self) -> None:
        """What everybody was told is true."""
        trees = [fingerprint(tree) for tree in self.trees]
        for actor in self.actors:
            if actor.name.startswith("writer"):
                self.judge_writer(actor)
            elif actor.name == "reader":
                assert actor.result in trees or (isinstance(actor.error, NoSnapshotError) and not self.committed_before)
            elif actor.name == "promoter":
                assert actor.error is None or isinstance(actor.error, NoSnapshotError | ConflictError)
            else:
                assert actor.error is None, actor.error
        collect(self.run, LatestN(1), grace_s=0, dry_run=False)
        self.look("gc")
        collect(self.run, LatestN(1), grace_s=0, dry_run=False)
        self.look("gc")

    def judge_writer(self, actor: Actor) -> None:
        """A writer that was told it succeeded has its manifest there, and one that was fenced has none."""
        keys = [key for key in actor.store.wrote if key.startswith(layout.JOURNALS) and key.endswith("journal.json")]
        (attempt,) = {found[0] for key in keys if (found := layout.journal_of_key(key))}
        if isinstance(actor.result, Saved):
            assert actor.result.snapshot == str(attempt)
            assert attempt in self.model.ever, "told of a success that never was"
        else:
            assert isinstance(actor.error, FencedError | ConflictError), repr(actor.error)
            assert attempt not in self.model.ever, "told of a failure that was committed"


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """What was there, and what three writers save: two parts and a small file, of which one part is in all."""
    dice = random.Random(5)
    first = dice.randbytes(MIB)
    made = []
    for number in range(4):
        root = tmp_path_factory.mktemp("trees") / str(number)
        root.mkdir()
        (root / "model.bin").write_bytes(first + dice.randbytes(16))
        (root / "state.json").write_bytes(dice.randbytes(20))
        for path in root.iterdir():
            os.utime(path, (1_600_000_000, 1_600_000_000))
        made.append(root)
    return made


@contextmanager
def world_of(trees: list[Path], plan: Plan) -> Iterator[World]:
    with quick(), tempfile.TemporaryDirectory(prefix="world-", dir=IN_MEMORY) as folder:
        world = World(plan, trees, Path(folder))
        try:
            yield world
        finally:
            for actor in world.actors:
                actor.stop()


@pytest.mark.req(2, 8, 14, 26, 28)
@pytest.mark.slow
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)
@given(plan=plans)
def test_in_any_order_nothing_committed_is_lost_and_everybody_is_told_the_truth(trees: list[Path], plan: Plan) -> None:
    with world_of(trees, plan) as world:
        world.play()


@pytest.mark.req(26)
def test_a_writer_whose_data_gc_took_commits_nothing(trees: list[Path]) -> None:
    with world_of(trees, Plan(steps=(5, 6), same=False, grace_s=0.0, begun=1, schedule=[])) as world:
        slow, fast, gc, *_ = world.actors
        world.move_until(slow, "put", "data/*/state.json")  # the large file is there
        world.move_until(fast, "put", "journals/*")  # has claimed
        world.move(gc, 1000)
        world.move(slow, 1000)
        assert isinstance(slow.error, FencedError)
        world.play()


@pytest.mark.req(26, 28)
def test_a_saver_that_comes_after_the_condemnation_names_nothing_of_it(trees: list[Path]) -> None:
    with world_of(trees, Plan(steps=(5, 5), same=True, grace_s=0.0, begun=1, schedule=[])) as world:
        dead, heir, gc, *_ = world.actors
        world.move_until(dead, "put", "data/*/state.json")
        world.move_until(heir, "put", "journals/*/adopted-by/*")
        world.move_until(gc, "delete", "data/*")
        world.move(heir, 1000)
        world.move(gc, 1000)
        assert isinstance(heir.result, Saved)
        world.play()


@pytest.mark.req(26, 28)
def test_a_gc_that_condemns_after_the_marker_deletes_nothing_of_it(trees: list[Path]) -> None:
    with world_of(trees, Plan(steps=(5, 5), same=True, grace_s=0.0, begun=1, schedule=[])) as world:
        dead, heir, gc, *_ = world.actors
        world.move_until(dead, "put", "data/*/state.json")
        world.move_until(heir, "put", "journals/*/adopted-by/*")
        (attempt,) = {key.split("/")[1] for key in dead.store.wrote if key.startswith(layout.JOURNALS)}
        world.move_until(gc, "put", f"journals/{attempt}/condemned")
        world.move_until(heir, "list", layout.WRITERS)  # all it names is there
        world.move(gc, 1000)
        world.move(heir, 1000)
        assert isinstance(heir.result, Saved)
        world.play()
