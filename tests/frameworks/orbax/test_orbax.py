"""Directories that orbax writes."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from ckptsync import LatestN
from ckptsync.integrations.orbax import CheckpointDirectory
from ckptsync.run import open_run
from ckptsync.verbs.verify import verify


def manager(folder: Path, *, keep: int = 2) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(folder, options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True))


def state(step: int) -> dict[str, jax.Array]:
    return {"weights": jax.numpy.arange(1000.0) * step, "step": jax.numpy.asarray(step)}


def test_it_comes_back_into_an_empty_directory(url: str, tmp_path: Path) -> None:
    with CheckpointDirectory(url, tmp_path / "a", keep=LatestN(2)) as synced:
        assert synced.restore() is None
        with manager(tmp_path / "a", keep=1) as writing:
            for step in (1, 2, 3):
                assert writing.save(step, args=ocp.args.StandardSave(state(step)))
                synced.save()  # of the one before, which may be deleted meanwhile
            writing.wait_until_finished()
            synced.save()
    with open_run(url) as run:
        assert not verify(run).bad
        steps = [manifest.id.step for manifest in run.catalog.history()]
    assert steps[0] == 3
    with CheckpointDirectory(url, tmp_path / "b") as synced:
        assert synced.restore() == 3
        assert not synced.save()
    with manager(tmp_path / "b") as reading:
        assert reading.latest_step() == 3
        found = reading.restore(3, args=ocp.args.StandardRestore(state(0)))
    assert np.array_equal(found["weights"], state(3)["weights"])


def test_a_step_that_is_still_being_written_is_no_snapshot(tmp_path: Path) -> None:
    with CheckpointDirectory(tmp_path / "bucket", tmp_path / "a") as synced:
        (tmp_path / "a/5.orbax-checkpoint-tmp").mkdir(parents=True)
        (tmp_path / "a/5.orbax-checkpoint-tmp/_CHECKPOINT_METADATA").write_text("{}")
        assert not synced.save()
        with manager(tmp_path / "a") as writing:
            writing.save(4, args=ocp.args.StandardSave(state(4)))
            writing.wait_until_finished()
        assert synced.save()
        synced.wait()
    with open_run(tmp_path / "bucket") as run:
        (manifest,) = run.catalog.history()
    assert manifest.id.step == 4
    assert {file.path.partition("/")[0] for file in manifest.files} == {"4"}
