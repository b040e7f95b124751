"""What TensorFlow writes into a directory: when it becomes a snapshot, and what it is when it comes back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import numpy as np
import tensorflow as tf

from ckptsync import LatestN
from ckptsync.errors import ConfigError, FencedError, IncompleteError
from ckptsync.events import Event, Kind
from ckptsync.integrations.tensorflow import CheckpointDirectory
from ckptsync.run import open_run
from ckptsync.snapshot.manifest import Manifest
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify

VALUES = 100_000


class Job:
    """A loop with one variable."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.value = tf.Variable(tf.zeros(VALUES))
        self.checkpoint = tf.train.Checkpoint(value=self.value)
        self.manager = tf.train.CheckpointManager(self.checkpoint, str(folder), **{"max_to_keep": 3} | options)

    def write(self, step: int) -> str:
        """Write a checkpoint, the content of which is its step."""
        self.value.assign(tf.fill((VALUES,), float(step)))
        return str(self.manager.save(checkpoint_number=step))


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    return str(tmp_path / "bucket")


@pytest.fixture
def synced(bucket: str, folder: Path) -> Iterator[CheckpointDirectory]:
    with CheckpointDirectory(bucket, folder) as opened:
        yield opened


def manifests(run: str) -> list[Manifest]:
    """Of all snapshots, the newest first."""
    with open_run(run) as opened:
        found = list(opened.catalog.history())
        assert not any(verify(opened, manifest.snapshot).bad for manifest in found)
        return found


def paths(manifest: Manifest) -> set[str]:
    return {file.path for file in manifest.files}


def restored(run: str, folder: Path) -> float:
    """What TensorFlow loads from an empty directory after a restore."""
    with CheckpointDirectory(run, folder) as opened:
        opened.restore()
    job = Job(folder)
    latest = tf.train.latest_checkpoint(str(folder))
    assert latest is not None
    assert latest == job.manager.latest_checkpoint
    assert latest.startswith(str(folder))
    job.checkpoint.restore(latest).assert_consumed()
    assert len(np.unique(job.value.numpy())) == 1
    return float(job.value.numpy()[0])


def test_it_comes_back_wherever_the_run_is(url: str, folder: Path, tmp_path: Path) -> None:
    with CheckpointDirectory(url, folder, keep=LatestN(2)) as synced:
        assert synced.restore() is None
        job = Job(folder)
        for step in (10, 20, 30):
            job.write(step)
            assert synced.save(metrics={"loss": 1 / step})
    newest, before = manifests(url)
    assert (newest.id.step, before.id.step) == (30, 20)
    assert newest.metrics["loss"] == pytest.approx(1 / 30)
    assert paths(newest) == {"checkpoint"} | {
        f"ckpt-{step}.{end}" for step in (10, 20, 30) for end in ("index", "data-00000-of-00001")
    }
    assert newest.cost.bytes_reused >= 2 * 4 * VALUES  # the older two
    assert newest.cost.bytes_sent < 1.5 * 4 * VALUES
    assert restored(url, tmp_path / "elsewhere") == 30
    assert Job(tmp_path / "elsewhere").manager.checkpoints == [
        str(tmp_path / f"elsewhere/ckpt-{step}") for step in (10, 20, 30)
    ]


def test_what_is_half_written_is_no_snapshot(synced: CheckpointDirectory, folder: Path, bucket: str) -> None:
    job = Job(folder)
    name = Path(job.write(1))
    assert synced.save()
    synced.wait()
    job.write(2)
    for end in (".index", ".data-00000-of-00001"):
        file = folder / f"ckpt-2{end}"
        file.rename(folder / "aside")
        with pytest.raises(IncompleteError, match="ckpt-2"):
            synced.save()
        (folder / "aside").rename(file)
    (folder / "ckpt-2.data-00000-of-00001").rename(folder / "ckpt-2.data-00000-of-00002")
    with pytest.raises(IncompleteError, match="data-00001-of-00002"):
        synced.save()
    shutil.copyfile(folder / "ckpt-2.index", folder / "ckpt-3.index")  # begun, and not yet listed
    assert [manifest.id.step for manifest in manifests(bucket)] == [1]
    assert name.name == "ckpt-1"


def test_one_that_was_begun_waits_for_the_next_save(synced: CheckpointDirectory, folder: Path, bucket: str) -> None:
    Job(folder).write(1)
    shutil.copyfile(folder / "ckpt-1.index", folder / "ckpt-2.index")
    (folder / "ckpt-2_temp").mkdir()
    (folder / "ckpt-2_temp/part-00000-of-00001.data-00000-of-00001").write_bytes(b"half")
    (folder / "events.out.tfevents.1").write_bytes(b"another's")
    assert synced.save()
    synced.wait()
    (manifest,) = manifests(bucket)
    assert paths(manifest) == {"checkpoint", "ckpt-1.index", "ckpt-1.data-00000-of-00001"}


def test_nothing_new_is_not_saved_again(synced: CheckpointDirectory, folder: Path, bucket: str) -> None:
    folder.mkdir()
    assert not synced.save()  # nothing is there at all
    job = Job(folder)
    job.write(1)
    assert [synced.save(), synced.save()] == [True, False]
    synced.wait()
    assert not synced.save()
    synced.restore()
    assert not synced.save()
    job.write(2)
    assert synced.save()
    synced.wait()
    assert len(manifests(bucket)) == 2


