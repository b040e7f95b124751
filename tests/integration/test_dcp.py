"""torch.distributed.checkpoint with real processes: FSDP2 over gloo, started by torchrun, on real servers."""

from __future__ import annotations

import io
import os
import pickle
import random
import subprocess
import sys
from collections import OrderedDict
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import metadata as torch_metadata
from torch.distributed.checkpoint.api import CheckpointException

from ckptsync.errors import ConfigError, IntegrityError, NoSnapshotError
from ckptsync.integrations import torch as torch_files
from ckptsync.integrations._metadata import _VALUES, _Unpickler
from ckptsync.integrations.dcp import METADATA, RunReader, RunWriter
from ckptsync.run import open_run
from ckptsync.verbs.restore import restore
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # what `no_dist` is for

JOB = Path(__file__).with_name("dcp_job.py")


def ranks(world: int, *arguments: str) -> str:
    """Start a job under torchrun and return what it printed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(world), "--standalone", str(JOB)]
    environ = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=180, env=environ, check=False
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.count("done") == world
    return found.stdout


@pytest.mark.parametrize(("saving", "loading"), [(2, 4), (4, 2)])
def test_a_sharded_model_is_saved_by_some_and_loaded_by_others(
    url: str, tmp_path: Path, saving: int, loading: int
) -> None:
    ranks(saving, "train", url, "3")
    with open_run(url) as run:
        (snapshot,) = run.catalog.listed()
        manifest = run.catalog.load(snapshot)
        assert [file.path for file in manifest.files] == sorted(
            [METADATA, *(f"__{rank}_0.distcp" for rank in range(saving))]
        )
        assert manifest.metrics["loss"] == pytest.approx(1 / 3)
        assert not verify(run).bad
        restore(run, tmp_path / "restored")
    ranks(loading, "check", url, "3")
    if saving == 4:  # once is enough
        ranks(loading, "export", url, "3", str(tmp_path / "restored"))


def test_steps_follow_each_other_and_asynchronous_saves_do_too(tmp_path: Path) -> None:
    url = str(tmp_path / "run")
    for action, step in (("train", 2), ("async", 4)):
        ranks(2, action, url, str(step))
    ranks(2, "check", url, "4")
    with open_run(url) as run:
        assert [(one.id.epoch, one.id.step) for one in run.catalog.listed()] == [(2, 4), (1, 2)]
        told = {manifest.id.step: manifest.cost for manifest in run.catalog.history()}
    waited_s = {step: cost.loop.stall_s for step, cost in told.items() if cost.loop}
    assert waited_s[2] > told[2].seconds > 0  # the loop waited for all of it
    assert 0 < waited_s[4] < waited_s[2]  # for the copy alone


def test_a_snapshot_tells_what_the_loop_resumed_from(run: str, state: dict[str, object]) -> None:
    dcp.load(blank(), storage_reader=RunReader(run), no_dist=True)
    dcp.save(state, storage_writer=RunWriter(run, step=8), no_dist=True)
    with open_run(run) as opened:
        later, earlier = opened.catalog.history()
    assert later.cost.loop
    assert later.cost.loop.resumed_from == earlier.snapshot
    assert later.cost.loop.resume_s > 0


@pytest.fixture
def state() -> dict[str, object]:
    return {"w": torch.arange(300_000.0), "half": torch.ones(3, dtype=torch.bfloat16), "n": {"step": 7}}


def blank() -> dict[str, object]:
    return {"w": torch.zeros(300_000), "half": torch.zeros(3, dtype=torch.bfloat16), "n": {"step": 0}}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: dict[str, object]) -> str:
    """One process's snapshot."""
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    found = str(tmp_path / "run")
    dcp.save(state, storage_writer=RunWriter(found, step=7), no_dist=True)
    return found


