"""Ray Train with real workers, one of which is killed."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

from ckptsync import LatestN, NoSnapshotError, history, restore
from ckptsync.errors import ConfigError
from ckptsync.integrations.ray import restored, uploader

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own
STEPS = 6


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Iterator[None]:
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": os.pathsep.join(sys.path)}},  # workers import this file
    )
    yield
    ray.shutdown()


def train(config: dict[str, Any]) -> None:
    """Count, and be killed once in the middle."""
    os.environ.update(config["environ"])
    start, total = 0, 0.0
    resumed = Path(config["folder"], "resumed")
    with suppress(NoSnapshotError):
        restore(config["run"], resumed)
        start, total = (int(number) for number in (resumed / "state.txt").read_text().split())
    for step in range(start, STEPS):
        total += step
        folder = Path(config["folder"], str(step))  # it is left alone from now on
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "state.txt").write_text(f"{step + 1} {int(total)}")
        if step == config["kill_at"] and not Path(config["killed"]).exists():
            Path(config["killed"]).touch()
            time.sleep(1)  # until something is durable, where reports do not wait for it
            os.kill(os.getpid(), signal.SIGKILL)
        ray.train.report(
            {"total": total, "start": start},
            checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
            checkpoint_upload_mode=config["mode"],
            checkpoint_upload_fn=uploader(config["run"], step=step, metrics={"total": total}, keep=LatestN(2)),
        )


@pytest.mark.parametrize(
    ("url", "mode"),
    [("directory", "SYNC"), ("directory", "ASYNC"), ("s3", "ASYNC"), ("gs", "SYNC")],
    indirect=["url"],
)
def test_a_killed_worker_goes_on_from_the_bucket(tmp_path: Path, url: str, mode: str) -> None:
    run = url
    config = {
        "run": run,
        "environ": dict(os.environ),  # the workers were started before the bucket was there
        "kill_at": random.Random(url).choice([3, 4]),
        "folder": str(tmp_path / "local"),
        "killed": str(tmp_path / "killed"),
        "mode": ray.train.CheckpointUploadMode[mode],
    }
    result = DataParallelTrainer(
        train,
        train_loop_config=config,
        scaling_config=ray.train.ScalingConfig(num_workers=1),
        run_config=ray.train.RunConfig(
            name="job",
            storage_path=str(tmp_path / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=1),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    ).fit()
    assert result.error is None
    assert (tmp_path / "killed").exists()
    assert result.metrics["total"] == sum(range(STEPS))
    assert result.metrics["start"] > 0
    assert [manifest.id.step for manifest in history(run)] == [5, 4]
    assert history(run)[0].metrics["total"] == sum(range(STEPS))
    with restored(result.checkpoint, run) as folder:
        assert (folder / "state.txt").read_text() == f"{STEPS} {sum(range(STEPS))}"
    with (
        pytest.raises(ConfigError, match="not uploaded by ckptsync"),
        restored(ray.train.Checkpoint(str(tmp_path)), run),
    ):
        pass