def test_a_listed_one_that_was_deleted_is_left_out(
    synced: CheckpointDirectory, folder: Path, bucket: str, tmp_path: Path
) -> None:
    job = Job(folder)
    for step in (1, 2, 3):
        job.write(step)
    (folder / "ckpt-2.index").unlink()
    assert synced.save()
    synced.wait()
    assert restored(bucket, tmp_path / "elsewhere") == 3
    again = Job(tmp_path / "elsewhere").manager
    assert [Path(name).name for name in again.checkpoints] == ["ckpt-1", "ckpt-3"]
    state = tf.train.get_checkpoint_state(str(tmp_path / "elsewhere"))
    assert state is not None
    assert len(state.all_model_checkpoint_timestamps) == 2


@pytest.mark.parametrize("moves", [False, True], ids=["where it was", "moved"])
def test_absolute_paths_lead_to_where_it_is_restored(
    bucket: str,
    folder: Path,
    tmp_path: Path,
    moves: bool,  # noqa: FBT001  parametrized
) -> None:
    job = Job(folder)
    names = [job.write(step) for step in (1, 2)]
    tf.compat.v1.train.update_checkpoint_state(str(folder), names[-1], list(names))
    assert f'"{folder}/ckpt-2"' in (folder / "checkpoint").read_text()
    if moves:
        folder = folder.rename(tmp_path / "moved")
    with CheckpointDirectory(bucket, folder) as synced:
        assert synced.save()
    shutil.rmtree(folder)
    assert restored(bucket, tmp_path / "elsewhere") == 2


@pytest.mark.parametrize("name", ['q"uote', "häß lich", "a/b/c"])
def test_names_are_what_they_are(bucket: str, folder: Path, tmp_path: Path, name: str) -> None:
    job = Job(folder)
    job.value.assign(tf.fill((VALUES,), 7.0))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    written = job.checkpoint.save(str(folder / name))
    if "/" in name:  # TensorFlow keeps its file beside the checkpoint
        tf.compat.v1.train.update_checkpoint_state(str(folder), written, [written])
    with CheckpointDirectory(bucket, folder) as synced:
        assert synced.save()
        assert synced.restore() == 1
    assert restored(bucket, tmp_path / "elsewhere") == 7


def test_paths_that_lead_elsewhere_are_refused(synced: CheckpointDirectory, folder: Path, tmp_path: Path) -> None:
    job = Job(tmp_path / "other")
    written = job.write(1)
    folder.mkdir()
    for path in (written, "../other/ckpt-1"):
        (folder / "checkpoint").write_text(f'model_checkpoint_path: "{path}"\n')
        with pytest.raises(ConfigError, match="is not in"):
            synced.save()
    for content in ("", "torn", 'model_checkpoint_path: "\\x"', b"\xff\xfe".decode("latin-1")):
        (folder / "checkpoint").write_text(content, encoding="latin-1")
        with pytest.raises(ConfigError, match="is not TensorFlow's"):
            synced.save()


def test_what_is_deleted_and_overwritten_meanwhile_is_saved_as_it_was(
    bucket: str, folder: Path, tmp_path: Path
) -> None:
    goes_on, began = threading.Event(), threading.Event()

    def hold_up(event: Event) -> None:
        if event.kind == Kind.PLANNED:
            began.set()
            assert goes_on.wait(60)

    job = Job(folder, max_to_keep=1)
    with CheckpointDirectory(bucket, folder, observer=hold_up) as synced:
        job.write(1)
        assert synced.save()
        assert began.wait(60)
        job.value.assign(tf.ones(VALUES) * 99)
        job.manager.save(checkpoint_number=1)  # the same again: the index is written in place
        job.write(2)
        assert not list(folder.glob("ckpt-1*"))
        goes_on.set()
    assert restored(bucket, tmp_path / "elsewhere") == 1


def test_what_went_wrong_is_raised_by_the_next_call_and_at_the_end(bucket: str, folder: Path, tmp_path: Path) -> None:
    job = Job(folder)
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("x")
    synced = CheckpointDirectory(bucket, folder)
    job.write(1)
    synced.save()
    synced.wait()
    with open_run(bucket) as run:
        save(run, other, step=5)  # a newer writer
    job.write(2)
    assert synced.save()
    job.write(3)
    with pytest.raises(FencedError):
        synced.save()
    assert synced.save()
    with pytest.raises(FencedError):
        synced.close()
    assert [manifest.id.step for manifest in manifests(bucket)] == [5, 1]


def test_the_step_may_be_told(synced: CheckpointDirectory, folder: Path, bucket: str) -> None:
    checkpoint = tf.train.Checkpoint(value=tf.Variable(1.0))
    tf.train.Checkpoint.write(checkpoint, str(folder / "weights"))
    tf.compat.v1.train.update_checkpoint_state(str(folder), str(folder / "weights"))
    with pytest.raises(ConfigError, match="step"):
        synced.save()
    assert synced.save(step=12)
    synced.wait()
    assert [manifest.id.step for manifest in manifests(bucket)] == [12]


def test_tensorflow_is_not_imported() -> None:
    script = (
        "import sys, ckptsync.integrations.tensorflow; assert not {'tensorflow', 'numpy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_what_tensorflow_writes_behind_the_loops_back_is_saved_when_it_is_whole(
    synced: CheckpointDirectory, folder: Path, bucket: str, tmp_path: Path
) -> None:
    folder.mkdir()
    job = Job(folder, max_to_keep=1)
    options = tf.train.CheckpointOptions(experimental_enable_async_checkpoint=True)
    for step in (1, 2, 3, 4):
        job.value.assign(tf.fill((VALUES,), float(step)))
        job.manager.save(checkpoint_number=step, options=options)
        synced.save()
    job.checkpoint.sync()
    synced.save()
    synced.wait()
    assert manifests(bucket)[0].id.step == 4
    assert restored(bucket, tmp_path / "elsewhere") == 4
