"""torch's and safetensors' own calls, with run URLs, on real servers."""

from __future__ import annotations

import builtins
import io
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from ckptsync.api import export
from ckptsync.errors import ConfigError, FencedError, IntegrityError, NoSnapshotError
from ckptsync.integrations.torch import load, load_file, preflight, save, save_file
from ckptsync.manager import CheckpointManager
from ckptsync.run import open_run
from ckptsync.snapshot.manifest import FileEntry
from ckptsync.verbs.save import save as save_files


@pytest.fixture
def run(url: str) -> str:
    """The run, always with a scheme: a path without one is a file's."""
    return url if "://" in url else Path(url).as_uri()


def state(seed: int = 0) -> dict[str, Any]:
    """What a job saves: tensors of several types, tied ones, views, plain values."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(300, 200, generator=draw)
    return {
        "model": {"weight": weight, "tied": weight, "half": weight[:5].bfloat16(), "view": weight[::2, 1:3]},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "step": seed,
    }


def same(found: Any, wanted: Any) -> bool:
    """Whether two states are alike, bit for bit."""
    if isinstance(wanted, torch.Tensor):
        return found.dtype == wanted.dtype and torch.equal(found, wanted)
    if isinstance(wanted, dict):
        return found.keys() == wanted.keys() and all(same(found[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(same, found, wanted))
    return bool(found == wanted)


def newest(run: str) -> FileEntry:
    """The largest file of the newest snapshot."""
    with open_run(run) as opened:
        manifest = opened.catalog.latest()
        assert manifest is not None
        return max(manifest.files, key=lambda file: file.size)


def damage(run: str) -> None:
    """Flip a byte of it."""
    entry = newest(run)
    with open_run(run) as opened:
        content = bytearray(opened.store.read(entry.key))
        content[len(content) // 2] ^= 1
        opened.store.put(entry.key, bytes(content))


def test_what_is_saved_comes_back_and_each_save_is_a_step(run: str) -> None:
    with pytest.raises(NoSnapshotError):
        load(run)
    first = save(state(0), run, metrics={"loss": 0.5}, meta={"who": "me"})
    second = save(state(1), f"{run}@100", metrics={"loss": 0.75})
    third = save(state(2), run)
    assert first is not None
    assert second is not None
    assert third is not None
    assert [one.step for one in (first, second, third)] == [0, 100, 101]
    assert first.epoch == third.epoch
    assert same(load(run), state(2))
    assert same(load(f"{run}@100"), state(1))
    assert same(load(f"{run}@best:loss:min"), state(0))
    assert same(load(f"{run}@{second.snapshot}"), state(1))
    found = load(run)["model"]
    assert found["weight"].data_ptr() == found["tied"].data_ptr()
    assert load(run, "meta")["model"]["weight"].is_meta


def test_it_is_a_file_that_torch_reads_by_itself(run: str) -> None:
    save(state(), run)
    with open_run(run) as opened:
        content = opened.store.read(newest(run).key)
    assert same(torch.load(io.BytesIO(content)), state())


def test_a_manager_reads_it_and_the_other_way_round(run: str) -> None:
    save(state(3), f"{run}@3")
    found: dict[str, Any] = {}
    with CheckpointManager(run) as manager:
        assert manager.restore(state=found) == 4
        assert same(found, state(3))
        manager.save(5, model=state(5)["model"], more={"n": 1})
    assert same(load(run, item="model"), state(5)["model"])
    assert load(run, item="more.n") == 1
    with pytest.raises(ConfigError, match=r"has model\.pt, more\.pt; say which item, as in model"):
        load(run)
    for wrong in ("nothing", "model.nothing", "model.weight.deeper"):
        with pytest.raises(ConfigError, match="has no "):
            load(run, item=wrong)


def test_files_that_others_saved_are_read_too(run: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    torch.save(state(5), folder / "pytorch_model.bin")
    with open_run(run) as opened:
        save_files(opened, folder, step=5)
    assert same(load(run), state(5))
    safetensors.torch.save_file({"w": torch.ones(3)}, folder / "model.safetensors")
    with open_run(run) as opened:
        save_files(opened, folder, step=6)
    assert same(load(run, item="pytorch_model.bin"), state(5))
    assert same(load(run, item="model"), {"w": torch.ones(3)})
    assert load(run, "meta", item="model")["w"].is_meta
    with pytest.raises(ConfigError, match="takes a device alone"):
        load(run, {"cuda": "cpu"}, item="model")
    assert same(load_file(run), {"w": torch.ones(3)})


def test_tensors_go_and_come_as_safetensors(run: str) -> None:
    tensors = state()["model"]
    made = save_file(tensors, f"{run}@7", {"format": "pt"}, metrics={"loss": 1})
    assert made is not None
    assert (made.step, made.files) == (7, 1)
    assert same(load_file(run), tensors)
    assert load_file(f"{run}@7", "meta")["weight"].is_meta
    with open_run(run) as opened:
        entry = newest(run)
        assert entry.path == "model.safetensors"
        assert same(safetensors.torch.load(opened.store.read(entry.key)), tensors)
    save(state(), run)
    with pytest.raises(ConfigError, match=r"no file that ends in \.safetensors"):
        load_file(run)


def test_damage_costs_a_snapshot_and_never_reaches_a_reader(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (1, 2):
        save(state(number), run)
    damage(run)
    assert same(load(run), state(1))
    monkeypatch.setattr(torch, "load", None)  # nothing is handed to it
    with pytest.raises(IntegrityError, match=r"state\.pt"):
        load(f"{run}@1")
    save_file({"w": torch.ones(1000)}, f"{run}@50")
    damage(run)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        load_file(f"{run}@50")


def test_it_exports(run: str, tmp_path: Path) -> None:
    save(state(1), run)
    made = export(run, tmp_path / "w.safetensors", item="state.model", dtype="float16")
    found = safetensors.torch.load_file(made.out)
    assert same(found, {name: tensor.half() for name, tensor in state(1)["model"].items()})
    for name in ("a.tar", "b.tar"):
        export(run, tmp_path / name, snapshot=0)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        content = tar.extractfile("state.pt")
        assert content is not None
        assert same(torch.load(io.BytesIO(content.read())), state(1))


def test_what_will_come_of_it_is_known_before(run: str) -> None:
    save(state(1), run)
    assert str(preflight(run, state={})).endswith(" loads")
    assert preflight(f"{run}@0", state=torch.nn.Linear(2, 3)).verdict == "will fail"


class Stranger:
    """What `weights_only` does not allow."""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run in a directory."""
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    return (tmp_path / "run").as_uri()


