"""promote, pin, unpin, rm and gc against a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ckptsync.cli.keep import _best, _policy
from ckptsync.cli.main import cli
from ckptsync.errors import StoreError
from ckptsync.policy import AnyOf, BestN, EveryNSteps, LatestN, Within
from ckptsync.store.local.store import LocalStore

Call = Callable[..., Result]
Ask = Callable[..., list[dict[str, Any]]]


def steps(ask: Ask, run: Path) -> list[int]:
    return [row["step"] for row in ask("ls", run)]


def test_promote_lets_a_name_stand_for_a_snapshot(call: Call, ask: Ask, saved: Path) -> None:
    (promoted,) = ask("promote", saved, 100, "release")
    assert (promoted["alias"], promoted["version"]) == ("release", 1)
    assert call("promote", saved, 200, "release").stdout.startswith("release stands for 00000002-000000000200-")
    assert ask("show", saved, "release")[0]["step"] == 200
    assert "cannot be an alias" in call("promote", saved, 100, "latest", exit_code=2).stderr
    assert call("promote", saved, 999, "release", exit_code=6).stdout == ""


def test_what_is_pinned_is_not_removed(call: Call, ask: Ask, saved: Path) -> None:
    assert call("pin", saved, 100).stdout.startswith("pinned 00000001-000000000100-")
    assert "pinned" in call("rm", saved, 100, exit_code=2).stderr
    assert steps(ask, saved) == [200, 100]
    assert ask("unpin", saved, 100)[0]["pinned"] is False
    (removed,) = ask("rm", saved, 100)
    assert removed.keys() >= {"snapshot", "objects", "bytes"}
    assert steps(ask, saved) == [200]


def test_force_removes_what_is_pinned(call: Call, ask: Ask, saved: Path) -> None:
    call("pin", saved, 100)
    assert call("rm", saved, 100, "--force").stdout.startswith("removed 00000001-000000000100-")
    assert steps(ask, saved) == [200]


@pytest.mark.parametrize(
    ("answer", "exit_code", "left"), [("n\n", 1, [200, 100]), ("y\n", 0, [200]), ("", 130, [200, 100])]
)
def test_rm_asks_on_a_terminal(
    answer: str, exit_code: int, left: list[int], ask: Ask, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ckptsync.cli.keep._can_ask", lambda: True)
    result = CliRunner().invoke(cli, ["rm", str(saved), "100", "--json"], input=answer)
    assert result.exit_code == exit_code
    assert "delete 00000001-000000000100-" in result.stderr
    assert (result.stdout == "") is (exit_code != 0)
    assert steps(ask, saved) == left


def test_yes_asks_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ckptsync.cli.keep._can_ask", lambda: True)
    assert CliRunner().invoke(cli, ["rm", str(saved), "100", "--yes"]).exit_code == 0


def test_gc_without_a_policy_keeps_every_snapshot(call: Call, ask: Ask, saved: Path) -> None:
    (collected,) = ask("gc", saved)
    assert collected["removed"] == []
    assert len(collected["kept"]) == 2
    assert "2 snapshots kept" in call("gc", saved).stdout


def test_gc_tells_before_it_deletes(call: Call, ask: Ask, saved: Path) -> None:
    assert (
        "would have removed snapshot 00000001-000000000100-" in call("gc", saved, "--keep-last", 1, "--dry-run").stdout
    )
    assert steps(ask, saved) == [200, 100]
    (collected,) = ask("gc", saved, "--keep-last", 1)
    assert [name.split("-")[1] for name in collected["removed"]] == ["000000000100"]
    assert steps(ask, saved) == [200]


def test_a_directory_that_was_named_by_mistake_is_not_made(call: Call) -> None:
    for verb in ("ls", "gc", "status"):
        call(verb, "mistyped")
    for verb in ("verify", "restore", "pin", "rm", "show"):
        call(verb, "mistyped", *([] if verb == "verify" else ["1"]), exit_code=6)
    assert not Path("mistyped").exists()


def test_gc_leaves_strangers_alone(call: Call, saved: Path) -> None:
    for number in range(12):
        stranger = saved / "data" / f"stranger-{number}"
        stranger.write_text("mine")
    said = call("gc", saved).stdout
    assert "not ours, left alone: " in said
    assert "2 more; --json lists them" in said
    assert len(list((saved / "data").glob("stranger-*"))) == 12


def test_keep_options_make_a_policy() -> None:
    best = _best(["loss:min", "accuracy:max:3"])
    assert best == [BestN("loss", "min", 1), BestN("accuracy", "max", 3)]
    assert _policy(None, None, [], None) is None
    assert _policy(3, 100, best, 60.0) == AnyOf((*best, LatestN(3), EveryNSteps(100), Within(60.0)))


def test_rm_refuses_what_is_being_read(call: Call, saved: Path) -> None:
    (manifest,) = saved.glob("data/*-000000000100-*")
    (lease := saved / "leases" / manifest.name / "abcdefgh").parent.mkdir(parents=True)
    lease.touch()
    assert "is being read, until " in call("rm", saved, 100, exit_code=2).stderr
    call("rm", saved, 100, "--force")


@pytest.mark.req(28)
def test_gc_that_fails_exits_with_3(call: Call, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: LocalStore, keys: object) -> None:
        del self, keys
        raise StoreError("the disk is gone", op="delete")

    monkeypatch.setattr(LocalStore, "delete", refuse)
    assert "the disk is gone" in call("gc", saved, "--keep-last", 1, exit_code=3).stderr
    monkeypatch.undo()
    call("gc", saved, "--keep-last", 1)
