"""What an Accelerator has prepared: saved behind the loop's back, and brought back whole."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration

from ckptsync import uploads
from ckptsync.errors import ConfigError, IntegrityError, NoSnapshotError, StoreError
from ckptsync.integrations.accelerate import AcceleratorCheckpoints
from ckptsync.options import Config
from ckptsync.policy import LatestN
from ckptsync.run import open_run
from ckptsync.verbs.restore import restore
from ckptsync.verbs.verify import verify

pytestmark = pytest.mark.filterwarnings("default")  # of other people's packages


class Job:
    """A model whose weights are what it is told."""

    def __init__(self) -> None:
        self.accelerator = Accelerator(cpu=True)
        model = torch.nn.Linear(3, 1)
        self.model, self.optimizer = self.accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))

    @property
    def value(self) -> float:
        """What all its weights are."""
        (value,) = set(self.model.weight.flatten().tolist())
        return value

    def be(self, value: float) -> None:
        """Set them."""
        with torch.no_grad():
            self.model.weight.fill_(value)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., AcceleratorCheckpoints]:
    """Checkpoints of one run in a directory."""

    def call(job: Job, **options: Any) -> AcceleratorCheckpoints:
        config = Config(state_dir=str(tmp_path / "state"))
        return AcceleratorCheckpoints(job.accelerator, tmp_path / "run", config=config, **options)

    return call


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Saves wait for this."""
    go_on, plain = threading.Event(), uploads.save

    def waiting(*args: Any, **options: Any) -> Any:
        go_on.wait(30)
        return plain(*args, **options)

    monkeypatch.setattr(uploads, "save", waiting)
    return go_on


def steps(tmp_path: Path) -> list[int]:
    """Of every snapshot, the newest first; all are good."""
    with open_run(tmp_path / "run") as run:
        manifests = list(run.catalog.history())
        assert not any(verify(run, manifest.snapshot).bad for manifest in manifests)
    return [manifest.id.step for manifest in manifests]


def test_what_was_saved_comes_back(tmp_path: Path, make: Any) -> None:
    job = Job()
    with make(job, keep=LatestN(2)) as checkpoints:
        assert checkpoints.load() == 0
        for step in range(4):
            job.be(step)
            assert checkpoints.save(step, metrics={"loss": -step}, meta={"by": "test"})
        drawn = torch.rand(3)
    assert steps(tmp_path) == [3, 2]
    other = Job()
    with make(other) as checkpoints:
        assert checkpoints.load(snapshot=2) == 3
        assert other.value == 2.0
        assert checkpoints.load() == 4
        assert other.value == 3.0
        assert torch.equal(torch.rand(3), drawn)
        with pytest.raises(NoSnapshotError):
            checkpoints.load(snapshot=9)
    with open_run(tmp_path / "run") as run:
        (newest, *_) = run.catalog.history()
        assert newest.metrics == {"loss": -3.0}
        assert newest.meta == {"by": "test"}
        restore(run, tmp_path / "plain")
    third = Job()
    third.accelerator.load_state(str(tmp_path / "plain"))
    assert third.value == 3.0


def test_local_files_stay_no_longer_than_they_must(tmp_path: Path, make: Any, held_back: threading.Event) -> None:
    job = Job()
    with make(job, folder=tmp_path / "disk") as checkpoints:
        checkpoints.save(1)
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["step-1"]
        held_back.set()
        checkpoints.wait()
        assert not list((tmp_path / "disk").iterdir())
        checkpoints.load()
        assert not list((tmp_path / "disk").iterdir())


def test_a_save_may_be_skipped_while_one_is_under_way(tmp_path: Path, make: Any, held_back: threading.Event) -> None:
    job = Job()
    with make(job, busy="skip") as checkpoints:
        assert checkpoints.save(1)
        assert not checkpoints.save(2)
        held_back.set()
        checkpoints.wait()
        assert checkpoints.save(3)
    assert steps(tmp_path) == [3, 1]


@pytest.mark.parametrize("next_call", ["save", "wait", "load", "close"])
def test_what_goes_wrong_is_raised_by_the_next_call(
    make: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, next_call: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StoreError("the bucket is gone")

    monkeypatch.setattr(uploads, "save", fail)
    checkpoints = make(Job(), folder=tmp_path / "disk")
    checkpoints.save(0)
    assert checkpoints._uploads._work.join(30)
    with pytest.raises(StoreError, match="the bucket is gone"):
        checkpoints.save(1) if next_call == "save" else getattr(checkpoints, next_call)()
    assert not list((tmp_path / "disk").iterdir())
    monkeypatch.undo()
    if next_call == "close":
        with pytest.raises(ConfigError, match="are closed"):
            checkpoints.save(2)
    else:
        assert checkpoints.save(2)
        checkpoints.close()
        assert steps(tmp_path) == [2]


def test_what_a_loop_dies_of_is_not_hidden_by_a_save_that_failed(
    make: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise StoreError("the bucket is gone")

    monkeypatch.setattr(uploads, "save", fail)

    def loop() -> None:
        with make(Job()) as checkpoints:
            checkpoints.save(0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop()
    assert "the bucket is gone" in caplog.text


def test_a_damaged_snapshot_changes_nothing(tmp_path: Path, make: Any) -> None:
    job = Job()
    with make(job) as checkpoints:
        for step in (1, 2):
            job.be(step)
            checkpoints.save(step)
        checkpoints.wait()
        (newest,) = (tmp_path / "run/data").glob("*-000000000002-*/model.safetensors")
        newest.chmod(0o644)
        newest.write_bytes(newest.read_bytes()[:-1] + b"?")
        job.be(7)
        with pytest.raises(IntegrityError):
            checkpoints.load(snapshot=2)
        assert job.value == 7.0
        assert checkpoints.load() == 2
        assert job.value == 1.0


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    project = ProjectConfiguration(project_dir=str(tmp_path), automatic_checkpoint_naming=True)
    with pytest.raises(ConfigError, match="automatic_checkpoint_naming"):
        AcceleratorCheckpoints(Accelerator(cpu=True, project_config=project), tmp_path / "run")


def test_a_program_that_ends_without_closing_waits_for_its_last_save(tmp_path: Path) -> None:
    script = f"""
import torch
from accelerate import Accelerator
from ckptsync import Config
from ckptsync.integrations.accelerate import AcceleratorCheckpoints
accelerator = Accelerator(cpu=True)
accelerator.prepare(torch.nn.Linear(1000, 1000))
config = Config(state_dir={str(tmp_path / "state")!r})
AcceleratorCheckpoints(accelerator, {str(tmp_path / "run")!r}, config=config).save(7)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert steps(tmp_path) == [7]


@pytest.mark.parametrize(("module", "missing"), [("accelerate", "accelerate"), ("huggingface", "transformers")])
def test_what_is_not_installed_is_named(module: str, missing: str) -> None:
    script = f"""
import sys
sys.modules[{missing!r}] = None
from ckptsync import ConfigError
try:
    import ckptsync.integrations.{module}
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"{missing} is not installed; pip install 'ckptsync[transformers]'\n"
