"""A writer that was thought dead: stopped by SIGSTOP in a process of its own, overtaken by another, woken by SIGCONT."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ckptsync.config import resolve
from ckptsync.run import Run, open_run
from ckptsync.snapshot import layout
from ckptsync.verbs.restore import restore
from ckptsync.verbs.verify import verify

from .actor import OPTIONS
from .checks import check_whole
from .processes import Place, actor, ended, make_tree, place, succeeded, wait_until_stopped, wake

FENCED = 5
HOUR_S = 3600
_numbers = itertools.count(1)

STOPS = {
    "after its claim": ("stop-after", "put", "writers/*", 0),
    "before its journal": ("stop-before", "put", "journals/*", 0),
    "in the middle of its upload": ("stop-after", "put_part", "*", 0),
    "before its file is finished": ("stop-before", "finish", "*", 0),
    "before it looks at the claims": ("stop-before", "list", "writers/", 1),
}
WINDOW = ("stop-before", "put", "manifests/*", 0)


@pytest.fixture(scope="module", params=["directory", "s3", "gcs"])
def where(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with place(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


class Stage:
    """A run with one snapshot, and actors."""

    def __init__(self, where: Place, folder: Path) -> None:
        self.where, self.folder = where, folder
        self.url = f"{where.base}/zombies-{next(_numbers)}"
        self.started: list[subprocess.Popen[str]] = []
        self.trees = {name: make_tree(folder / name, seed) for seed, name in enumerate(("old", "a", "b"), 1)}

    def actor(self, who: str, verb: str, step: int, *fault: object) -> subprocess.Popen[str]:
        tree = self.trees.get(who, self.folder)
        state = self.folder / f"state-{who}"
        process = actor(verb, self.url, tree, step, *fault, environ=self.where.environ, state=state)
        self.started.append(process)
        return process

    def stopped(self, who: str, verb: str, step: int, *fault: object) -> subprocess.Popen[str]:
        process = self.actor(who, verb, step, *fault)
        wait_until_stopped(process)
        return process

    def tags(self, run: Run, snapshot: str) -> dict[str, str]:
        """Version of everything that belongs to a snapshot."""
        return {stat.key: str(stat.tag) for stat in run.store.list(f"{layout.DATA}{snapshot}/")}

    def end(self) -> None:
        for process in self.started:
            if process.poll() is None:
                process.kill()
            process.communicate()


@pytest.fixture
def stage(where: Place, tmp_path: Path) -> Iterator[Stage]:
    found = Stage(where, tmp_path)
    try:
        succeeded(found.actor("old", "save", 1))
        yield found
    finally:
        found.end()


def tidied(stage: Stage) -> None:
    """Collect with no grace. S3 tells whole seconds: only in the next one is an upload older than now."""
    time.sleep(1.05 - time.time() % 1)
    succeeded(stage.actor("keeper", "gc", 0))


@contextmanager
def looking(stage: Stage) -> Iterator[Run]:
    with open_run(stage.url, resolve(OPTIONS), observer=lambda _: None) as run:
        yield run


@pytest.mark.req(26)
@pytest.mark.slow
@pytest.mark.parametrize("stop", STOPS.values(), ids=STOPS)
def test_an_overtaken_writer_is_fenced_and_touches_nothing(stage: Stage, stop: tuple[str, str, str, int]) -> None:
    zombie = stage.stopped("a", "save", 2, *stop)
    made = succeeded(stage.actor("b", "save", 2))["made"]
    tidied(stage)
    with looking(stage) as run:
        assert [str(listed.id) for listed in run.catalog.listed()] == [made]
        before = stage.tags(run, made)
        wake(zombie)
        code, _, errors = ended(zombie)
        assert code == FENCED, errors
        assert errors.startswith("FencedError: ")
        assert [str(listed.id) for listed in run.catalog.listed()] == [made]
        assert stage.tags(run, made) == before
        assert not verify(run).bad
        restore(run, stage.folder / "back")
        assert (stage.folder / "back" / "model.bin").read_bytes() == (stage.trees["b"] / "model.bin").read_bytes()
        for _ in range(
            3
        ):  # what the zombie's threads had on the way when it ended may reach the service behind a collection
            tidied(stage)
            if not list(run.store.uploads("")):
                break
        check_whole(run, set())
        kept = {file.key for file in run.catalog.get(next(run.catalog.listed()).id).files}
        assert {stat.key for stat in run.store.list(layout.DATA)} == kept
        assert not list(run.store.uploads(""))


@pytest.mark.req(26)
@pytest.mark.slow
def test_a_commit_that_was_under_way_stands_and_ranks_below(stage: Stage) -> None:
    zombie = stage.stopped("a", "save", 900, *WINDOW)
    made = succeeded(stage.actor("b", "save", 2))["made"]
    succeeded(stage.actor("keeper", "gc", HOUR_S))  # longer than the writer was stopped, as the format demands
    with looking(stage) as run:
        before = stage.tags(run, made)
        wake(zombie)
        late = succeeded(zombie)["made"]
        assert [str(listed.id) for listed in run.catalog.listed()] == [made, late]
        assert str(run.catalog.latest().id) == made  # type: ignore[union-attr]
        assert stage.tags(run, made) == before
        assert not verify(run).bad
        assert not verify(run, late).bad
        restore(run, stage.folder / "back", snapshot=late)
        assert (stage.folder / "back" / "model.bin").read_bytes() == (stage.trees["a"] / "model.bin").read_bytes()


@pytest.mark.req(26, 28)
@pytest.mark.slow
@pytest.mark.parametrize(
    "stop",
    [
        ("stop-before", "put", "journals/*", 0),
        ("stop-before", "delete", "manifests/*", 0),
        ("stop-after", "delete", "manifests/*", 0),
    ],
    ids=["after it looked", "before it deletes", "after the first deletion"],
)
def test_a_gc_that_wakes_up_late_deletes_nothing_of_a_newer_writer(
    stage: Stage, stop: tuple[str, str, str, int]
) -> None:
    second = succeeded(stage.actor("a", "save", 2))["made"]
    zombie = stage.stopped("keeper", "gc", 0, *stop)
    made = succeeded(stage.actor("b", "save", 3))["made"]
    with looking(stage) as run:
        before = stage.tags(run, made)
        wake(zombie)
        succeeded(zombie)
        assert [str(listed.id) for listed in run.catalog.listed()] == [made, second]
        assert stage.tags(run, made) == before
        assert not verify(run, made).bad
        assert not verify(run, second).bad
