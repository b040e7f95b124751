"""`fit` with a backup in a run: what is in a snapshot, and what a model is like after it came back."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import tensorflow as tf

from ckptsync import CkptsyncError, LatestN, history
from ckptsync.errors import FencedError
from ckptsync.integrations.keras import SEEDS, BackupAndRestore
from ckptsync.readiness.keras import METADATA, WEIGHTS
from ckptsync.run import open_run
from ckptsync.verbs.save import save
from ckptsync.verbs.verify import verify

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras' variables
INPUTS = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
BATCHES = 4


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CKPTSYNC_STATE_DIR", str(tmp_path / "state"))
    tf.config.experimental.enable_op_determinism()


@pytest.fixture
def bucket(tmp_path: Path) -> str:
    return str(tmp_path / "bucket")


def made() -> keras.Model:
    """A model that draws random numbers."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(16),
            keras.layers.Dropout(0.5),
            keras.layers.GaussianNoise(0.1),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    return model


def fit(model: keras.Model, epochs: int, *callbacks: keras.callbacks.Callback) -> list[float]:
    """Losses of the epochs that were trained."""
    found = model.fit(
        INPUTS,
        INPUTS[:, :1],
        epochs=epochs,
        batch_size=64 // BATCHES,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )
    return list(found.history.get("loss", []))


class Interrupt(keras.callbacks.Callback):
    """Fails when an epoch begins."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        del logs
        if epoch == self.at:
            raise KeyboardInterrupt


def weights(model: keras.Model) -> bytes:
    return b"".join(weight.tobytes() for weight in model.get_weights())


def test_a_fit_goes_on_in_an_empty_directory(bucket: str, tmp_path: Path) -> None:
    unbroken = made()
    losses = fit(unbroken, 6)
    first = BackupAndRestore(bucket, tmp_path / "a", keep=LatestN(2))
    with pytest.raises(KeyboardInterrupt):
        fit(made(), 6, first, Interrupt(at=4))
    first.synced.close()
    newest, before = history(bucket)
    assert (newest.id.step, before.id.step) == (4 * BATCHES, 3 * BATCHES)
    assert newest.metrics["loss"] == pytest.approx(losses[3])
    assert set(newest.metrics) == {"loss", "mae"}
    assert {file.path for file in newest.files} == {WEIGHTS, METADATA, SEEDS}
    with open_run(bucket) as run:
        assert not verify(run).bad
    again, second = made(), BackupAndRestore(bucket, tmp_path / "b")
    assert fit(again, 6, second) == losses[4:]
    assert weights(again) == weights(unbroken)
    assert not (tmp_path / "b").exists()  # so Keras does, when all is done
    assert len(fit(made(), 2, second)) == 2  # another fit begins anew
    second.synced.close()


def test_a_backup_amid_an_epoch_is_saved_when_it_is_written(bucket: str, tmp_path: Path) -> None:
    callback = BackupAndRestore(bucket, tmp_path / "a", save_freq=3, delete_checkpoint=False, double_checkpoint=True)
    fit(made(), 3, callback)
    callback.synced.close()
    assert [manifest.id.step for manifest in history(bucket)] == [12, 9, 6, 3]
    assert (tmp_path / "a" / WEIGHTS).exists()
    assert {f"{WEIGHTS}.bkp", f"{METADATA}.bkp"} <= {file.path for file in history(bucket)[0].files}


def test_other_random_layers_begin_anew(bucket: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    callback = BackupAndRestore(bucket, tmp_path / "a", delete_checkpoint=False)
    fit(made(), 1, callback)
    callback.synced.close()
    with open_run(bucket) as run:
        (tmp_path / "a" / SEEDS).write_text(json.dumps({"seeds": [[1, 2]]}))
        save(run, tmp_path / "a", step=99)
    second = BackupAndRestore(bucket, tmp_path / "b")
    fit(made(), 2, second)
    second.synced.close()
    assert "begin anew" in caplog.text


def test_what_went_wrong_stops_the_fit(bucket: str, tmp_path: Path) -> None:
    class Overtaken(keras.callbacks.Callback):
        """A newer writer comes."""

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            del logs
            if epoch == 2:
                with open_run(bucket) as run:
                    callback.synced.wait()
                    save(run, tmp_path / "a", step=1000)

    callback = BackupAndRestore(bucket, tmp_path / "a")
    with pytest.raises(FencedError):
        fit(made(), 6, callback, Overtaken())
    callback.synced.close()
    assert [manifest.id.step for manifest in history(bucket)] == [1000, 2 * BATCHES, BATCHES]


def test_without_keras_one_sentence_says_what_to_install() -> None:
    script = "import sys; sys.modules['keras'] = None; import ckptsync.integrations.keras"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert f"{CkptsyncError.__module__}.ConfigError: Keras 3 is missing" in found.stderr
    assert found.stderr.strip().endswith("pip install 'ckptsync[tensorflow]'")