def test_one_process_alone(run: str, state: dict[str, object]) -> None:
    found, reader = blank(), RunReader(run)
    dcp.load(found, storage_reader=reader, no_dist=True)
    assert torch.equal(found["w"], state["w"])  # type: ignore[arg-type]
    assert torch.equal(found["half"], state["half"])  # type: ignore[arg-type]
    assert found["n"] == {"step": 7}
    assert reader.step == 7


def test_only_the_parts_that_hold_what_is_wanted_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("CKPTSYNC_TRANSFER_PART_BYTES", "5MiB")
    large = {name: torch.full((3 << 20,), float(number)) for number, name in enumerate("abcd")}
    dcp.save(large, storage_writer=RunWriter(tmp_path / "run", step=1), no_dist=True)
    received: list[int] = []
    reader = RunReader(
        tmp_path / "run", observer=lambda event: received.append(event.bytes) if event.kind == "received" else None
    )
    found = {"c": torch.zeros(3 << 20)}
    dcp.load(found, storage_reader=reader, no_dist=True)
    assert torch.equal(found["c"], large["c"])
    assert sum(received) < 24 << 20  # of 48


@pytest.mark.req(33)
def test_a_damaged_snapshot_is_passed_over(run: str, state: dict[str, object]) -> None:
    dcp.save({**state, "w": torch.zeros(300_000)}, storage_writer=RunWriter(run, step=8), no_dist=True)
    (metadata,) = Path(run).glob(f"data/*-000000000008-*/{METADATA}")
    content = bytearray(metadata.read_bytes())
    content[50] ^= 1
    metadata.write_bytes(content)
    found = blank()
    dcp.load(found, storage_reader=RunReader(run), no_dist=True)
    assert torch.equal(found["w"], state["w"])  # type: ignore[arg-type]


def test_a_damaged_shard_changes_nothing(run: str) -> None:
    (shard,) = Path(run).glob("data/*/__0_0.distcp")
    content = bytearray(shard.read_bytes())
    content[-5000] ^= 1
    shard.write_bytes(content)
    found = blank()
    with pytest.raises(CheckpointException, match=r"__0_0\.distcp is not what was committed"):
        dcp.load(found, storage_reader=RunReader(run), no_dist=True)
    assert torch.equal(found["w"], torch.zeros(300_000))  # type: ignore[arg-type]


