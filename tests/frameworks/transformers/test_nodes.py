"""What processes tell each other when they look for a snapshot, one process at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ckptsync.errors import CkptsyncError, IntegrityError, NoSnapshotError, StoreError
from ckptsync.integrations import _nodes
from ckptsync.integrations._nodes import Place, _Word, bring_folder, brought
from ckptsync.options import Config
from ckptsync.run import Run, open_run
from ckptsync.snapshot.manifest import Manifest
from ckptsync.verbs.save import save

FIRST = Place(is_main=True, saves=True, first=0, node=0, nodes=2, launch="x")
SECOND = Place(is_main=False, saves=True, first=1, node=1, nodes=2, launch="x")
Told = list[tuple[bool, str]]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run with the steps 1 and 2, each of two nodes."""
    for node in (0, 1):
        (tmp_path / f"job/node-{node}").mkdir(parents=True)
        (tmp_path / f"job/node-{node}/weights").write_text(f"of node {node}")
    with open_run(tmp_path / "run", Config(state_dir=str(tmp_path / "state")), observer=lambda _: None) as opened:
        for step in (1, 2):
            save(opened, tmp_path / "job", step=step)
        yield opened


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[_Word], list[Told]], list[_Word]]:
    """Let a process hear words of the first one, and what the others say to each; returns what it says itself."""

    def set_up(words: list[_Word], told: list[Told]) -> list[_Word]:
        said: list[_Word] = []
        coming, answers = iter(words), iter(told)

        def broadcast(objects: list[Any]) -> list[Any]:
            said.extend(objects)
            return [next(coming)] if words else objects

        monkeypatch.setattr(_nodes, "broadcast_object_list", broadcast)
        monkeypatch.setattr(_nodes, "gather_object", lambda own: [*own, *next(answers)])
        return said

    return set_up


def ids(run: Run) -> list[str]:
    """The snapshots, the newest first."""
    return [manifest.snapshot for manifest in run.catalog.history()]


def nothing(_: Run, __: Manifest) -> None:
    """Find nothing wrong."""


def test_one_that_is_told_a_good_snapshot_takes_it(run: Run, heard: Any) -> None:
    newest = ids(run)[0]
    heard([_Word(snapshot=newest), _Word()], [[]])
    assert str(brought(run, SECOND, "latest", nothing)) == newest


def test_one_that_is_bad_elsewhere_is_not_taken(run: Run, heard: Any) -> None:
    newest, older = ids(run)
    heard([_Word(snapshot=newest), _Word(snapshot=older), _Word()], [[(True, "bad")], []])
    assert str(brought(run, SECOND, "latest", nothing)) == older


def test_nothing_is_told_as_nothing(run: Run, heard: Any) -> None:
    heard([_Word()], [])
    assert brought(run, SECOND, "latest", nothing) is None
    heard([_Word(failure="none", is_missing=True)], [])
    with pytest.raises(NoSnapshotError, match="none"):
        brought(run, SECOND, "9", nothing)
    heard([_Word(failure="the disk is full")], [])
    with pytest.raises(CkptsyncError, match="the first process failed: the disk is full"):
        brought(run, SECOND, "latest", nothing)


@pytest.mark.parametrize("here", [FIRST, SECOND])
def test_what_fails_here_is_raised_here(run: Run, heard: Any, here: Place) -> None:
    def fail(_: Run, __: Manifest) -> None:
        raise StoreError("the bucket is gone")

    said = heard([] if here.is_main else [_Word(snapshot=ids(run)[0]), _Word(failure="in another process")], [[]])
    with pytest.raises(StoreError, match="the bucket is gone"):
        brought(run, here, "latest", fail)
    assert bool(said[-1].failure) == here.is_main


def test_the_first_process_tells_what_it_tries_and_how_it_ends(run: Run, heard: Any) -> None:
    newest, older = ids(run)
    said = heard([], [[(True, "bad")], []])
    assert str(brought(run, FIRST, "latest", nothing)) == older
    assert said == [_Word(snapshot=newest), _Word(snapshot=older), _Word()]
    said = heard([], [[(False, "the disk is full")]])
    with pytest.raises(CkptsyncError, match="in another process: the disk is full") as caught:
        brought(run, FIRST, "latest", nothing)
    assert not isinstance(caught.value, IntegrityError)
    assert said[-1].failure == "in another process: the disk is full"
    said = heard([], [])
    with pytest.raises(NoSnapshotError):
        brought(run, FIRST, "9", nothing)
    assert said[-1].is_missing


@pytest.mark.parametrize(("node", "text"), [(0, "of node 0"), (1, "of node 1"), (2, "of node 0")])
def test_each_node_gets_its_part_and_nothing_else_is_lost(run: Run, tmp_path: Path, node: int, text: str) -> None:
    here = Place(is_main=False, saves=True, first=node, node=node, nodes=3, launch="x")
    manifest, target = run.catalog.get(next(run.catalog.listed()).id), tmp_path / "disk/checkpoint-2"
    target.mkdir(parents=True)
    (target / "own").write_text("in no snapshot")
    bring_folder(run, manifest, here, target, needs="weights")
    assert [(path.name, path.read_text()) for path in target.iterdir()] == [("weights", text)]
    kept = tmp_path / "disk/.checkpoint-2.before-restore-1"
    assert (kept / "own").read_text() == "in no snapshot"
    bring_folder(run, manifest, here, target)
    assert sorted(path.name for path in target.parent.iterdir()) == [kept.name, "checkpoint-2"]
