"""What TensorFlow and Keras write, watched without a pause: whatever is called whole can be loaded."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import tensorflow as tf
from frameworks.tensorflow.test_checkpoint_directories import Job
from frameworks.tensorflow.test_keras_backup import INPUTS, fit, made
from support.watching import Watching

from ckptsync.readiness.keras import WEIGHTS

pytestmark = [
    pytest.mark.req(12),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # Keras' variables
]


def test_every_checkpoint_of_tensorflow_that_is_whole_can_be_loaded(tmp_path: Path) -> None:
    with Watching(tmp_path / "watched", tmp_path / "taken") as watching:
        job = Job(tmp_path / "watched", max_to_keep=2)
        for step in range(1, 21):
            job.write(step)
    assert {ready.rule for ready, _ in watching.taken} == {"tensorflow"}
    assert watching.taken[-1][0].step == 20
    for ready, place in watching.taken:
        for path, content in ready.replaced.items():
            (place / path).write_bytes(content)
        again = Job(place, max_to_keep=2)
        again.checkpoint.restore(tf.train.latest_checkpoint(str(place))).assert_consumed()
        assert np.unique(again.value.numpy()).tolist() == [ready.step]


def test_every_backup_of_keras_that_is_whole_can_be_loaded(tmp_path: Path) -> None:
    backup = keras.callbacks.BackupAndRestore(str(tmp_path / "watched"), save_freq=1, delete_checkpoint=False)
    with Watching(tmp_path / "watched", tmp_path / "taken") as watching:
        fit(made(), 5, backup)
    assert {ready.rule for ready, _ in watching.taken} == {"keras"}
    for _, place in watching.taken:
        model = made()
        model.fit(INPUTS[:1], INPUTS[:1, :1], verbose=0)  # its optimizer has variables only then
        model.load_weights(place / WEIGHTS)