class Trap:
    """What runs when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch trapped",)


@pytest.mark.req(35)
def test_metadata_of_a_stranger_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / METADATA).write_bytes(pickle.dumps(Trap()))
    with open_run("run") as run:
        save(run, Path("source"), step=1)
    with pytest.raises(IntegrityError, match=r"names posix\.system"):
        RunReader("run").read_metadata()
    assert not (tmp_path / "trapped").exists()


MODULE = "torch.distributed.checkpoint.metadata"


def named(module: str, name: str) -> bytes:
    """The opcode that pushes what a module has by a name."""
    return f"c{module}\n{name}\n".encode()


@pytest.mark.req(35)
@pytest.mark.parametrize(
    "name", ["dataclass", "field", "os", "torch", "Enum", "Any", "Sequence", "StatefulT", "__builtins__"]
)
def test_metadata_names_nothing_that_torchs_module_merely_imports(name: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match=rf"names {MODULE}\.{name}, which"):
        _Unpickler(io.BytesIO(b"\x80\x02" + named(MODULE, name) + b".")).load()


@pytest.mark.req(35)
@pytest.mark.parametrize("name", [*_VALUES, "_MEM_FORMAT_ENCODING"])
@pytest.mark.parametrize("state", [b"}X\x01\0\0\0xK\x01s", b"N}X\x01\0\0\0xK\x01s\x86"], ids=["dict", "slots"])
def test_metadata_changes_no_class(name: str, state: bytes) -> None:
    with pytest.raises((pickle.UnpicklingError, TypeError, AttributeError)):
        _Unpickler(io.BytesIO(b"\x80\x02" + named(MODULE, name) + state + b"b.")).load()
    assert not hasattr(getattr(torch_metadata, name), "x")


@pytest.mark.req(35)
def test_metadata_changes_no_member_and_no_function() -> None:
    state = b"N}X\x01\0\0\0xK\x01s\x86b."
    member = named(MODULE, "_MEM_FORMAT_ENCODING") + b"K\x00\x85R"
    for made in (
        member,
        named("torch.serialization", "_get_layout"),
        named("torch", "Size"),
        named("torch", "float32"),
    ):
        with pytest.raises((pickle.UnpicklingError, TypeError, AttributeError)):
            _Unpickler(io.BytesIO(b"\x80\x02" + made + state)).load()
    assert not hasattr(torch_metadata._MEM_FORMAT_ENCODING(0), "x")
    assert not hasattr(torch.serialization._get_layout, "x")


@pytest.mark.req(35)
def test_members_that_the_first_versions_of_python_3_11_wrote_are_read_and_no_other_attribute() -> None:
    ask = b"\x80\x02" + named("builtins", "getattr")
    wanted = ask + named(MODULE, "_MEM_FORMAT_ENCODING") + b"X\x15\0\0\0TORCH_PRESERVE_FORMAT\x86R."
    assert _Unpickler(io.BytesIO(wanted)).load() == torch_metadata._MEM_FORMAT_ENCODING.TORCH_PRESERVE_FORMAT
    for other in (named(MODULE, "Metadata"), named("torch", "Size")):
        with pytest.raises(pickle.UnpicklingError, match="asks for an attribute"):
            _Unpickler(io.BytesIO(ask + other + b"X\x08\0\0\0__init__\x86R.")).load()


def test_metadata_of_torchs_own_writer_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    state = {"w": torch.ones(3), "n": {"step": 7}}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(tmp_path / "own"), no_dist=True)
    with open_run(tmp_path / "run") as run:
        save(run, tmp_path / "own", step=1)
    found = {"w": torch.zeros(3), "n": {"step": 0}}
    dcp.load(found, storage_reader=RunReader(tmp_path / "run"), no_dist=True)
    assert torch.equal(found["w"], torch.ones(3))  # type: ignore[arg-type]
    assert found["n"] == {"step": 7}
    metadata = RunReader(tmp_path / "run").read_metadata()
    assert metadata.state_dict_metadata == dcp.FileSystemReader(tmp_path / "own").read_metadata().state_dict_metadata


@pytest.mark.req(35)
def test_values_of_a_stranger_run_nothing_unless_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    dcp.save({"w": torch.ones(2), "step": Trap()}, storage_writer=RunWriter("run", step=1), no_dist=True)
    found = {"w": torch.zeros(2), "step": 0}
    with pytest.raises(CheckpointException, match=r"step holds more than tensors .* weights_only=False"):
        dcp.load(found, storage_reader=RunReader("run"), no_dist=True)
    assert not (tmp_path / "trapped").exists()
    assert torch.equal(found["w"], torch.zeros(2))  # type: ignore[arg-type]
    dcp.load(found, storage_reader=RunReader("run", weights_only=False), no_dist=True)
    assert (tmp_path / "trapped").exists()


def test_ordinary_values_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    values: dict[str, object] = {
        "int": 1 << 40,
        "float": 0.5,
        "text": "é",
        "none": None,
        "bool": True,
        "bytes": b"x",
        "list": [1, "a", None],
        "tuple": (1, 2.0),
        "set": {1, 2},
        "size": torch.Size([2, 3]),
        "dtype": torch.bfloat16,
        "ordered": OrderedDict(a=1),
        "python": random.getstate(),
        "cosine": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10).state_dict(),
        "steps": torch.optim.lr_scheduler.StepLR(optimizer, 3).state_dict(),
        "nested": {"a": [{"b": None}]},
    }
    saved = {**values, "rng": torch.get_rng_state()}
    planner = dcp.DefaultSavePlanner(flatten_state_dict=False)
    dcp.save(saved, storage_writer=RunWriter(tmp_path / "run", step=1), planner=planner, no_dist=True)
    found: dict[str, object] = {**dict.fromkeys(values, 0), "rng": torch.zeros_like(torch.get_rng_state())}
    whole = dcp.DefaultLoadPlanner(flatten_state_dict=False)
    dcp.load(found, storage_reader=RunReader(tmp_path / "run"), planner=whole, no_dist=True)
    assert torch.equal(whole.state_dict["rng"], saved["rng"])
    assert {name: whole.state_dict[name] for name in values} == values


def test_a_step_again_and_a_lower_one_take_a_new_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    for value, step in enumerate((4, 4, 3, 5)):
        dcp.save({"a": torch.full((3,), value)}, storage_writer=RunWriter(tmp_path / "run", step=step), no_dist=True)
        found, reader = {"a": torch.full((3,), -1)}, RunReader(tmp_path / "run")
        dcp.load(found, storage_reader=reader, no_dist=True)
        assert (found["a"].tolist(), reader.step) == ([value] * 3, step)
    with open_run(tmp_path / "run") as run:
        assert [(one.id.epoch, one.id.step) for one in run.catalog.listed()] == [(3, 5), (3, 3), (2, 4), (1, 4)]


def test_who_was_overtaken_does_not_take_the_run_back_by_a_lower_step(run: str, state: dict[str, object]) -> None:
    with open_run(run) as opened:
        newest = opened.catalog.claims.claim().epoch
    for step in (9, 7, 3):
        with pytest.raises(CheckpointException, match="now belongs to"):
            dcp.save(state, storage_writer=RunWriter(run, step=step), no_dist=True)
    with open_run(run) as opened:
        assert opened.catalog.claims.newest_epoch() == newest


def test_a_sparse_tensor_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(CheckpointException, match=r"a is sparse_coo, and only dense tensors"):
        dcp.save({"a": torch.eye(3).to_sparse()}, storage_writer=RunWriter(tmp_path / "run", step=1), no_dist=True)
    assert not (tmp_path / "run").exists()


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    for act in (
        torch_files.load,
        torch_files.load_file,
        partial(torch_files.save, {}),
        partial(torch_files.save_file, {}),
    ):
        with pytest.raises(ConfigError, match=r"is a directory; name a file in it, or the run as file:///"):
            act(tmp_path)


def test_a_shard_that_ends_before_what_is_said_of_it(run: str) -> None:
    reader = RunReader(run)
    metadata = reader.read_metadata()
    index = next(index for index in metadata.storage_data if index.fqn == "w")
    metadata.storage_data[index].length = 1 << 40
    reader.read_metadata = lambda *_, **__: metadata  # type: ignore[method-assign]
    with pytest.raises(CheckpointException, match="are wanted from"):
        dcp.load(blank(), storage_reader=reader, no_dist=True)


def test_what_is_not_there_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    with pytest.raises(NoSnapshotError):
        RunReader(tmp_path / "run").read_metadata()
    (tmp_path / "file").write_text("x")
    with open_run(tmp_path / "run") as run:
        save(run, tmp_path / "file", step=1)
    with pytest.raises(ConfigError, match="not saved by torch"):
        RunReader(tmp_path / "run").read_metadata()
    with pytest.raises(ConfigError, match="leave it out"):
        RunWriter(tmp_path / "run", step=1).reset("elsewhere")
    assert not RunReader.validate_checkpoint_id("x")
    assert not RunWriter.validate_checkpoint_id("x")


def test_a_killed_save_leaves_the_snapshot_before(run: str, state: dict[str, object]) -> None:
    """All shards are there, and the coordinator never comes to the commit."""
    writer = RunWriter(run, step=9)
    writer.finish = lambda **_: None  # type: ignore[method-assign,assignment]
    dcp.save(state, storage_writer=writer, no_dist=True)
    reader = RunReader(run)
    dcp.load(blank(), storage_reader=reader, no_dist=True)
    assert reader.step == 7
