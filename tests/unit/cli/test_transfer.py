"""save, restore and adopt against a directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

AT_LEAST = {
    "snapshot",
    "step",
    "epoch",
    "files",
    "bytes",
    "bytes_sent",
    "bytes_reused",
    "parts_sent",
    "seconds",
    "committed",
}

Call = Callable[..., Result]
Ask = Callable[..., list[dict[str, Any]]]


def damage(run: Path, name: str) -> Path:
    """Flip a byte of the newest stored object of that name."""
    stored = max(run.glob(f"data/*/{name}"))
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.chmod(0o644)
    stored.write_bytes(content)
    return stored


def test_save_says_what_it_committed(call: Call, source: Path) -> None:
    said = call("save", source, "run", "--step", 100, "--alias", "first").stdout
    assert said.startswith("committed 00000001-000000000100-")
    assert ": step 100, 3 files, 1.0 MiB (1.0 MiB sent, 0 B reused) in " in said
    assert said.endswith("; first stands for it\n")


def test_json_has_what_the_contract_names(ask: Ask, source: Path) -> None:
    (saved,) = ask("save", source, "run", "--step", 1)
    assert saved.keys() >= AT_LEAST
    assert (saved["step"], saved["epoch"], saved["files"], saved["committed"]) == (1, 1, 3, True)
    (restored,) = ask("restore", "run", "target")
    assert restored.keys() >= AT_LEAST | {"target", "skipped", "steps_lost"}
    assert restored["snapshot"] == saved["snapshot"]


def test_metrics_meta_and_fingerprint_are_kept(ask: Ask, source: Path) -> None:
    arguments = "--metric loss=0.5 --metric odd=nan --metric far=-inf --meta who=me --meta empty= --fingerprint f00"
    ask("save", source, "run", "--step", 1, *arguments.split())
    (shown,) = ask("show", "run", 1)
    assert shown["metrics"] == {"loss": 0.5, "odd": None, "far": None}
    assert shown["meta"] == {"who": "me", "empty": ""}
    assert shown["provenance"]["config_fingerprint"] == "f00"


def test_restore_brings_it_back(call: Call, saved: Path, source: Path) -> None:
    said = call("restore", saved, "target").stdout
    assert said.startswith("restored 00000002-000000000200-")
    assert " to target: step 200, 4 files, 1.0 MiB (1.0 MiB fetched, 0 B there already) in " in said
    assert Path("target/model.bin").read_bytes() == (source / "model.bin").read_bytes()
    call("restore", saved, "older", "--snapshot", "best:loss:max")
    assert Path("older/name").read_text() == "one"
    call("restore", saved, "some", "--include", "n*", "--include", "deep/*")
    assert {path.name for path in Path("some").rglob("*") if path.is_file()} == {"name", "new", "empty"}


def test_nothing_to_restore_is_exit_6(call: Call) -> None:
    assert "there is no snapshot in file://" in call("restore", "empty-run", "target", exit_code=6).stderr
    assert not Path("target").exists()


@pytest.mark.parametrize("snap", ["999", "nobody", "best:nothing:min", "00000009-000000000001-abcdefgh"])
def test_a_snapshot_that_is_not_there_is_exit_6(snap: str, call: Call, saved: Path) -> None:
    for verb in (["restore", saved, "target", "--snapshot", snap], ["show", saved, snap], ["verify", saved, snap]):
        assert call(*verb, exit_code=6).stdout == ""


def test_restore_tells_what_it_skipped_and_what_that_costs(call: Call, ask: Ask, saved: Path) -> None:
    damage(saved, "name")
    result = call("restore", saved, "target")
    assert "restored 00000001-000000000100-" in result.stdout
    assert "skipped 00000002-000000000200-" in result.stdout
    assert "lost 100 steps" in result.stdout
    assert "is bad, the next older one is taken" in result.stderr
    (restored,) = ask("restore", saved, "other")
    assert restored["steps_lost"] == 100
    assert restored["skipped"][0]["snapshot"].startswith("00000002-000000000200-")
    assert call("restore", saved, "third", "-q").output == ""
    assert "name" in call("restore", saved, "fourth", "--no-fallback", exit_code=4).stderr.splitlines()[-1]
    assert not Path("fourth").exists()


def test_json_is_alone_on_stdout_also_when_there_are_notices(ask: Ask, saved: Path) -> None:
    damage(saved, "name")
    assert len(ask("restore", saved, "target", "-v")) == 1


def test_a_state_directory_that_cannot_be_used_is_a_notice(call: Call, source: Path) -> None:
    Path("occupied").write_text("")
    result = call("save", source, "run", "--step", 1, "--state-dir", "occupied")
    assert "saving without a journal on disk" in result.stderr
    assert result.stdout.startswith("committed ")


def test_adopt_takes_what_is_there(ask: Ask, call: Call, source: Path) -> None:
    ask("save", source, "run", "--step", 1)
    theirs = Path("run/theirs")
    theirs.mkdir()
    (theirs / "weights.bin").write_bytes(b"weights" * 1000)
    (adopted,) = ask("adopt", "run", "theirs", "--step", 5, "--metric", "loss=1")
    assert adopted.keys() >= AT_LEAST
    assert (adopted["step"], adopted["files"], adopted["bytes"], adopted["bytes_sent"]) == (5, 1, 7000, 0)
    call("restore", "run", "target")
    assert Path("target/weights.bin").read_bytes() == b"weights" * 1000


@pytest.mark.req(25)
def test_ranks_save_one_snapshot_and_a_missing_one_is_named_with_exit_code_7(
    call: Call, ask: Ask, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CKPTSYNC_LAUNCH", "job-1")
    rank = ["save", source, "run", "--step", 7, "--world", 2]
    failed = call(*rank, "--rank", 0, "--under", "zero", "--rank-timeout", "0s", exit_code=7)
    assert "rank 1 (host unknown" in failed.stderr
    assert ask("status", "run")[0]["pending"][0]["missing"] == ["rank 1 (host unknown, it never began)"]
    saved = ask(*rank, "--rank", 1, "--under", "one")[0]
    assert saved["files"] == 2 * len([path for path in source.rglob("*") if path.is_file()])
    again = ask(*rank, "--rank", 0, "--under", "zero")[0]
    assert (again["snapshot"], again["bytes_sent"]) == (saved["snapshot"], 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--rank", 0], "go together"),
        (["--world", 2], "go together"),
        (["--launch", "x"], "are for ranks"),
        (["--rank", 0, "--world", 2], "--launch, CKPTSYNC_LAUNCH"),
        (["--rank", 2, "--world", 2, "--launch", "x"], "rank 2 of 2 makes no sense"),
        (["--rank", 0, "--world", 2, "--launch", "x", "--under", "/abs"], "cannot go under"),
    ],
)
def test_ranks_that_cannot_be_are_usage_errors(call: Call, source: Path, arguments: list[object], words: str) -> None:
    assert words in call("save", source, "run", "--step", 7, *arguments, exit_code=2).stderr
    assert not Path("run").exists()
