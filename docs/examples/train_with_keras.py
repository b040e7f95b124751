"""A Keras `fit` that survives its machine: what `BackupAndRestore` backs up is kept in a bucket.

Start it as `python train_with_keras.py --run s3://bucket/run --dir backup`, on any machine, as often as it is killed.
"""

from __future__ import annotations

import argparse
import hashlib

import keras
import numpy as np
import tensorflow as tf

from ckptsync import LatestN
from ckptsync.integrations.keras import BackupAndRestore


class Printed(keras.callbacks.Callback):
    """Tells how far it is."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Print an epoch."""
        print(f"step {epoch} loss {(logs or {})['loss']:.6f}", flush=True)


def main() -> None:
    """Train, and back up every epoch behind the training's back."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True, help="where snapshots are kept: s3://, gs:// or a directory")
    parser.add_argument("--dir", required=True, help="where Keras writes its backup")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args()

    keras.utils.set_random_seed(0)
    tf.config.experimental.enable_op_determinism()
    inputs = np.random.default_rng(0).normal(size=(256, 32)).astype("float32")
    wanted = np.sin((inputs**2).mean(axis=1, keepdims=True))
    model = keras.Sequential(
        [
            keras.Input((32,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(1),
        ]
    )
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    model.fit(
        inputs,
        wanted,
        epochs=options.epochs,
        shuffle=False,  # Keras does not back up how far a shuffle is
        verbose=0,
        callbacks=[BackupAndRestore(options.run, options.dir, keep=LatestN(3)), Printed()],
    )
    content = b"".join(weight.tobytes() for weight in model.get_weights())
    print(f"done {hashlib.sha256(content).hexdigest()}", flush=True)


if __name__ == "__main__":
    main()