def test_what_could_run_code_is_refused_unless_it_is_asked_for(here: str) -> None:
    save({"it": Stranger()}, here)
    with pytest.raises(ConfigError, match="holds more than tensors and plain values"):
        load(here)
    assert isinstance(load(here, weights_only=False)["it"], Stranger)


def test_files_are_torchs_own_matter(tmp_path: Path) -> None:
    for target in (tmp_path / "it.pt", str(tmp_path / "it@5.pt")):
        assert save(state(), target) is None
        assert same(load(target, mmap=True), state())
        assert same(torch.load(target), state())
    buffer = io.BytesIO()
    save(state(), buffer, _use_new_zipfile_serialization=False)
    buffer.seek(0)
    assert same(load(buffer, map_location="cpu"), state())
    save_file({"w": torch.ones(3)}, tmp_path / "w.safetensors", {"format": "pt"})
    assert same(load_file(tmp_path / "w.safetensors"), {"w": torch.ones(3)})
    save({"it": Stranger()}, tmp_path / "it.pt")
    with pytest.raises(Exception, match="Weights only load failed"):
        load(tmp_path / "it.pt")


def test_arguments_that_make_no_sense_are_refused(here: str) -> None:
    for wrong in (f"{here}@best:loss:min", f"{here}@newest", f"{here}@{'9' * 13}"):
        with pytest.raises(ConfigError, match="is no step"):
            save({}, wrong)
    with pytest.raises(ConfigError, match="pickle_protocol: a run takes none of that"):
        save({}, here, pickle_protocol=2)
    with pytest.raises(ConfigError, match="mmap: a run takes none of that"):
        load(here, mmap=True)
    save({"w": torch.ones(1)}, here)
    with pytest.raises(ConfigError, match="'gpu' is no device"):
        load(here, "gpu")
    with pytest.raises(ConfigError, match="'gpu' is no device"):
        load_file(here, "gpu")
    with pytest.raises(ConfigError, match="cannot be saved"):
        save({"it": lambda: None}, here)
    with pytest.raises(ConfigError, match="holds tensors alone"):
        save_file({"n": 5}, here)  # type: ignore[dict-item]


def test_who_was_overtaken_saves_no_more(here: str) -> None:
    save({"n": 1}, here)
    code = f"from ckptsync.integrations.torch import save; save({{'n': 2}}, {here!r})"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(FencedError):
        save({"n": 3}, here)
    assert load(here) == {"n": 2}


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == "safetensors":
            raise ImportError(name)
        return plain(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'ckptsync\[safetensors\]'"):
        load_file(tmp_path / "w.safetensors")
    code = "import sys; sys.modules['torch'] = None\nimport ckptsync.integrations.torch"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigError: ckptsync.integrations.torch needs PyTorch: pip install 'ckptsync[torch]'" in found.stderr
