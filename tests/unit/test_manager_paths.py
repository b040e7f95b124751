"""Files and folders among the items of a training loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from ckptsync.errors import ConfigError, IntegrityError
from ckptsync.events import Event
from ckptsync.manager import CheckpointManager
from ckptsync.verbs.restore import restore

Make = Callable[..., CheckpointManager]


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    """A folder with a folder in it, an empty one, a link and a script."""
    folder = tmp_path / "work/tokens"
    (folder / "deep/empty").mkdir(parents=True)
    (folder / "vocabulary.txt").write_text("a b")
    (folder / "deep/merges.txt").write_text("ab")
    (folder / "latest").symlink_to("deep/merges.txt")
    (folder / "vocabulary.txt").chmod(0o755)
    return folder


def damage(run: Path, step: int, path: str) -> None:
    """Flip a bit in a file of a snapshot."""
    (found,) = run.glob(f"data/*-{step:012d}-*/{path}")
    content = bytearray(found.read_bytes())
    content[-1] ^= 1
    found.chmod(0o644)
    found.write_bytes(content)


def test_a_folder_comes_back_to_its_path(make: Make, tokens: Path, content: Callable[[Path], object]) -> None:
    before = content(tokens)
    with make() as manager:
        manager.save(1, n={"n": 1}, tokens=tokens)
    place, state = tokens.with_name("elsewhere"), {"n": 0}
    with make() as manager:
        assert manager.restore(n=state, tokens=place) == 2
        assert manager.restore(n=state, tokens=place) == 2  # it is there already
    assert content(place) == before
    assert state == {"n": 1}
    assert sorted(path.name for path in place.parent.iterdir()) == ["elsewhere", "tokens"]


def test_a_file_comes_back_under_its_path(make: Make, tmp_path: Path) -> None:
    file, place = tmp_path / "log.txt", tmp_path / "other/name.txt"
    file.write_text("one")
    with make() as manager:
        manager.save(1, log=file)
        manager.wait()
        file.write_text("two")
        manager.save(2, log=file)
    with make() as manager:
        assert manager.restore(log=place) == 3
        assert place.read_text() == "two"
        assert manager.restore(log=place, snapshot=1) == 2
        assert place.read_text() == "one"
        (tmp_path / "folder").mkdir()
        with pytest.raises(ConfigError, match="is a directory, and the snapshot is a file"):
            manager.restore(log=tmp_path / "folder")
    assert [path.name for path in place.parent.iterdir()] == ["name.txt"]  # what is in a snapshot need not be kept


def test_only_the_path_is_restored(make: Make, tokens: Path) -> None:
    with make() as manager:
        manager.save(1, n={"n": 1}, tokens=tokens)
    state = {"n": 0}
    with make() as manager:
        assert manager.restore(only=["tokens"], n=state, tokens=tokens.with_name("a")) == 2
        assert manager.restore(only=["n"], n=state, tokens=tokens.with_name("b")) == 2
    assert (tokens.with_name("a") / "deep/merges.txt").read_text() == "ab"
    assert not tokens.with_name("b").exists()
    assert state == {"n": 1}


def test_what_is_in_no_snapshot_is_kept_beside_it(make: Make, tokens: Path, told: list[Event]) -> None:
    with make() as manager:
        manager.save(1, tokens=tokens)
        manager.wait()
        (tokens / "vocabulary.txt").write_text("a b c")
        assert manager.restore(tokens=tokens) == 2
    assert (tokens / "vocabulary.txt").read_text() == "a b"
    assert (tokens.with_name("tokens.before-restore-1") / "vocabulary.txt").read_text() == "a b c"
    assert "tokens.before-restore-1" in told[-1].message


@pytest.mark.parametrize("bad", ["tokens/deep/merges.txt", "n.pt", "other/b.txt"])
def test_a_damaged_snapshot_changes_neither_paths_nor_states(
    make: Make, tokens: Path, tmp_path: Path, bad: str
) -> None:
    other, state = tmp_path / "other", {"n": 1}
    other.mkdir()
    (other / "b.txt").write_text("b")
    with make() as manager:
        manager.save(1, n=state, tokens=tokens, other=other)
    damage(tmp_path / "run", 1, bad)
    (tokens / "vocabulary.txt").write_text("a b c")
    (other / "b.txt").write_text("c")
    state["n"] = 5
    with make() as manager, pytest.raises(IntegrityError):
        manager.restore(n=state, tokens=tokens, other=other)
    assert state == {"n": 5}
    assert (tokens / "vocabulary.txt").read_text() == "a b c"
    assert (other / "b.txt").read_text() == "c"
    assert not list(tmp_path.rglob("*before*"))


def test_a_damaged_path_costs_a_step_back(make: Make, tokens: Path, tmp_path: Path) -> None:
    with make() as manager:
        manager.save(1, n={"n": 1}, tokens=tokens)
        manager.wait()
        (tokens / "vocabulary.txt").write_text("a b c")
        manager.save(2, n={"n": 2}, tokens=tokens)
    damage(tmp_path / "run", 2, "tokens/vocabulary.txt")
    state = {"n": 0}
    with make() as manager:
        assert manager.restore(n=state, tokens=tokens.with_name("out")) == 2
    assert (state, (tokens.with_name("out") / "vocabulary.txt").read_text()) == ({"n": 1}, "a b")


def test_what_does_not_fit_is_refused_before_anything_changes(make: Make, tokens: Path) -> None:
    with make() as manager:
        manager.save(1, n={"n": 1}, tokens=tokens)
    (tokens / "vocabulary.txt").write_text("a b c")
    state = {"n": 0}
    with make() as manager:
        for items, reason in (
            ({"n": tokens}, "was no path"),
            ({"tokens": {}}, r"is a path; give the pathlib\.Path"),
            ({"n": state, "tokens": tokens / "deep", "more": tokens}, "has no item 'more'"),
        ):
            with pytest.raises(ConfigError, match=reason):
                manager.restore(**items)
    assert state == {"n": 0}
    assert (tokens / "vocabulary.txt").read_text() == "a b c"


def test_paths_in_each_other_are_refused(make: Make, tokens: Path) -> None:
    with make() as manager:
        manager.save(1, one=tokens, two=tokens / "deep")
    with make() as manager, pytest.raises(ConfigError, match="lies in"):
        manager.restore(one=tokens, two=tokens / "deep")


def test_a_path_is_saved_beside_the_state(make: Make, tokens: Path, tmp_path: Path) -> None:
    with make() as manager:
        manager.save(1, n={"n": 1}, tokens=tokens)
    with make() as manager:
        restore(manager._run, tmp_path / "out")
    assert (tmp_path / "out/tokens/vocabulary.txt").read_text() == "a b"
    assert torch.load(tmp_path / "out/n.pt") == {"n": 1}
