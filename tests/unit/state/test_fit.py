"""What is known of a snapshot before anything large of it is fetched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch.distributed.checkpoint as dcp

from ckptsync.errors import ConfigError
from ckptsync.events import Event
from ckptsync.integrations.dcp import RunWriter
from ckptsync.manager import CheckpointManager
from ckptsync.options import Config
from ckptsync.run import open_run
from ckptsync.state import fit
from ckptsync.state import loading as fit_in_loading
from ckptsync.state.fit import Preflight
from ckptsync.state.loading import preflight

Make = Callable[..., CheckpointManager]
Look = Callable[..., Preflight]


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def make(tmp_path: Path, events: list[Event]) -> Make:
    def call() -> CheckpointManager:
        config = Config(state_dir=str(tmp_path / "state"))
        return CheckpointManager(tmp_path / "run", config=config, observer=events.append)

    return call


@pytest.fixture
def look(tmp_path: Path) -> Look:
    """Look at the newest snapshot."""

    def call(**items: Any) -> Preflight:
        with open_run(tmp_path / "run") as run:
            manifest = run.catalog.latest()
            assert manifest is not None
            return preflight(run, manifest, items)

    return call


def model(**options: Any) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(3, 2, **options), torch.nn.BatchNorm1d(2))


def trained(module: torch.nn.Module) -> torch.optim.Optimizer:
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.rand(4, 3)).sum().backward()
    optimizer.step()
    return optimizer


@pytest.fixture
def saved(make: Make) -> None:
    ours = model()
    with make() as manager:
        manager.save(5, model=ours, optimizer=trained(ours), progress={"samples": 7})


def notices(events: list[Event]) -> list[str]:
    return [event.message for event in events if event.kind == "notice"]


@contextlib.contextmanager
def nothing_fetched(events: list[Event]) -> Iterator[None]:
    """Nothing but the index."""
    events.clear()
    yield
    assert {event.path for event in events if event.kind == "received"} <= {"state.json"}


@pytest.mark.usefixtures("saved")
def test_what_fits_loads(look: Look) -> None:
    found = look(model=model(), optimizer=torch.optim.AdamW(model().parameters()), progress={})
    assert (found.verdict, found.reason, found.differences) == ("loads", "", {})
    assert str(found) == f"snapshot {found.snapshot} loads"


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ({"model": torch.nn.Linear(3, 2)}, "0.bias is [2] there and absent here, and 8 more differ"),
        ({"model": model(bias=False)}, "0.bias is [2] there and absent here"),
        (
            {"model": torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))},
            "0.bias is [2] there and [4] here, and 5 more",
        ),
        (
            {"optimizer": torch.optim.AdamW(torch.nn.Linear(3, 2).parameters())},
            "its group 0 has 4 parameters there, and 2 here",
        ),
        ({"scheduler": {}}, "it has no item 'scheduler'"),
        ({"model": 5}, "cannot take a state"),
        ({"model": Path("x")}, "was no path"),
    ],
)
def test_what_will_fail_says_why_and_a_restore_says_it_before_anything_moves(
    look: Look, make: Make, events: list[Event], items: dict[str, Any], reason: str
) -> None:
    found = look(**items)
    assert found.verdict == "will fail"
    assert str(found).startswith(f"loading snapshot {found.snapshot} will fail because ")
    assert reason in str(found)
    assert "\n" not in str(found)
    with make() as manager, nothing_fetched(events), pytest.raises(ConfigError) as caught:
        manager.restore(**items)
    assert str(caught.value) == str(found)


@pytest.mark.usefixtures("saved")
def test_a_module_that_takes_its_shapes_from_what_it_loads_fits(look: Look, make: Make) -> None:
    lazy = torch.nn.Sequential(torch.nn.LazyLinear(2), torch.nn.BatchNorm1d(2))
    assert look(model=lazy).verdict == "loads"
    with make() as manager:
        manager.restore(model=lazy)
    assert lazy[0].weight.shape == (2, 3)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")  # what `no_dist` is for
def test_what_was_saved_in_shards_needs_resharding(tmp_path: Path, look: Look, make: Make) -> None:
    dcp.save({"w": torch.ones(3)}, storage_writer=RunWriter(tmp_path / "run", step=7), no_dist=True)
    found = look(w={})
    assert found.verdict == "needs resharding"
    assert "needs resharding: torch.distributed.checkpoint saved it from 1 ranks" in str(found)
    with make() as manager, pytest.raises(ConfigError, match="needs resharding"):
        manager.restore(w={})


@pytest.mark.usefixtures("saved")
def test_another_dtype_is_converted_and_said_once(make: Make, events: list[Event]) -> None:
    theirs = model().to(torch.bfloat16)
    with make() as manager:
        manager.restore(model=theirs)
    (notice,) = notices(events)
    assert "has float32 where item 'model' has bfloat16 (first at 0.weight); it is converted" in notice
    assert theirs[0].weight.dtype == torch.bfloat16


@pytest.mark.usefixtures("saved")
def test_other_versions_processes_and_devices_are_said_once_each(
    make: Make, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_with, looked = torch.__version__, fit.told_at
    monkeypatch.setattr(  # no other device is here
        fit_in_loading, "told_at", lambda *args: msgspec.structs.replace(looked(*args), devices=("cuda",))
    )
    monkeypatch.setattr(fit.torch, "__version__", "9.8.7")
    monkeypatch.setattr(fit, "processes", lambda: 4)
    with make() as manager:
        manager.restore(model=model(), only=["model"])
    versions, devices, processes = notices(events)
    assert versions.endswith(f"was saved with torch {saved_with}, and is loaded with torch 9.8.7")
    assert devices.endswith("was saved from cuda, and is loaded to cpu")
    assert processes.endswith("was saved by a job of 1 processes, and is loaded by one of 4")


class Telling(torch.nn.Module):
    """A module with a state of its own, of so many bytes, as TransformerEngine's have."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def get_extra_state(self) -> torch.Tensor:
        return torch.zeros(self.size, dtype=torch.uint8)

    def set_extra_state(self, state: torch.Tensor) -> None:
        self.size = len(state)


