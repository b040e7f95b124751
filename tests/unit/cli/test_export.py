"""export against a directory."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from click.testing import Result

from ckptsync.integrations.torch import save

Call = Callable[..., Result]
Ask = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def weights() -> Path:
    """A run with steps 1 and 2 of a model that was wrapped."""
    run = Path("weights").absolute()
    for step in (1, 2):
        model = {"module.a": torch.full((2, 3), float(step)), "module.b": torch.arange(3)}
        save({"model": model, "step": step}, f"{run.as_uri()}@{step}", metrics={"loss": step})
    return run


def test_an_archive_says_what_it_is_of(call: Call, saved: Path, source: Path) -> None:
    said = call("export", saved, "it.tar.zst").stdout
    assert said.startswith("exported 00000002-000000000200-")
    assert " to it.tar.zst: step 200, 4 files, " in said
    call("export", f"{saved}@100", "older.tar")
    with tarfile.open("older.tar") as tar:
        tar.extraction_filter = lambda member, _: member  # the argument is not there in Python 3.11.2
        tar.extractall("there")  # noqa: S202  we have made it
    assert Path("there/name").read_text() == "one"
    assert Path("there/model.bin").read_bytes() == (source / "model.bin").read_bytes()
    call("export", f"{saved}@best-so-far", "alias.tar")
    call("export", f"{saved}@best:loss:max", "best.tar")
    assert Path("best.tar").read_bytes() == Path("older.tar").read_bytes() != Path("alias.tar").read_bytes()


def test_json_has_what_people_are_told(ask: Ask, saved: Path) -> None:
    (made,) = ask("export", saved, "it.tar")
    assert (made["step"], made["files"], made["tensors"], made["out"]) == (200, 4, 0, "it.tar")
    assert made["bytes"] == Path("it.tar").stat().st_size


def test_weights_become_one_file_that_the_library_reads(call: Call, ask: Ask, weights: Path) -> None:
    said = call("export", weights, "w.safetensors", "--item", "state.model").stdout
    assert ": step 2, 2 tensors, " in said
    found = safetensors.torch.load_file("w.safetensors")
    assert found["module.a"].equal(torch.full((2, 3), 2.0))
    options = ["--item", "state.model", "--dtype", "bfloat16", "--strip-prefix", "module."]
    (made,) = ask("export", f"{weights}@best:loss:min", "w.safetensors", *options)
    assert (made["step"], made["tensors"]) == (1, 2)
    found = safetensors.torch.load_file("w.safetensors")
    assert found["a"].dtype == torch.bfloat16
    assert found["b"].equal(torch.arange(3))
    with safetensors.safe_open("w.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "ckptsync.snapshot": made["snapshot"]}


def test_run_from_the_environment(call: Call, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTSYNC_RUN", f"{saved}@100")
    assert "step 100" in call("export", "it.tar").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["it.zip"], "must end in .safetensors for weights, or in .tar or .tar.zst"),
        (["it.tar", "--item", "model"], "item is of weights, and it.tar gets every file as it is"),
        (["it.tar", "--strip-prefix", "x"], "strip prefix is of weights"),
        (["it.safetensors", "--item", "nothing"], "has no item 'nothing'; it has state.pt"),
        (["it.safetensors", "--item", "state.step"], "state.pt.step holds no tensors"),
        (["it.safetensors", "--strip-prefix", "none."], "has the prefix 'none.'; the first is model.module.a"),
        (["it.safetensors", "--dtype", "int8"], "'int8' is not one of"),
        (["none/it.tar"], "none is no directory"),
    ],
)
def test_what_cannot_be_is_a_usage_error(call: Call, weights: Path, arguments: list[str], words: str) -> None:
    assert words in call("export", weights, *arguments, exit_code=2).stderr
    assert not list(Path().glob("*it.*"))
    assert not list(Path().glob(".it.*"))


def test_names_that_would_become_one_are_refused(call: Call) -> None:
    run = Path("clash").absolute()
    save({"a": torch.ones(1), "module.a": torch.ones(1)}, run.as_uri())
    arguments = ["export", run, "it.safetensors", "--strip-prefix", "module."]
    assert "two tensors of state.pt would have one name" in call(*arguments, exit_code=2).stderr


def test_damage_is_exit_4_and_nothing_is_exit_6(call: Call, weights: Path) -> None:
    for stored in weights.glob("data/*/state.pt"):
        content = bytearray(stored.read_bytes())
        content[-1] ^= 1
        stored.chmod(0o644)
        stored.write_bytes(content)
    for name in ("it.tar", "it.safetensors"):
        assert "state.pt" in call("export", f"{weights}@2", name, exit_code=4).stderr
        call("export", "empty", name, exit_code=6)
    assert not list(Path().glob("*it.*"))


def test_weights_without_torch_say_what_to_install(call: Call, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ckptsync.state.export", None)
    assert "pip install 'ckptsync[torch]'" in call("export", weights, "it.safetensors", exit_code=2).stderr
    call("export", weights, "it.tar")


def test_two_tensors_of_one_name_are_refused_by_name(call: Call) -> None:
    state = {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)}
    save({"nest": state}, f"{Path('twice').absolute().as_uri()}@1")
    said = call("export", "twice", "it.safetensors", "--item", "state.nest", exit_code=2).stderr
    assert "two tensors of state.pt.nest would both be named a.b: ['a']['b'] and ['a.b']" in said
    assert not Path("it.safetensors").exists()
    call("export", "twice", "it.safetensors", "--item", "state.nest.a")
    assert safetensors.torch.load_file("it.safetensors")["b"].item() == 0


def test_one_tensor_is_no_item(call: Call, weights: Path) -> None:
    said = call("export", weights, "it.safetensors", "--item", "state.model.module.a", exit_code=2).stderr
    assert "has no 'module' where" in said
    save({"weight": torch.zeros(1)}, f"{Path('flat').absolute().as_uri()}@1")
    said = call("export", "flat", "it.safetensors", "--item", "state.weight", exit_code=2).stderr
    assert "state.pt.weight is one tensor; name the item that holds it, without the last key" in said


def test_who_must_choose_is_told_how_in_words_for_all(call: Call, source: Path) -> None:
    for name in ("deep.pt", "flat.pt"):
        torch.save({"w": torch.zeros(1)}, source / name)
    call("save", source, "several", "--step", 1)
    said = call("export", "several", "it.safetensors", exit_code=2).stderr
    assert "say which item, as in" in said
    assert "item=" not in said
