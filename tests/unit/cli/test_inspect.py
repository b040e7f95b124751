"""ls, show, diff, status and verify against a directory."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from ckptsync.run import open_run
from ckptsync.snapshot.cost import Loop
from ckptsync.verbs.save import save

Call = Callable[..., Result]
Ask = Callable[..., list[dict[str, Any]]]


def manifest_of(run: Path, step: int) -> Path:
    (found,) = run.glob(f"manifests/*-{10**12 - 1 - step:012d}-*.json")
    return found


def stored(run: Path, name: str) -> Path:
    found = max(run.glob(f"data/*/{name}"))
    found.chmod(0o644)
    return found


def test_ls_is_a_table(call: Call, saved: Path) -> None:
    head, *rows = call("ls", saved).stdout.splitlines()
    assert head.split() == ["SNAPSHOT", "STEP", "CREATED", "SIZE", "FILES", "STATE", "METRICS", "NOTES"]
    assert [row.split()[1] for row in rows] == ["200", "100"]
    assert "loss=0.25" in rows[0]
    assert rows[0].endswith("best-so-far")
    assert {row.index("committed") for row in rows} == {head.index("STATE")}


def test_ls_json_is_an_object_a_line(ask: Ask, saved: Path) -> None:
    rows = ask("ls", saved)
    assert [row["step"] for row in rows] == [200, 100]
    for row in rows:
        assert row.keys() >= {"snapshot", "step", "epoch", "created", "bytes", "files", "metrics", "state"}
    assert [row["step"] for row in ask("ls", saved, "--limit", 1)] == [200]


def test_ls_of_nothing(call: Call, ask: Ask) -> None:
    assert call("ls", "empty-run").stdout == "no snapshots in empty-run\n"
    assert ask("ls", "empty-run") == []


def test_ls_tells_a_damaged_manifest(call: Call, ask: Ask, saved: Path) -> None:
    manifest = manifest_of(saved, 200)
    manifest.chmod(0o644)
    manifest.write_text("nonsense")
    assert [row["state"] for row in ask("ls", saved)] == ["quarantined", "committed"]
    assert "manifest is damaged" in call("ls", saved).stdout
    assert "damaged" in call("show", saved, 200, exit_code=4).stderr


def test_show_tells_what_and_where_from(call: Call, ask: Ask, saved: Path) -> None:
    said = call("show", saved, "latest").stdout
    assert ["step", "200"] in [line.split() for line in said.splitlines()]
    assert "1.0 MiB in 4 files" in said
    assert re.search(r"^ +1\.0 MiB  06\d\d  [0-9a-f]{16}  model\.bin$", said, re.MULTILINE)
    (shown,) = ask("show", saved, "best-so-far")
    assert (shown["step"], shown["files"], shown["kind"]) == (200, 4, "directory")
    assert {entry["path"] for entry in shown["entries"]} == {"deep", "deep/empty", "model.bin", "name", "new"}
    assert {entry["type"] for entry in shown["entries"]} == {"file", "directory"}


def test_a_strangers_file_name_cannot_drive_the_terminal(call: Call, source: Path) -> None:
    (source / "evil\x1b[2J").touch()
    call("save", source, "run", "--step", 1)
    assert "evil\\x1b[2J" in call("show", "run", 1).stdout
    assert "\x1b" not in call("show", "run", 1).stdout


def test_diff_marks_what_changed(call: Call, ask: Ask, saved: Path) -> None:
    said = call("diff", saved, 100, 200).stdout.splitlines()
    assert said[:3] == ["+ new", "~ name", "  loss: 0.5 -> 0.25"]
    assert said[3] == "1 added, 0 removed, 1 changed, 3 unchanged; 6 B differ in 2 paths"
    (found,) = ask("diff", saved, "latest", 100)
    assert (found["a"], found["b"], found["removed"], found["changed"]) == ("latest", "100", ["new"], ["name"])


def test_status_of_a_run_and_of_none(call: Call, ask: Ask, saved: Path) -> None:
    (found,) = ask("status", saved)
    assert (found["step"], found["epoch"], found["pending"]) == (200, 2, [])
    said = call("status", saved).stdout
    assert "newest  step 200 (00000002-000000000200-" in said
    assert "writer  epoch 2, " in said
    assert "newest  none yet\nwriter  nobody yet\n" in call("status", "empty-run").stdout


def test_status_tells_what_is_newer_and_cannot_be_read(call: Call, ask: Ask, saved: Path) -> None:
    manifest_of(saved, 200).write_text('{"format":"ckptsync-manifest","version":3}')
    (found,) = ask("status", saved)
    assert (found["step"], [bad["step"] for bad in found["unreadable"]]) == (100, [200])
    assert "unreadable  step 200 (00000002-000000000200-" in call("status", saved).stdout
    assert "install a newer ckptsync" in call("restore", saved, "back", exit_code=4).stderr
    call("restore", saved, "back", "--snapshot", 100)


def test_verify_speaks_of_older_ones_only_where_a_restore_takes_them(call: Call, saved: Path) -> None:
    stored(saved, "name").write_bytes(b"owt")
    assert "falls back to an older one" in call("verify", saved, exit_code=4).stderr
    assert "older" not in call("verify", saved, 200, exit_code=4).stderr


def test_verify_finds_everything_good(call: Call, ask: Ask, saved: Path) -> None:
    assert call("verify", saved).stdout.endswith(": all good\n")
    assert "step 100, 3 files" in call("verify", saved, 100).stdout
    (found,) = ask("verify", saved, "latest", "--percent", 50)
    assert 0 < found["parts_checked"] < found["parts_total"]
    assert found["bad"] == []


@pytest.mark.req(17)
def test_verify_names_file_and_part(call: Call, ask: Ask, saved: Path) -> None:
    content = stored(saved, "name").read_bytes()
    stored(saved, "name").write_bytes(content[::-1])
    result = call("verify", saved, exit_code=4)
    assert "name part 1: " in result.stderr
    assert "1 bad\nbad: name part 1: " in result.stdout
    (found,) = ask("verify", saved, exit_code=4)
    assert [(bad["path"], bad["part"]) for bad in found["bad"]] == [("name", 1)]


def test_verify_names_a_missing_file(call: Call, saved: Path) -> None:
    stored(saved, "new").unlink()
    assert "is damaged: new: missing from the bucket" in call("verify", saved, exit_code=4).stderr


def test_verify_names_three_and_counts_the_rest(call: Call, source: Path) -> None:
    for number in range(5):
        (source / f"f{number}").write_text("x")
    call("save", source, "run", "--step", 1)
    for number in range(5):
        stored(Path("run"), f"f{number}").write_text("y")
    assert "f2 part 1: " in (said := call("verify", "run", exit_code=4).stderr)
    assert " and 2 more" in said


def test_verify_quarantines_what_is_damaged_and_releases_it_when_it_is_good(call: Call, ask: Ask, saved: Path) -> None:
    content = stored(saved, "name").read_bytes()
    stored(saved, "name").write_bytes(content[::-1])
    assert "is damaged: name part 1: " in (said := call("verify", saved, "--no-quarantine", exit_code=4).stderr)
    assert "it is quarantined and restore" not in said
    assert "it is quarantined; a restore of the latest falls back" in call("verify", saved, exit_code=4).stderr
    newest, oldest = ask("ls", saved)
    assert (newest["state"], oldest["state"]) == ("quarantined", "committed")
    assert newest["problem"].startswith("name part 1: ")
    (restored,) = ask("restore", saved, "back")
    assert (restored["step"], restored["steps_lost"], len(restored["skipped"])) == (100, 100, 1)
    assert "quarantined" in restored["skipped"][0]["reason"]
    assert "quarantined" in call("promote", saved, 200, "prod", exit_code=4).stderr
    call("promote", saved, 200, "prod", "--force")
    stored(saved, "name").write_bytes(content)
    (sample,) = ask("verify", saved, 200, "--percent", 50)
    assert (sample["quarantined"], sample["bad"]) == (True, [])
    assert "quarantined still" in call("verify", saved, 200, "--percent", 50).stdout
    assert ask("verify", saved, 200)[0]["quarantined"] is False
    assert [row["state"] for row in ask("ls", saved)] == ["committed", "committed"]


def test_verify_draws_the_same_sample_again(call: Call, ask: Ask, saved: Path) -> None:
    (first,) = ask("verify", saved, 200, "--percent", 50)
    (again,) = ask("verify", saved, 200, "--percent", 50, "--seed", first["seed"])
    assert (again["seed"], again["bytes_checked"]) == (first["seed"], first["bytes_checked"])
    for seed in ("", "xyz", "00" * 65):
        assert "hex digits" in call("verify", saved, 200, "--seed", seed, exit_code=2).stderr


def test_free_text_is_listed_and_compared(call: Call, ask: Ask, source: Path) -> None:
    call("save", source, "run", "--step", 1, "--meta", "lr=0.1", "--meta", "seed=1")
    call("save", source, "run", "--step", 2, "--meta", "lr=0.2\nand more", "--meta", "seed=1")
    assert [row["meta"]["lr"] for row in ask("ls", "run")] == ["0.2\nand more", "0.1"]
    assert "  lr: 0.1 -> 0.2 and more" in call("diff", "run", 1, 2).stdout.splitlines()
    assert ask("diff", "run", 1, 2)[0]["meta"] == {"lr": ["0.1", "0.2\nand more"]}


def test_what_a_loop_told_is_shown(call: Call, ask: Ask, source: Path) -> None:
    loop = Loop(
        stall_s=0.5, running_s=90.0, saves=3, resumed_from=f"00000001-{7:012d}-abcdefgh", resume_s=2.0, steps_redone=4
    )
    with open_run("run") as run:
        save(run, source, step=9, loop=loop)
    said = call("show", "run", 9).stdout
    assert "waited 500 ms, save 3 of its process after 1 min 30 s; resumed from 00000001-" in said
    assert "in 2.0 s, 4 steps done again" in said
    assert ask("show", "run", 9)[0]["cost"]["loop"]["steps_redone"] == 4
    call("save", source, "run", "--step", 10)
    assert "loop" not in ask("show", "run", 10)[0]["cost"]


def test_the_best_of_several_runs_comes_first(call: Call, ask: Ask, source: Path, saved: Path) -> None:
    call("save", source, "other", "--step", 7, "--metric", "loss=0.375", "--metric", "accuracy=0.5")
    call("save", source, "other", "--step", 8, "--metric", "loss=nan")
    call("save", source, "other", "--step", 9, "--metric", "loss=0.25")
    found = ask("ls", saved, "--also", "other", "--by", "loss:min")
    assert [(Path(row["run"]).name, row["step"]) for row in found] == [
        ("run", 200),
        ("other", 9),
        ("other", 7),
        ("run", 100),
    ]
    (best,) = ask("ls", saved, "--also", "other", "--by", "loss:max", "-n", 1)
    assert best["step"] == 100
    lines = call("ls", saved, "--also", "other", "-n", 1).stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["STEP", "200", "9"]
    assert "run" not in ask("ls", saved)[0]
    assert "no committed snapshot has a metric 'bleu'" in call("ls", saved, "--by", "bleu:max").stdout
    for wrong in ("loss", "loss:low", ":min"):
        assert "is not like loss:min" in call("ls", saved, "--by", wrong, exit_code=2).stderr


def test_who_is_quarantined_is_not_the_best(call: Call, ask: Ask, saved: Path) -> None:
    content = bytearray(stored(saved, "name").read_bytes())
    content[0] ^= 1
    stored(saved, "name").write_bytes(content)
    call("verify", saved, 200, exit_code=4)
    assert [row["step"] for row in ask("ls", saved, "--by", "loss:min")] == [100]