def test_a_state_of_a_modules_own_may_be_of_another_size(make: Make, look: Look) -> None:
    with make() as manager:
        manager.save(1, model=torch.nn.Sequential(Telling(5)))
    theirs = torch.nn.Sequential(Telling(0))
    assert look(model=theirs).verdict == "loads"
    with make() as manager:
        manager.restore(model=theirs)
    assert theirs[0].size == 5


@pytest.mark.usefixtures("saved")
def test_nothing_is_loaded_to_where_there_is_no_memory(look: Look) -> None:
    bare = model().to("meta")
    assert "item 'model' does not fit: 0.weight is on the device 'meta' here" in str(look(model=bare))
    assert "'optimizer' does not fit: its parameters have no memory" in str(
        look(optimizer=torch.optim.AdamW(bare.parameters()))
    )


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "item 'progress' does not fit: it is a dict there, and a list here"),
        (torch.zeros(3), "item 'progress' does not fit: it is a dict there, and a tensor [3] here"),
        ({"samples": torch.nn.Linear(1, 1)}, "item 'progress.samples' does not fit: bias is absent there and [1] here"),
    ],
)
def test_what_is_of_another_kind_is_known_before(look: Look, given: Any, reason: str) -> None:
    assert reason in str(look(progress=given))


@pytest.mark.usefixtures("saved")
def test_a_later_patch_of_a_version_is_no_difference(look: Look, monkeypatch: pytest.MonkeyPatch) -> None:
    major, minor, *_ = torch.__version__.split(".")
    monkeypatch.setattr(fit.torch, "__version__", f"{major}.{minor}.99+cu999")
    assert not look(model=model()).differences
